"""A Redis in a pod of a StatefulSet: stopped and started by its number of pods, its data reached through its claim."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from gxbackup.adapters.cluster import CLAIM_FOLDER, Cluster, Pod
from gxbackup.errors import RestoreError, RestoreRefusedError, SourceMissingError
from gxbackup.ports import Place
from gxbackup.redis.server import RedisServer

APPEAR_TIMEOUT_SECONDS = 120
START_TIMEOUT_SECONDS = 900


class PodTarget:
    """See `restore.Target`."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        pod: str,
        container: str | None,
        folder: str,
        connect: Callable[[Place], RedisServer],
    ) -> None:
        self._connect = connect
        self._cluster = cluster
        self._namespace = namespace
        self._pod = pod
        self._container = container
        self._found: Pod | None = None
        self._folder = folder

    @property
    def name(self) -> str:
        """See `restore.Target`."""
        return f"pod {self._namespace}/{self._pod}"

    @property
    def folder(self) -> str:
        """See `restore.Target`."""
        return self._folder

    @property
    def stateful_set(self) -> str:
        """Return the StatefulSet that the pod's name tells."""
        name, _, number = self._pod.rpartition("-")
        if not number.isdigit():
            raise RestoreRefusedError(
                f"{self.name}: expected a pod of a StatefulSet, named NAME-0", "stop, copy and start it by hand"
            )
        return name

    def replicas(self) -> int:
        """Return its number of pods; RestoreRefusedError where it has more than one: they hold one dataset together."""
        replicas = self._cluster.replicas(self._namespace, self.stateful_set)
        if replicas > 1:
            raise RestoreRefusedError(
                f"{self.name}: expected the only pod of statefulset {self.stateful_set}, seen {replicas}",
                "replicas copy from their primary: give it one pod first, restore, then scale it up again",
            )
        return replicas

    def server(self) -> RedisServer:
        """See `restore.Target`."""
        return self._connect(self._cluster.place(self._namespace, self._pod, None, self._container))

    def require_stoppable(self) -> None:
        """See `restore.Target`."""
        if self.replicas():
            self.claim()

    def stop(self) -> None:
        """See `restore.Target`."""
        replicas = self.replicas()
        if self._find() is None and replicas == 0:
            # A killed restore left it stopped; what its pod looks like is told by the pod alone.
            with suppress(RestoreError):
                self._cluster.scale(self._namespace, self.stateful_set, 1, APPEAR_TIMEOUT_SECONDS)
        self.claim()
        self._cluster.scale(self._namespace, self.stateful_set, 0)

    def start(self) -> None:
        """See `restore.Target`."""
        self._cluster.scale(self._namespace, self.stateful_set, 1, START_TIMEOUT_SECONDS)

    @contextmanager
    def data(self) -> Iterator[tuple[Place, str]]:
        """See `restore.Target`."""
        claim, image, folder = self.claim()
        with self._cluster.claim_place(self._namespace, claim, image) as place:
            yield place, folder

    def claim(self) -> tuple[str, str, str]:
        """
        Return the claim that holds the data, the image that reads it, and the data's folder on it.

        Raises: RestoreRefusedError where it lies on no claim; SourceMissingError where there is no pod to tell.
        """
        found = self._find()
        if found is None:
            raise SourceMissingError(f"{self.name}: expected, seen none")
        if self._container and self._container not in found.containers:
            raise RestoreRefusedError(
                f"{self.name}: expected container {self._container}, seen {', '.join(found.containers)}",
                "source.container names it",
            )
        number = found.containers.index(self._container) if self._container else 0
        for claim, mounted_at in found.claims.items():
            root = mounted_at.rstrip("/")
            if root and f"{self._folder}/".startswith(f"{root}/"):
                return claim, found.images[number], CLAIM_FOLDER + self._folder.removeprefix(root)
        raise RestoreRefusedError(
            f"{self.name}: expected a claim that holds {self._folder}, seen {found.claims or 'none'}",
            "data on no volume is gone with the pod, and cannot be restored into it",
        )

    def _find(self) -> Pod | None:
        """Return the pod, looked up anew unless it is gone: what it looked like is needed when it is stopped."""
        seen = [pod for pod in self._cluster.pods(self._namespace) if pod.name == self._pod]
        self._found = seen[0] if seen else self._found
        return self._found
