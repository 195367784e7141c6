"""Where the volume behind a claim lies: a folder on a node, or something that only its driver knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gxbackup.adapters.cluster import Cluster
from gxbackup.adapters.kubernetes_api import CALL_TIMEOUT_SECONDS, asking, core
from gxbackup.errors import SourceMissingError
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
