"""
Where the volume behind a claim lies: a folder of a node, or where the kubelet of this host mounted it for a pod.

A volume of any driver (CSI, NFS, …) is a folder of the node that uses it, as long as a pod uses it. So it is read,
stood still and exchanged as a local one is; no driver is spoken to, and no snapshot class is needed.
Source: kubernetes.io/docs/reference/node/kubelet-files, "Volumes"; the kubelet's GetPodVolumesDir.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gxbackup import mounts
from gxbackup.adapters.cluster import Cluster, is_ours
from gxbackup.adapters.kubernetes_api import CALL_TIMEOUT_SECONDS, asking, core
from gxbackup.errors import RestoreRefusedError, SourceMissingError
from gxbackup.model import Frozen


class Volume(Frozen):
    """The persistent volume that a claim is bound to."""

    name: str
    folder: Path | None  # of a local or hostPath volume, on its node
    driver: str  # local, hostPath, or a CSI driver's name
    nodes: tuple[str, ...]  # that may use it; empty: any


def volume_of(cluster: Cluster, namespace: str, claim: str) -> Volume:
    """Return the volume of a claim; SourceMissingError where there is no such claim or it is not bound."""
    with cluster.api() as api, asking(f"claim {namespace}/{claim}"):
        client = core(api)
        found = client.read_namespaced_persistent_volume_claim(claim, namespace, _request_timeout=CALL_TIMEOUT_SECONDS)
        if not found.spec.volume_name:
            raise SourceMissingError(
                f"claim {namespace}/{claim}: expected bound to a volume, seen {found.status.phase}"
            )
        volume = client.read_persistent_volume(found.spec.volume_name, _request_timeout=CALL_TIMEOUT_SECONDS)
        return _volume(volume)


def mounted_at(volume: Volume, pod_uid: str, kubelet_dir: Path) -> Path:
    """
    Return the folder of this host where a running pod's volume is: its own, or where its driver mounted it.

    Raises: SourceMissingError where it is not mounted here.
    """
    if volume.folder is not None:
        return volume.folder
    there = mounts.points()
    volumes = kubelet_dir.resolve() / "pods" / pod_uid / "volumes"
    for plugin in sorted(volumes.glob("*")):
        for folder in (plugin / volume.name / "mount", plugin / volume.name):  # CSI's, and every other driver's
            if folder in there:
                return folder
    raise SourceMissingError(
        f"volume {volume.name} (driver {volume.driver}): expected mounted below {volumes}, seen no such mount",
        "is the pod on this host's node, and is source.kubelet_dir its kubelet's --root-dir?",
        retryable=True,
    )


def inside(volume: Path, below: str) -> Path:
    """
    Return a folder of a volume, which need not be there.

    Raises: SourceMissingError where a symbolic link, which a pod could have made, leads out of the volume.
    """
    folder = volume / below
    if not (real := folder.resolve()).is_relative_to(volume.resolve()):
        raise SourceMissingError(
            f"{folder}: expected a folder of its volume, seen a link to {real}", "who made that link? look into the pod"
        )
    return folder


def used_at(cluster: Cluster, namespace: str, claim: str, *, node: str, kubelet_dir: Path) -> Path | None:
    """
    Return the folder of this host where a claim's volume is now; None where its driver has mounted it for no pod here.

    Raises: RestoreRefusedError where a local volume is another host's, SourceMissingError.
    """
    volume = volume_of(cluster, namespace, claim)
    if volume.folder is not None:
        users = {pod.node for pod in cluster.pods(namespace) if claim in pod.claims and pod.state == "Running"}
        if users and node not in users:
            raise RestoreRefusedError(
                f"claim {namespace}/{claim}: expected the pod that uses it on node {node}, seen it on "
                f"{', '.join(sorted(map(str, users)))}, where {volume.folder} is another folder",
                "start this restore on that host",
            )
        if volume.folder.is_dir():
            return volume.folder
        raise RestoreRefusedError(
            f"claim {namespace}/{claim}: expected its volume as a folder of this host, seen no {volume.folder}",
            f"start this restore on {', '.join(volume.nodes) or 'the node that holds it'}",
        )
    for pod in cluster.pods(namespace):
        if claim in pod.claims and pod.node == node and not is_ours(pod):
            with suppress(SourceMissingError):  # not mounted yet, or not any more
                return mounted_at(volume, pod.uid, kubelet_dir)
    return None


@contextmanager
def reached(
    cluster: Cluster, namespace: str, claim: str, *, node: str, image: str | None, kubelet_dir: Path
) -> Iterator[Path]:
    """
    Give the folder of this host where the volume of a stopped server's claim is.

    A volume that only its driver can mount is mounted for a pod of ours on this node, which is gone with the block.
    Raises: as `used_at`; RestoreError where that pod does not start.
    """
    folder = used_at(cluster, namespace, claim, node=node, kubelet_dir=kubelet_dir)
    if folder is not None:
        yield folder
        return
    if image is None:
        raise SourceMissingError(
            f"claim {namespace}/{claim}: expected an image that a pod on it can run, seen none in this backup",
            "a backup of this version or later knows it",
        )
    with cluster.claim_place(namespace, claim, image, node=node) as place:
        (uid,) = [pod.uid for pod in cluster.pods(namespace) if pod.name == place.pod]
        yield mounted_at(volume_of(cluster, namespace, claim), uid, kubelet_dir)


def _volume(volume: Any) -> Volume:
    spec = volume.spec
    terms = (spec.node_affinity.required.node_selector_terms if spec.node_affinity else None) or ()
    nodes = [
        value
        for term in terms
        for expression in term.match_expressions or ()
        if expression.key == "kubernetes.io/hostname" and expression.operator == "In"
        for value in expression.values
    ]
    local = spec.local or spec.host_path
    driver = "local" if spec.local else "hostPath" if spec.host_path else spec.csi.driver if spec.csi else "unknown"
    return Volume(
        name=volume.metadata.name, folder=Path(local.path) if local else None, driver=driver, nodes=tuple(nodes)
    )
