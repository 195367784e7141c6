"""
The Kubernetes cluster that KUBECONFIG names: pods as places, StatefulSets stopped and started, a look into a claim.

Imports `kubernetes` only once a cluster is really asked: it costs a second.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import Field

from gxbackup.adapters.kubernetes_api import CALL_TIMEOUT_SECONDS, apps, asking, connect, core
from gxbackup.adapters.pod_mounts import PodMount, claims_of, mounts_of
from gxbackup.adapters.pods import PodPlace
from gxbackup.errors import BackupError, RestoreError, SourceMissingError
from gxbackup.model import Frozen

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

POLL_SECONDS = 0.25
OURS = {"app.kubernetes.io/managed-by": "gx-backup"}
# A helper pod whose worker was killed ends itself.
HELPER_LIFETIME_SECONDS = 24 * 3600
CLAIM_FOLDER = "/gx-claim"


class Pod(Frozen):
    """A pod, as far as sources need it."""

    namespace: str
    name: str
    uid: str
    node: str | None
    ready: bool
    ready_containers: tuple[str, ...] = Field(default=(), description="those that are, maybe beside one that is not")
    state: str = Field(description="its phase, or why it is not ready: Running, CrashLoopBackOff")
    containers: tuple[str, ...]
    images: tuple[str, ...]
    labels: dict[str, str]
    claims: dict[str, str] = Field(
        description="name of each claim it mounts → its folder; empty where it is mounted by subPath alone"
    )
    mounts: tuple[PodMount, ...] = Field(default=(), description="all that its containers mount")
    is_made_again: bool = Field(default=True, description="by what made it, where it is deleted")


class Claim(Frozen):
    """A claim, as far as sources need it."""

    name: str
    phase: str = Field(description="Bound; Pending: nothing was ever written to it")
    created: datetime


class Cluster:
    """One cluster, by the kubeconfig that KUBECONFIG names."""

    @contextmanager
    def api(self) -> Iterator[ApiClient]:
        """
        Give a client of one's own: exec changes it while it runs.

        Raises: SetupError where there is no usable kubeconfig; what the block does is translated by `asking`.
        """
        with connect() as client:
            yield client

    def pods(self, namespace: str, selector: str = "") -> tuple[Pod, ...]:
        """Return the pods of a namespace, by name; CollectError where the API does not answer."""
        with self.api() as api, asking(f"pods of {namespace}"):
            listed = core(api).list_namespaced_pod(
                namespace, label_selector=selector, _request_timeout=CALL_TIMEOUT_SECONDS
            )
            return tuple(sorted((_pod(item) for item in listed.items), key=lambda pod: pod.name))

    def claims(self, namespace: str) -> tuple[Claim, ...]:
        """Return the claims of a namespace, by name; CollectError where the API does not answer."""
        with self.api() as api, asking(f"claims of {namespace}"):
            listed = core(api).list_namespaced_persistent_volume_claim(namespace, _request_timeout=CALL_TIMEOUT_SECONDS)
            found = [
                Claim(name=item.metadata.name, phase=item.status.phase, created=item.metadata.creation_timestamp)
                for item in listed.items
            ]
            return tuple(sorted(found, key=lambda one: one.name))

    def place(
        self, namespace: str, pod: str | None = None, selector: str | None = None, container: str | None = None
    ) -> PodPlace:
        """
        Return the one pod of this name, or with these labels, as a place; a container that fails beside costs nothing.

        Raises: SourceMissingError where there is none, more than one, its container is not told, or is not ready.
        """
        what = f"pod {namespace}/{pod}" if pod else f"pod {namespace} ({selector})"
        found = [
            one for one in self.pods(namespace, selector or "") if (pod is None or one.name == pod) and not is_ours(one)
        ]
        if not found:
            raise SourceMissingError(f"{what}: expected, seen none", f"`kubectl get pods -n {namespace}` lists them")
        if len(found) > 1:
            raise SourceMissingError(
                f"{what}: expected one, seen {len(found)}: {', '.join(one.name for one in found)}",
                "name the pod in the inventory, or select it by more labels",
            )
        chosen = found[0]
        if container is None and len(chosen.containers) > 1:
            raise SourceMissingError(
                f"{what}: has the containers {', '.join(chosen.containers)}", "name one as source.container"
            )
        if container is not None and container not in chosen.containers:
            raise SourceMissingError(f"{what}: expected container {container!r}, seen {', '.join(chosen.containers)}")
        name = container or chosen.containers[0]
        if not (chosen.ready or name in chosen.ready_containers):
            raise SourceMissingError(
                f"{what}: expected ready, seen {chosen.state}",
                f"`kubectl describe pod -n {namespace} {chosen.name}` tells why",
                retryable=True,
            )
        return PodPlace(self.api, namespace, chosen.name, name)

    def secret(self, namespace: str, name: str) -> dict[str, bytes]:
        """Return a Secret's values; they stay in memory. Raises SourceMissingError where there is none."""
        with self.api() as api, asking(f"secret {namespace}/{name}"):
            found = core(api).read_namespaced_secret(name, namespace, _request_timeout=CALL_TIMEOUT_SECONDS)
            return {key: base64.b64decode(value) for key, value in (found.data or {}).items()}

    def endpoint(self, namespace: str, service: str, port: int) -> str:
        """Return `http://ADDRESS:PORT` of a Service as a node reaches it; SourceMissingError where nobody serves it."""
        with self.api() as api, asking(f"service {namespace}/{service}"):
            found = core(api).read_namespaced_service(service, namespace, _request_timeout=CALL_TIMEOUT_SECONDS)
            address = found.spec.cluster_ip
            if address in (None, "None"):
                listed = core(api).read_namespaced_endpoints(service, namespace, _request_timeout=CALL_TIMEOUT_SECONDS)
                ready = [one.ip for subset in listed.subsets or () for one in subset.addresses or ()]
                if not ready:
                    raise SourceMissingError(
                        f"service {namespace}/{service}: no pod behind it is ready", retryable=True
                    )
                address = ready[0]
            return f"http://{f'[{address}]' if ':' in address else address}:{port}"

    def replicas(self, namespace: str, name: str) -> int:
        """Return how many pods a StatefulSet should have."""
        with self.api() as api, asking(f"statefulset {namespace}/{name}"):
            scale = apps(api).read_namespaced_stateful_set_scale(name, namespace, _request_timeout=CALL_TIMEOUT_SECONDS)
            return int(scale.spec.replicas or 0)

    def scale(self, namespace: str, name: str, replicas: int, timeout_seconds: float = 600) -> None:
        """
        Give a StatefulSet so many pods, and return once no other is left and all of them are ready.

        Raises: RestoreError where that takes longer; the StatefulSet is left as asked.
        """
        with self.api() as api, asking(f"statefulset {namespace}/{name}"):
            apps(api).patch_namespaced_stateful_set_scale(
                name, namespace, {"spec": {"replicas": replicas}}, _request_timeout=CALL_TIMEOUT_SECONDS
            )
        prefix = f"{name}-"

        def settled() -> bool:
            own = [pod for pod in self.pods(namespace) if pod.name.removeprefix(prefix).isdigit()]
            return len(own) == replicas and all(pod.ready for pod in own)

        _await(f"statefulset {namespace}/{name}: {replicas} ready pods", settled, timeout_seconds)

    def owner(self, namespace: str, pod: str) -> str:
        """Return the name of the StatefulSet that a pod belongs to; SourceMissingError where it belongs to none."""
        with self.api() as api, asking(f"pod {namespace}/{pod}"):
            found = core(api).read_namespaced_pod(pod, namespace, _request_timeout=CALL_TIMEOUT_SECONDS)
            for owner in found.metadata.owner_references or ():
                if owner.kind == "StatefulSet":
                    return str(owner.name)
        raise SourceMissingError(f"pod {namespace}/{pod}: expected one of a StatefulSet")

    @contextmanager
    def claim_place(
        self, namespace: str, claim: str, image: str, timeout_seconds: float = 300, node: str | None = None,
        read_only: bool = False,
    ) -> Iterator[PodPlace]:  # fmt: skip
        """
        Run a pod of ours on a claim that nobody uses now, mounted at CLAIM_FOLDER; it is deleted with the block.

        Beside pods that use it, `node` is theirs. The image is one that the node has already: the stopped server's own.
        Pods that a killed run left on the claim are deleted first. Raises: RestoreError where it does not start.
        """
        for left in self.pods(namespace, ",".join(f"{key}={value}" for key, value in OURS.items())):
            if claim in left.claims:
                self.delete_pod(namespace, left.name)
        name = f"gx-backup-{secrets.token_hex(4)}"
        with self.api() as api, asking(f"pod {namespace}/{name}"):
            core(api).create_namespaced_pod(
                namespace, _helper(name, claim, image, node, read_only), _request_timeout=CALL_TIMEOUT_SECONDS
            )
        try:
            _await(
                f"pod {namespace}/{name} on claim {claim}",
                lambda: any(pod.ready for pod in self.pods(namespace) if pod.name == name),
                timeout_seconds,
            )
            yield PodPlace(self.api, namespace, name, "claim")
        finally:
            self.delete_pod(namespace, name)

    def delete_pod(self, namespace: str, name: str, timeout_seconds: float = 120) -> None:
        """Delete a pod and return once it is gone; one that a controller made in its place is another pod."""
        from kubernetes.client import ApiException

        gone = {pod.uid for pod in self.pods(namespace) if pod.name == name}
        with self.api() as api, asking(f"pod {namespace}/{name}"):
            try:
                core(api).delete_namespaced_pod(name, namespace, _request_timeout=CALL_TIMEOUT_SECONDS)
            except ApiException as error:
                if error.status != 404:
                    raise
        _await(
            f"pod {namespace}/{name} deleted",
            lambda: all(pod.uid not in gone for pod in self.pods(namespace)),
            timeout_seconds,
        )


def _await(what: str, ready: Callable[[], bool], timeout_seconds: float) -> None:
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            if ready():
                return
        except BackupError as error:
            if not error.retryable or time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            raise RestoreError(f"{what}: expected within {timeout_seconds:g} s", "`kubectl get events -A` tells why")
        time.sleep(POLL_SECONDS)


def is_ours(pod: Pod) -> bool:
    """Tell whether a pod is one that `claim_place` made."""
    return OURS.items() <= pod.labels.items()


def _pod(item: Any) -> Pod:
    statuses = item.status.container_statuses or ()
    waiting = [one.state.waiting.reason for one in statuses if one.state and one.state.waiting]
    being_deleted = item.metadata.deletion_timestamp is not None
    ready = () if being_deleted else tuple(one.name for one in statuses if one.ready)
    return Pod(
        namespace=item.metadata.namespace,
        name=item.metadata.name,
        uid=item.metadata.uid,
        node=item.spec.node_name,
        ready=0 < len(statuses) == len(ready),
        ready_containers=ready,
        state="Terminating" if being_deleted else next(iter(waiting), None) or item.status.phase,
        containers=tuple(one.name for one in item.spec.containers),
        images=tuple(one.image for one in item.spec.containers),
        labels=item.metadata.labels or {},
        claims=claims_of(item),
        mounts=mounts_of(item),
        is_made_again=bool(item.metadata.owner_references),
    )


def _helper(name: str, claim: str, image: str, node: str | None, read_only: bool) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": OURS},
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": HELPER_LIFETIME_SECONDS,
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "containers": [
                {
                    "name": "claim",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["sh", "-c", f"sleep {HELPER_LIFETIME_SECONDS}"],
                    "securityContext": {"runAsUser": 0},
                    "volumeMounts": [{"name": "claim", "mountPath": CLAIM_FOLDER, "readOnly": read_only}],
                }
            ],
            "volumes": [{"name": "claim", "persistentVolumeClaim": {"claimName": claim}}],
        },
    }
