"""Orderers of several hosts and of one are kept at one moment, though blocks come all the time, without Kubernetes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from gxbackup import clock
from gxbackup.errors import CollectError
from gxbackup.fabric import heights, one_moment
from gxbackup.fabric import layout as files
from gxbackup.model import Capture
from gxbackup.sources import ledger
from gxbackup.sources.ledger import Ledger
from tests import fabric_network
from tests.fabric_network import BlockWriter
from tests.integration.fabric_ledgers import cluster_of, held
from tests.local_cluster import LocalCluster
from tests.opened import read

SOURCE = Ledger(role="orderer", node="here", one_moment_seconds=900)
ORDERERS = ("orderer0-0", "orderer1-0", "orderer2-0")


class Network:
    """Three orderers that commit each block; whenever one is made to stand still, all that do are noted."""

    def __init__(self, volumes: dict[str, Path]) -> None:
        self._writers = [BlockWriter(volume / files.CHAINS["orderer"] / "channel2") for volume in volumes.values()]
        self.standing: list[str] = []
        self.seen: list[list[str]] = []
        self.refusing: set[str] = set()
        self.stopped: list[str] = []

    def order(self, count: int = 1) -> None:
        for writer in self._writers:
            writer.append(count)

    @contextmanager
    def frozen(self, uid: str, label: str) -> Iterator[None]:
        if any(name in label for name in self.refusing):
            raise CollectError(f"{label}: its processes would not stand still", retryable=True)
        self.stopped.append(uid)
        self.standing.append(label)
        self.seen.append([*self.standing])
        yield
        self.standing.remove(label)


@pytest.fixture
def volumes(tmp_path: Path) -> dict[str, Path]:
    return {name: fabric_network.unpack("orderer1", tmp_path / name) for name in ORDERERS}


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, volumes: dict[str, Path]) -> Network:
    made = Network(volumes)
    monkeypatch.setattr(ledger, "frozen", made.frozen)
    return made


def hosts(monkeypatch: pytest.MonkeyPatch, *volumes: dict[str, Path]) -> list[LocalCluster]:
    """Return what each host has of the cluster: its own volumes."""
    made = [cluster_of(monkeypatch, "orderer", **some) for some in volumes]
    cluster_of(monkeypatch, "orderer", **{name: folder for some in volumes for name, folder in some.items()})
    for cluster in made:
        cluster.stopped = set()
    return made


def test_orderers_of_two_hosts_are_of_one_height_though_blocks_are_ordered_before_and_after(
    network: Network, volumes: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clusters = hosts(monkeypatch, {name: volumes[name] for name in ORDERERS[:2]}, {ORDERERS[2]: volumes[ORDERERS[2]]})
    network.order(2)
    met, settled = threading.Barrier(2, timeout=60), threading.Barrier(2, timeout=60)
    asked: list[datetime] = []

    def wait_until(moment: datetime) -> None:
        asked.append(moment)
        if met.wait() == 0:  # both hosts wait, and have looked at their nodes by now
            network.order(3)
        met.wait()

    monkeypatch.setattr(one_moment.clock, "wait_until", wait_until)
    found: dict[int, list[Capture]] = {}

    def collect(number: int) -> None:
        found[number] = SOURCE.collect_since(clusters[number].host(), "orderer-ledger", ())
        if settled.wait() == 0:
            network.order(4)
        settled.wait()

    threads = [threading.Thread(target=collect, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    kept = [
        held(read(SOURCE, clusters[number].host(), capture, tmp_path))
        for number in range(2)
        for capture in found[number]
    ]
    assert [artifact.settings["pod"] for artifact in kept] == [*ORDERERS]
    copies = heights.copies_of(kept)
    assert [copy.heights["channel2"] for copy in copies] == [8, 8, 8]
    assert heights.uneven(copies) == []
    assert {artifact.evidence["moment"] for artifact in kept} == {max(asked).isoformat()}
    assert any(set(ORDERERS[:2]) <= set(together) for together in network.seen)
    assert network.standing == []


def test_an_orderer_that_would_not_stand_still_with_the_others_is_read_alone_and_costs_them_nothing(
    network: Network, volumes: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (cluster,) = hosts(monkeypatch, volumes)
    monkeypatch.setattr(one_moment.clock, "wait_until", lambda moment: None)
    network.order(2)
    network.refusing = {ORDERERS[1]}

    captures = SOURCE.collect_since(cluster.host(), "orderer-ledger", ())

    network.order(2)
    with pytest.raises(CollectError, match="would not stand still") as refused:
        read(SOURCE, cluster.host(), captures[1], tmp_path)
    assert refused.value.retryable
    network.refusing.clear()
    kept = [held(read(SOURCE, cluster.host(), one, tmp_path)) for one in captures]
    assert [copy.heights["channel2"] for copy in heights.copies_of(kept)] == [2, 4, 2]
    assert [one.evidence["moment"] is None for one in kept] == [False, True, False]


def test_a_pod_that_was_replaced_while_its_host_waited_stands_still_as_the_one_it_is_now(
    network: Network, volumes: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (cluster,) = hosts(monkeypatch, {ORDERERS[0]: volumes[ORDERERS[0]]})
    monkeypatch.setattr(one_moment.clock, "wait_until", lambda moment: cluster.uids.update({ORDERERS[0]: "another"}))

    (capture,) = SOURCE.collect_since(cluster.host(), "orderer-ledger", ())

    kept = held(read(SOURCE, cluster.host(), capture, tmp_path))
    assert network.stopped == ["another"]
    assert kept.evidence["moment"] == capture.settings["settled_at"]


def test_every_host_reads_the_same_moment_off_its_clock_and_none_goes_on_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = datetime.fromisoformat("2026-11-28T05:45:12.7+00:00")
    monkeypatch.setattr(clock, "now", lambda: now)
    first = clock.next_full(300)
    now += timedelta(seconds=200)
    assert (first, clock.next_full(300)) == (datetime.fromisoformat("2026-11-28T05:50:00+00:00"), first)
    monkeypatch.undo()

    soon = clock.now() + timedelta(milliseconds=50)
    clock.wait_until(soon)

    assert clock.now() >= soon
