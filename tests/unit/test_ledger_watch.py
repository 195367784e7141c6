"""A peer's or orderer's volume that no host reads is found, wherever its pod went; what may not be held yet is not."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from gxbackup import ledger_watch
from gxbackup.health import Finding
from gxbackup.ledger_watch import LedgerPod, Watched
from gxbackup.model import Catalog
from tests.unit.catalogs import day
from tests.unit.test_fabric_sets import Network, inventory


def runs(name: str, node: str, role: str = "peer", since: datetime | None = None) -> LedgerPod:
    return LedgerPod(namespace="fabric", role=role, name=name, node=node, claimed_at=since or day(0))


def look(*running: LedgerPod, but: str = "") -> list[Finding]:
    """Return what is found on the day after all three hosts made their copies."""
    network = Network()
    network.daily(1, 90, 95, 100, 100, 100)
    catalogs = [
        Catalog(server=name, remote_dir=f"dir-{name}", snapshots=tuple(held))
        for name, held in network.held.items()
        if name != but
    ]
    return ledger_watch.unread_findings(running, catalogs, inventory(), day(2))


def test_pods_that_some_servers_newest_copy_holds_are_well_wherever_they_run_now() -> None:
    assert look(runs("peer-vps3-0", "vps3"), runs("peer-vps4-0", "a node that was renamed")) == []
    assert look(runs("orderer-vps5-0", "vps5", "orderer")) == []


def test_a_pod_that_moved_to_a_node_without_an_entry_is_failing_and_named() -> None:
    (found,) = look(runs("peer-vps3-0", "vps3"), runs("peer1-org1-0", "vps6"))

    assert (found.level, found.subject, found.runbook) == (
        "failing", "peer fabric/peer1-org1-0", "check-backup-health",
    )  # fmt: skip
    assert found.message == "runs on node vps6, and no server's newest copy holds its volume: nobody reads it"


def test_a_pod_is_no_peer_because_an_orderer_of_its_name_is_held() -> None:
    assert len(look(runs("orderer-vps3-0", "vps3", "peer"))) == 1


@pytest.mark.parametrize(("hours", "findings"), [(26, 0), (27, 1)])
def test_a_new_volume_has_the_time_of_the_promise(hours: int, findings: int) -> None:
    assert len(look(runs("peer9-0", "vps6", since=day(2) - timedelta(hours=hours)))) == findings


def test_where_a_servers_copies_could_not_be_listed_nothing_is_said_of_pods() -> None:
    assert look(runs("peer1-org1-0", "vps6"), but="vps4") == []


def test_every_role_and_namespace_of_the_inventory_is_looked_at_once() -> None:
    assert ledger_watch.watched(inventory()) == (
        Watched("fabric", "peer", "tier=peer"), Watched("fabric", "orderer", "tier=orderer"),
    )  # fmt: skip
