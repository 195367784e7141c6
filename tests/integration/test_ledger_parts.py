"""A ledger that is not whole where it is read, or does not stand still: its backup says so, and is not green."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from gxbackup.adapters.cluster import Pod
from gxbackup.adapters.pod_mounts import PodMount
from gxbackup.errors import CollectError
from gxbackup.frozen_copy import FrozenCopy
from gxbackup.sources import ledger
from tests import fabric_network
from tests.fabric_network import CHANNEL, HEIGHT
from tests.integration.fabric_ledgers import ORDERER, SOURCES, capture, cluster_of
from tests.local_cluster import LocalCluster
from tests.opened import read

WITHIN = "/var/hyperledger/production/orderer/etcdraft"


@pytest.fixture
def orderer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LocalCluster:
    monkeypatch.setattr(ledger, "frozen", lambda uid, label: nullcontext())
    return cluster_of(monkeypatch, "orderer", orderer0_0=fabric_network.unpack("orderer1", tmp_path / "volumes"))


def mount_within(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the orderer's pod mount a second claim upon a folder of its ledger."""
    inner = PodMount(folder=WITHIN, claim="raft-orderer0-0", sub_path="")
    pods = cluster.pods

    def with_inner(namespace: str, selector: str = "") -> tuple[Pod, ...]:
        return tuple(pod.model_copy(update={"mounts": (*pod.mounts, inner)}) for pod in pods(namespace, selector))

    monkeypatch.setattr(cluster, "pods", with_inner)


def test_an_orderer_whose_raft_log_lies_on_a_second_claim_is_not_green(
    orderer: LocalCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = orderer.volumes[ORDERER] / "etcdraft"
    shutil.rmtree(log)
    log.mkdir()  # what a runtime makes to mount upon
    mount_within(orderer, monkeypatch)

    plain = capture(orderer, tmp_path / "day 0", role="orderer")

    assert plain.end.evidence["heights"] == {CHANNEL: HEIGHT}
    assert [line.partition(", seen ")[2].partition(": ")[0] for line in plain.end.shortfalls] == [
        f"claim raft-orderer0-0 at {WITHIN} within it", "none",
    ]  # fmt: skip
    assert all(line.startswith(f"orderer-ledger: {ORDERER}: expected ") for line in plain.end.shortfalls)


def test_an_orderer_that_keeps_its_raft_log_in_another_folder_is_not_green(
    orderer: LocalCluster, tmp_path: Path
) -> None:
    shutil.rmtree(orderer.volumes[ORDERER] / "etcdraft")

    plain = capture(orderer, tmp_path / "day 0", role="orderer")

    (told,) = plain.end.shortfalls
    assert told.startswith(f"orderer-ledger: {ORDERER}: expected Raft's log in etcdraft/wal, seen none: ")


def test_a_whole_orderer_lacks_nothing(orderer: LocalCluster, tmp_path: Path) -> None:
    assert capture(orderer, tmp_path / "day 0", role="orderer").end.shortfalls == ()


@pytest.mark.parametrize("comes", ["while its files are copied", "after it was looked for"])
def test_an_orderer_that_is_started_while_its_files_are_copied_stands_still_or_is_no_backup(
    orderer: LocalCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, comes: str
) -> None:
    stood_still: list[str] = []

    def frozen(uid: str, label: str) -> AbstractContextManager[None]:
        stood_still.append(uid)
        return nullcontext()

    monkeypatch.setattr(ledger, "frozen", frozen)
    step = {"while its files are copied": "approach", "after it was looked for": "settle"}[comes]
    do = getattr(FrozenCopy, step)

    def do_as_it_is_started(copy: FrozenCopy, **words: bool) -> None:
        do(copy, **words)
        orderer.stopped.clear()

    monkeypatch.setattr(FrozenCopy, step, do_as_it_is_started)
    (found,) = SOURCES["orderer"].collect(orderer.host(), "orderer-ledger")
    orderer.stopped.add(ORDERER)  # it is being replaced

    with nullcontext() if step == "approach" else pytest.raises(CollectError, match="was started while its files"):
        read(SOURCES["orderer"], orderer.host(), found, tmp_path)

    assert stood_still == ([ORDERER] if step == "approach" else [])
