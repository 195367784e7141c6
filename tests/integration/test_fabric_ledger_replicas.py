"""Ledgers of StatefulSets with several pods, without Kubernetes: who is started with the one restored."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import pytest

from gxbackup.errors import RestoreError, RestoreRefusedError
from gxbackup.fabric import layout as files
from gxbackup.fabric.ledger_set import LedgerSet
from gxbackup.sources import ledger
from gxbackup.sources.base import Work
from tests import fabric_network
from tests.integration.fabric_ledgers import SOURCES, cluster_of
from tests.local_cluster import LocalCluster
from tests.opened import Read, read, work


class Nodes(NamedTuple):
    """Two nodes of one StatefulSet, stopped for the length of a test, and a copy of each."""

    cluster: LocalCluster
    role: str
    reads: list[Read]
    area: Path

    def work(self, *ordinals: int) -> Work:
        return work(self.area, *(self.reads[ordinal] for ordinal in ordinals), allow_older=True, alone=True)

    def preview(self, *ordinals: int) -> list[str]:
        return SOURCES[self.role].preview(self.cluster.host(), self.work(*ordinals))

    def apply(self, *ordinals: int) -> list[str]:
        return SOURCES[self.role].apply(self.cluster.host(), self.work(*ordinals))


def nodes(monkeypatch: pytest.MonkeyPatch, area: Path, role: str) -> Nodes:
    golden = {"peer": "peer0", "orderer": "orderer1"}[role]
    volumes = {f"{role}_{ordinal}": fabric_network.unpack(golden, area / f"v{ordinal}") for ordinal in (0, 1)}
    cluster = cluster_of(monkeypatch, role, **volumes)
    monkeypatch.setattr(ledger, "frozen", lambda uid, label: nullcontext())
    host = cluster.host()
    reads = [read(SOURCES[role], host, one, area) for one in SOURCES[role].collect(host, f"{role}-ledger")]
    cluster.sizes[role] = 2
    return Nodes(cluster, role, reads, area)


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Nodes:
    return nodes(monkeypatch, tmp_path, "peer")


@pytest.fixture
def orderers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Nodes:
    return nodes(monkeypatch, tmp_path, "orderer")


@pytest.mark.parametrize(("ordinals", "size"), [((0,), 2), ((1,), 2), ((1,), 1), ((1,), 0), ((0, 1), 2), ((0, 1), 0)])
def test_an_orderer_that_cannot_be_started_alone_is_refused_before_anything_is_stopped(
    orderers: Nodes, ordinals: tuple[int, ...], size: int
) -> None:
    orderers.cluster.sizes["orderer"] = size

    for restore in (orderers.preview, orderers.apply):
        with pytest.raises(
            RestoreRefusedError, match=f"expected a StatefulSet of its own, seen orderer of {size} pods"
        ) as refused:
            restore(*ordinals)

    assert orderers.cluster.scaled == []
    assert "give each orderer a StatefulSet of its own" in refused.value.hints[0]
    assert any("RECOVER.md" in hint for hint in refused.value.hints)


@pytest.mark.parametrize("size", [0, 1])
def test_the_first_orderer_of_a_set_that_starts_no_other_is_put_back(orderers: Nodes, size: int) -> None:
    orderers.cluster.scale("fabric", "orderer", size)

    orderers.apply(0)

    assert orderers.cluster.sizes == {"orderer": 1}


def test_orderers_of_several_pods_are_rehearsed_all_the_same(orderers: Nodes) -> None:
    assert len(SOURCES["orderer"].rehearse(orderers.cluster.host(), orderers.work(0, 1))) == 2


@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_the_second_peer_of_a_set_is_started_also_where_that_had_fewer_pods(peers: Nodes, size: int) -> None:
    peers.cluster.scale("fabric", "peer", size)

    (told,) = peers.apply(1)

    assert told.startswith("peer-1: restored and started")
    assert peers.cluster.sizes == {"peer": max(2, size)}
    assert {pod.name for pod in peers.cluster.pods("fabric")} == {"peer-0", "peer-1"}


def test_two_peers_of_one_set_are_put_back_one_after_the_other(peers: Nodes) -> None:
    for volume in peers.cluster.volumes.values():
        (volume / "as it was").touch()

    assert [told.partition(":")[0] for told in peers.apply(0, 1)] == ["peer-0", "peer-1"]

    assert peers.cluster.sizes == {"peer": 2}
    assert not any((volume / "as it was").exists() for volume in peers.cluster.volumes.values())


@pytest.mark.parametrize("fault", ["gone", "not ready"])
def test_a_set_that_starts_without_the_restored_pod_is_no_success(
    peers: Nodes, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    scale = peers.cluster.scale
    failures = iter([True])

    def without_it(namespace: str, name: str, replicas: int, timeout_seconds: float = 600) -> None:
        scale(namespace, name, replicas)
        is_failing = bool(replicas) and next(failures, False)
        (peers.cluster.stopped if fault == "gone" else peers.cluster.not_ready).difference_update({"peer-1"})
        if is_failing:
            (peers.cluster.stopped if fault == "gone" else peers.cluster.not_ready).add("peer-1")

    monkeypatch.setattr(peers.cluster, "scale", without_it)
    mark = peers.cluster.volumes["peer-1"] / "as it was"
    mark.touch()

    why = "peer-1: expected ready in statefulset peer of 2 pods, seen peer-0"
    with pytest.raises(RestoreError, match=f"peer-1: as it was, and started again: {why}"):
        peers.apply(1)

    assert mark.exists()
    assert (peers.cluster.volumes["peer-1"] / files.CHAINS["peer"]).is_dir()


def test_a_pod_that_its_set_did_not_number_is_told_in_one_line(peers: Nodes) -> None:
    with pytest.raises(RestoreRefusedError, match="peer0-7c9f: expected a pod of statefulset peer0-org1"):
        LedgerSet(peers.cluster.host().cluster, "fabric", "peer0-org1", "peer0-7c9f")
