"""The peers and orderers that run in a cluster: where each runs, and since when its volume is claimed."""

from __future__ import annotations

from gxbackup.adapters.cluster import Cluster, is_ours
from gxbackup.ledger_watch import LedgerPod, Watched


def look(cluster: Cluster, watched: Watched) -> tuple[LedgerPod, ...]:
    """Return the pods that have a node and have not ended; CollectError where the API does not answer."""
    created = {claim.name: claim.created for claim in cluster.claims(watched.namespace)}
    return tuple(
        LedgerPod(
            namespace=watched.namespace,
            role=watched.role,
            name=pod.name,
            node=pod.node,
            claimed_at=max((created[claim] for claim in pod.claims if claim in created), default=None),
        )
        for pod in cluster.pods(watched.namespace, watched.selector)
        if pod.node and pod.state not in ("Succeeded", "Failed") and not is_ours(pod)
    )
