"""
The StatefulSet that a peer or orderer runs in: it stops and starts as a whole, with the others that are in it.

Source: fact B11 (one orderer beside others that moved on, or did not).
"""

from __future__ import annotations

from gxbackup.adapters.cluster import Cluster
from gxbackup.errors import RestoreError, RestoreRefusedError


class LedgerSet:
    """The StatefulSet of one pod."""

    def __init__(self, cluster: Cluster, namespace: str, name: str, pod: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self._pod = pod
        number = pod.removeprefix(f"{name}-")
        if not number.isdigit():
            raise RestoreRefusedError(
                f"{pod}: expected a pod of statefulset {name}, named {name}-0, seen another name",
                "`--mode scratch` proves the copy; RECOVER.md of its snapshot says how to unpack its files",
            )
        # Pods are numbered from 0, and a set has those with the lowest numbers.
        self._least = int(number) + 1

    def replicas(self) -> int:
        """Return how many pods it has now: none where somebody stopped it."""
        return self._cluster.replicas(self._namespace, self._name)

    def enough(self) -> int:
        """Return how many pods it has now, or more, so that this one is among them."""
        return max(self._least, self.replicas())

    def stop(self) -> None:
        """Leave it no pod; see `Cluster.scale`."""
        self._cluster.scale(self._namespace, self._name, 0)

    def start(self, replicas: int) -> None:
        """Give it so many pods, or more so that this one is among them. Raises: RestoreError where it is not ready."""
        count = max(self._least, replicas)
        self._cluster.scale(self._namespace, self._name, count)
        ready = [pod.name for pod in self._cluster.pods(self._namespace) if pod.ready]
        if self._pod not in ready:
            own = [name for name in ready if name.removeprefix(f"{self._name}-").isdigit()]
            raise RestoreError(
                f"{self._pod}: expected ready in statefulset {self._name} of {count} pods, "
                f"seen {', '.join(own) or 'none'}",
                f"`kubectl describe pod -n {self._namespace} {self._pod}` tells why",
            )

    def require_own(self) -> None:
        """Raise RestoreRefusedError where others start with this pod: orderers on their old ledgers beside it."""
        replicas = self.replicas()
        if replicas > 1 or self._least > 1:
            raise RestoreRefusedError(
                f"{self._pod}: expected a StatefulSet of its own, seen {self._name} of {replicas} pods: started, it "
                "would start other orderers on their old ledgers beside the one restored",
                "give each orderer a StatefulSet of its own, on its claim",
                f"or stop the set (`kubectl scale statefulset -n {self._namespace} {self._name} --replicas=0`), put "
                "each of its orderers' copies in by hand as RECOVER.md of the snapshot says, and start it then",
            )
