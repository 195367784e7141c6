"""
Peers and orderers whose volumes nobody reads. Pure: whoever asked the cluster hands in what was seen.

Each host reads the volumes on its own node. A pod that moved to a node without an entry in the inventory, or is new on
one, is in no host's run, and no run is red for it: only what the newest copies of all servers hold together tells.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from gxbackup import freshness
from gxbackup.health import GRACE, Finding
from gxbackup.inventory import Inventory, Server
from gxbackup.model import Catalog, Frozen

RUNBOOK = "check-backup-health"


class Watched(NamedTuple):
    """Pods of one role in one namespace."""

    namespace: str
    role: str
    selector: str


class LedgerPod(Frozen):
    """A peer or orderer that runs."""

    namespace: str
    role: str
    name: str
    node: str
    claimed_at: datetime | None  # since when its volume is claimed


def watched(inventory: Inventory) -> tuple[Watched, ...]:
    """Return whose pods some entry of the inventory reads."""
    found = dict.fromkeys(
        Watched(source.namespace, source.role, source.selector or f"tier={source.role}")
        for server in inventory.servers.values()
        for promise in server.data_types.values()
        if (source := promise.source).kind == "ledger"
    )
    return tuple(found)


def unread_findings(
    running: Iterable[LedgerPod], catalogs: Iterable[Catalog], inventory: Inventory, now: datetime
) -> list[Finding]:
    """
    Tell which pods no server's newest good copy holds; one that is younger than the promise may not be held yet.

    A pod is unread only where every server that reads ledgers was asked: where one could not be, nothing is told.
    """
    asked = {catalog.server: catalog for catalog in catalogs}
    if any(name not in asked and _reads_ledgers(server) for name, server in inventory.servers.items()):
        return []
    held: set[tuple[str, str, str]] = set()
    retired: set[tuple[str, str, str]] = set()
    promised = timedelta(0)
    for catalog in asked.values():
        for data_type, promise in inventory.server(catalog.server).data_types.items():
            source = promise.source
            if source.kind != "ledger":
                continue
            promised = max(promised, timedelta(hours=promise.rpo_hours))
            good = freshness.good_copies(catalog, data_type)
            pods = {str(one.settings.get("pod")) for one in good[0].manifest.of(data_type)} if good else set()
            held |= {(source.namespace, source.role, pod) for pod in pods}
            retired |= {(source.namespace, source.role, pod) for pod in source.retired}
    return [
        Finding(
            level="failing",
            subject=f"{pod.role} {pod.namespace}/{pod.name}",
            message=f"runs on node {pod.node}, and no server's newest copy holds its volume: nobody reads it",
            runbook=RUNBOOK,
        )
        for pod in running
        if (pod.namespace, pod.role, pod.name) not in held | retired
        and (pod.claimed_at is None or now - pod.claimed_at > promised + GRACE)
    ]


def _reads_ledgers(server: Server) -> bool:
    return any(promise.source.kind == "ledger" for promise in server.data_types.values())
