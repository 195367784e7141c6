"""Ledgers and chaincode as the operator runs them: backed up from a real cluster, destroyed, brought back by flows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from flows.backup_mainnet import backup_mainnet
from flows.backup_vps3 import backup_vps3
from flows.drill_disaster_recovery import drill_disaster_recovery
from flows.restore_chaincode import restore_chaincode
from flows.restore_orderer_ledger import restore_orderer_ledger
from flows.restore_peer_ledger import restore_peer_ledger
from gxbackup.adapters.cluster import Cluster
from gxbackup.adapters.freezer import frozen
from gxbackup.errors import RestoreRefusedError
from gxbackup.sources import ledger
from tests.cluster.ledger_estate import (
    NAMESPACE,
    ORDERERS,
    PEERS,
    ROLES,
    Ledgers,
    freezers,
    instances,
    ready_by,
    running_network,
    uids,
    watched,
)
from tests.fabric_network import CHANNEL, HEIGHT, PACKAGE

pytestmark = pytest.mark.cluster
PACKAGE_PATH = f"lifecycle/chaincodes/{PACKAGE.name}"
RAFT_LOG = f"etcdraft/wal/{CHANNEL}/0000000000000000-0000000000000000.wal"
UNCHANGING = {"orderer": RAFT_LOG, "peer": PACKAGE_PATH}


class TwoDays(NamedTuple):
    """A snapshot while blocks are ordered, one while none is, and what was seen meanwhile."""

    first: str
    second: str
    stood_still: list[list[str]]  # whose processes were frozen, looked at each time that one was
    started_anew: list[str]


@pytest.fixture(scope="module")
def ledgers(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledgers]:
    """Give three orderers and two peers that commit blocks upon real ledgers; all is gone after the module."""
    del prefect_server
    with running_network(tmp_path_factory.mktemp("ledgers")) as made:
        yield made


@pytest.fixture(scope="module")
def two_days(ledgers: Ledgers) -> TwoDays:
    """Back the host up twice: on the first day every node has committed another block when the next one is read."""
    seen: list[list[str]] = []

    @contextmanager
    def looked_at(uid: str, label: str) -> Iterator[None]:
        with frozen(uid, label):
            seen.append([pod for pod, (state, word) in states.items() if word in state.read_text()])
            yield
        if first_day:
            ledgers.order()

    before, states = instances(), freezers()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "frozen", looked_at)
        first_day = True
        first = backup_vps3()
        first_day = False
        second = backup_vps3()
    return TwoDays(first, second, seen, sorted(set(instances()) - set(before)))


@pytest.fixture(scope="module")
def chaincode(ledgers: Ledgers) -> str:
    """Back up what the peers have installed."""
    del ledgers
    return backup_mainnet()


def test_nodes_that_commit_blocks_are_kept_on_two_days_one_standing_still_at_a_time(
    ledgers: Ledgers, two_days: TwoDays
) -> None:
    full, differential = (ledgers.artifacts(snapshot) for snapshot in two_days[:2])

    assert [*full] == [*differential] == [*PEERS, *ORDERERS]
    for pod in ROLES:
        assert (full[pod].base, differential[pod].base) == (None, two_days.first)
        assert differential[pod].plain_size_bytes < full[pod].plain_size_bytes
    assert two_days.stood_still == [[pod] for pod in [*ROLES, *ROLES]]
    assert two_days.started_anew == []
    ordered = ledgers.ordered()
    told = [[kept["channel2"] for kept in ledgers.kept(snapshot).values()] for snapshot in two_days[:2]]
    assert told == [[*range(ordered - len(ROLES), ordered)], [ordered] * len(ROLES)]
    ledgers.order()


def test_orderers_that_were_read_some_blocks_apart_are_refused_and_so_is_what_is_older_than_a_node(
    two_days: TwoDays,
) -> None:
    before = instances()

    with pytest.raises(RestoreRefusedError, match="of different heights must not be started together") as uneven:
        restore_orderer_ledger("vps3", two_days.first, allow_older=True, mode="in-place", approve=True)
    with pytest.raises(RestoreRefusedError, match=r"channel2: \d+ there, \d+ kept"):
        restore_peer_ledger("vps3", mode="in-place", approve=True)

    assert any(
        "all 3 orderers have copies at" in hint and hint.count(f"--snapshot {two_days.second}") == len(ORDERERS)
        for hint in uneven.value.hints
    )
    assert instances() == before


@pytest.mark.usefixtures("two_days")
def test_a_peer_gets_its_chaincode_back_and_no_other_is_started_again(ledgers: Ledgers, chaincode: str) -> None:
    before = uids()
    package = ledgers.volumes[PEERS[0]] / PACKAGE_PATH
    package.unlink()

    restore_chaincode(chaincode, mode="in-place", approve=True)

    assert package.read_bytes() == PACKAGE.read_bytes()
    assert {pod for pod, uid in uids().items() if uid != before[pod]} == {PEERS[0]}


@pytest.mark.usefixtures("chaincode")
def test_a_destroyed_network_comes_back_with_equal_heights_and_commits_the_next_block(
    ledgers: Ledgers, two_days: TwoDays, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = ledgers.kept(two_days.second)
    digests = {pod: _sha256(ledgers.volumes[pod] / UNCHANGING[role]) for pod, role in ROLES.items()}
    before = uids()
    ledgers.destroy(*ROLES)

    drill_disaster_recovery()
    restore_orderer_ledger("vps3", mode="in-place", approve=True)
    with watched("tier=peer", tmp_path / "events"):
        restore_peer_ledger("vps3", mode="in-place", approve=True)

    assert "# Disaster recovery drill: all restored, evidence equal" in caplog.text
    for step, name in enumerate(("vps3 orderer-ledger", "vps3 peer-ledger", "mainnet chaincode-packages"), start=1):
        assert f"| {step} | {name} |" in caplog.text
    for pod, role in ROLES.items():
        height = kept[pod]["channel2"]
        assert f"{pod}: every file as it was; every block's data fits its header: channel2 {height}, " in caplog.text
        assert f"{pod}: restored and started at channel2 " in caplog.text
        assert kept[pod][CHANNEL] == ledgers.heights(pod)[CHANNEL] == HEIGHT
        assert _sha256(ledgers.volumes[pod] / UNCHANGING[role]) == digests[pod]
    assert min(map(len, ready_by(tmp_path / "events")[len(PEERS) - 1 :])) == len(PEERS) - 1, "one peer is always there"
    after = uids()
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())
    ledgers.order()
    assert {ledgers.channel2(pod).read_bytes() for pod in ROLES} == {ledgers.chain_as_ordered()}


def test_one_orderer_that_lost_its_ledger_is_refused_beside_the_others_and_comes_back_with_all_of_them(
    ledgers: Ledgers,
) -> None:
    before = uids()
    backup_vps3(only=["orderer-ledger"])
    ledgers.destroy(ORDERERS[1])

    with pytest.raises(RestoreRefusedError, match=f"{ORDERERS[0]}, {ORDERERS[2]} are running") as refused:
        restore_orderer_ledger("vps3", pods=[ORDERERS[1]], mode="in-place", approve=True)
    untouched = uids()
    for pod in ORDERERS:  # as it says
        Cluster().scale(NAMESPACE, pod.removesuffix("-0"), 0)
    restore_orderer_ledger("vps3", mode="in-place", approve=True)

    assert any(hint.startswith("while a quorum lives: remove the lost one") for hint in refused.value.hints)
    assert any("stop them all (`kubectl scale`), and restore the same set" in hint for hint in refused.value.hints)
    assert untouched == before
    assert {pod for pod, uid in uids().items() if uid == before[pod]} == set(PEERS)
    ledgers.order()
    assert {ledgers.channel2(pod).read_bytes() for pod in ROLES} == {ledgers.chain_as_ordered()}


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
