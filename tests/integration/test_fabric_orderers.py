"""Orderers of one node put back together, without Kubernetes: what becomes of the others where one of them fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import pytest

from gxbackup.errors import CommandError, RestoreError, RestoreRefusedError
from gxbackup.fabric import blocks, ledgers_together
from gxbackup.fabric import layout as files
from gxbackup.fabric.heights import ORDERER, Copy, Held
from gxbackup.sources import ledger
from gxbackup.sources.base import Work
from gxbackup.volume_exchange import VolumeExchange
from tests import fabric_network
from tests.fabric_network import CHANNEL, HEIGHT
from tests.integration.fabric_ledgers import SOURCES, cluster_of
from tests.local_cluster import LocalCluster
from tests.opened import read, work

SOURCE = SOURCES["orderer"]


class Orderers(NamedTuple):
    """Three stopped orderers with real ledgers, and a copy of each."""

    cluster: LocalCluster
    work: Work

    def apply(self) -> list[str]:
        return SOURCE.apply(self.cluster.host(), self.work)

    def are_marked(self) -> list[bool]:
        """Tell of each whether its volume is as it was."""
        return [(volume / "as it was").exists() for _, volume in sorted(self.cluster.volumes.items())]


@pytest.fixture
def orderers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Orderers:
    monkeypatch.setattr(ledger, "frozen", lambda uid, label: nullcontext())
    volumes = {f"orderer{n}_0": fabric_network.unpack("orderer1", tmp_path / f"o{n}") for n in range(3)}
    cluster = cluster_of(monkeypatch, "orderer", **volumes)
    host = cluster.host()
    reads = [read(SOURCE, host, found, tmp_path) for found in SOURCE.collect(host, "orderer-ledger")]
    for volume in volumes.values():
        (volume / "as it was").touch()
    return Orderers(cluster, work(tmp_path, *reads))


def in_turn(monkeypatch: pytest.MonkeyPatch, turn: int, happens: Callable[[], None]) -> None:
    """Have something happen as the orderer of a turn (0, 1, …) is about to be exchanged."""
    exchange = VolumeExchange.exchange
    turns = iter(range(10))

    def exchanged(asked: VolumeExchange) -> str:
        if next(turns) == turn:
            happens()
        return exchange(asked)

    monkeypatch.setattr(VolumeExchange, "exchange", exchanged)


def fail() -> None:
    raise RestoreError("a disk that fails")


def cancel() -> None:
    raise KeyboardInterrupt


def test_where_the_first_orderer_fails_the_others_are_started_again_as_they_were_and_named(
    orderers: Orderers, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_turn(monkeypatch, 0, fail)

    with pytest.raises(RestoreError) as failure:
        orderers.apply()

    assert failure.value.message == (
        "orderer0-0: as it was, and started again: a disk that fails; "
        "orderer1-0: as it was, and started again; orderer2-0: as it was, and started again"
    )
    assert orderers.cluster.sizes == {"orderer0": 1, "orderer1": 1, "orderer2": 1}
    assert orderers.are_marked() == [True, True, True]


def test_where_the_second_orderer_fails_the_error_tells_the_restored_from_those_as_they_were(
    orderers: Orderers, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_turn(monkeypatch, 1, fail)

    with pytest.raises(RestoreError) as failure:
        orderers.apply()

    assert failure.value.message == (
        "orderer1-0: as it was, and started again: a disk that fails; "
        "restored and started: orderer0-0; orderer2-0: as it was, and started again"
    )
    assert any("stop them all, and restore the same set again" in hint for hint in failure.value.hints)
    assert orderers.cluster.sizes == {"orderer0": 1, "orderer1": 1, "orderer2": 1}
    assert orderers.are_marked() == [False, True, True]


def test_orderers_that_were_stopped_before_the_restore_stay_stopped_where_one_fails(
    orderers: Orderers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("orderer0", "orderer1", "orderer2"):
        orderers.cluster.scale("fabric", name, 0)
    in_turn(monkeypatch, 1, fail)

    with pytest.raises(
        RestoreError,
        match="orderer1-0: as it was, and stopped as before: a disk .*; orderer2-0: as it was, and stopped as before",
    ):
        orderers.apply()

    assert orderers.cluster.sizes == {"orderer0": 1, "orderer1": 0, "orderer2": 0}


def test_where_the_run_is_cancelled_all_orderers_are_started_again(
    orderers: Orderers, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_turn(monkeypatch, 1, cancel)

    with pytest.raises(KeyboardInterrupt) as cancelled:
        orderers.apply()

    assert cancelled.value.__notes__ == [
        "restored and started: orderer0-0; orderer2-0: as it was, and started again",
        f"HINT: {ledgers_together.UNLIKE}",
    ]
    assert orderers.cluster.sizes == {"orderer0": 1, "orderer1": 1, "orderer2": 1}
    assert orderers.are_marked() == [False, True, True]


def test_what_cannot_be_unpacked_of_the_last_orderer_is_found_before_any_is_exchanged(orderers: Orderers) -> None:
    (sealed,) = orderers.work.opened[2].sealed
    sealed.write_bytes(sealed.read_bytes()[:-1])  # after a person approved

    with pytest.raises(RestoreError) as failure:
        orderers.apply()

    assert failure.value.message.startswith("fabric/orderer2-0.level0.tar: age: ")
    assert failure.value.message.endswith(
        "; orderer0-0: as it was, and started again; orderer1-0: as it was, and started again; "
        "orderer2-0: as it was, and started again"
    )
    assert orderers.cluster.sizes == {"orderer0": 1, "orderer1": 1, "orderer2": 1}
    assert orderers.are_marked() == [True, True, True]
    assert not any([*volume.glob(".gxbackup-*")] for volume in orderers.cluster.volumes.values())


def test_cancelled_while_the_second_is_unpacked_nothing_is_left_of_the_first(
    orderers: Orderers, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = VolumeExchange.prepare
    turns = iter(range(10))

    def prepared(asked: VolumeExchange, needed_bytes: int) -> str:
        if next(turns) == 1:
            cancel()
        return prepare(asked, needed_bytes)

    monkeypatch.setattr(VolumeExchange, "prepare", prepared)

    with pytest.raises(KeyboardInterrupt):
        orderers.apply()

    assert orderers.cluster.sizes == {"orderer0": 1, "orderer1": 1, "orderer2": 1}
    assert orderers.are_marked() == [True, True, True]
    assert not any([*volume.glob(".gxbackup-*")] for volume in orderers.cluster.volumes.values())


def test_an_orderer_whose_old_content_cannot_be_put_back_stays_stopped_and_the_others_start(
    orderers: Orderers, monkeypatch: pytest.MonkeyPatch
) -> None:
    undo = VolumeExchange.undo

    def undone(asked: VolumeExchange, *, exchanged: bool) -> None:
        if asked.folder == str(orderers.cluster.volumes["orderer1-0"]):
            raise CommandError("mv: Input/output error")
        undo(asked, exchanged=exchanged)

    monkeypatch.setattr(VolumeExchange, "undo", undone)
    in_turn(monkeypatch, 0, fail)

    with pytest.raises(
        RestoreError, match="orderer1-0: .*could not be put back: mv: Input/output error; orderer2-0: as it was, and st"
    ) as failure:
        orderers.apply()

    assert orderers.cluster.sizes == {"orderer0": 1, "orderer1": 0, "orderer2": 1}
    assert any("start it on nothing else" in hint for hint in failure.value.hints)


# Whoever moves something within a volume is the last that a worker did: its shell dies with it.
FATAL_MOVE = """#!/bin/sh
/bin/mv "$@" || exit
[ "$PWD" = "{volume}" ] || exit 0
kill -9 "$(cat {worker})"
while kill -0 $PPID 2>/dev/null; do sleep 0.01; done
"""


@pytest.mark.parametrize("again", ["all of them", "those that it left stopped"])
def test_killed_in_the_second_orderers_exchange_it_is_run_again_and_no_old_content_is_lost(
    orderers: Orderers, tmp_path: Path, again: str
) -> None:
    cluster, given = orderers
    volume = cluster.volumes["orderer1-0"]
    before = names_in(volume)
    worker = tmp_path / "worker"
    (tmp_path / "mv").write_text(FATAL_MOVE.format(volume=volume, worker=worker))
    (tmp_path / "mv").chmod(0o755)
    if (child := os.fork()) == 0:
        try:
            os.environ["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
            worker.write_text(str(os.getpid()))
            orderers.apply()
        finally:
            os._exit(1)  # never on into pytest
    ended = os.waitpid(child, 0)[1]
    half_moved = names_in(volume / ".gxbackup-undo")
    for name in ("orderer1", "orderer2"):  # in a cluster, that is how they stay
        cluster.scale("fabric", name, 0)
    left = given.model_copy(update={"opened": given.opened[1:]})

    with pytest.raises(RestoreRefusedError, match="orderers orderer0-0 are running") as refused:
        SOURCE.apply(cluster.host(), left)
    SOURCE.apply(
        cluster.host(), given if again == "all of them" else left.model_copy(update={"options": {"alone": True}})
    )

    assert os.WTERMSIG(ended) == signal.SIGKILL
    assert half_moved
    assert half_moved < before
    assert any("by a run that was killed? say alone" in hint for hint in refused.value.hints)
    assert cluster.sizes["orderer1"] == cluster.sizes["orderer2"] == 1
    assert ("orderer0" in cluster.sizes) == (again == "all of them")
    assert orderers.are_marked() == [False, False, False]
    for one in cluster.volumes.values():
        assert blocks.heights(blocks.read_chains(one / files.CHAINS["orderer"])) == {CHANNEL: HEIGHT}
    (kept,) = volume.glob(".gxbackup-*")
    assert names_in(kept) == before


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_where_one_orderer_cannot_be_stopped_none_is_touched_and_all_are_started_again(
    orderers: Orderers, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = orderers.cluster.scale

    def never_gone(namespace: str, name: str, replicas: int, timeout_seconds: float = 600) -> None:
        scale(namespace, name, replicas)
        if (name, replicas) == ("orderer1", 0):
            raise RestoreError("statefulset fabric/orderer1: 0 ready pods: expected within 600 s")

    monkeypatch.setattr(orderers.cluster, "scale", never_gone)

    with pytest.raises(
        RestoreError, match="orderer1: 0 ready pods.*; orderer0-0: as it was, and started again; orderer1"
    ):
        orderers.apply()

    assert orderers.cluster.sizes == {"orderer0": 1, "orderer1": 1, "orderer2": 1}
    assert orderers.are_marked() == [True, True, True]


def test_an_orderer_that_does_not_start_again_is_named_with_its_reason_and_the_next_is_started(
    orderers: Orderers, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = orderers.cluster.scale

    def not_ready(namespace: str, name: str, replicas: int, timeout_seconds: float = 600) -> None:
        scale(namespace, name, replicas)
        if (name, replicas) == ("orderer1", 1):
            raise RestoreError("not ready within 600 s")

    monkeypatch.setattr(orderers.cluster, "scale", not_ready)
    in_turn(monkeypatch, 0, fail)

    with pytest.raises(
        RestoreError,
        match="orderer1-0: its volume is as it was, and it is asked to start: not ready.*; orderer2-0: as it was",
    ):
        orderers.apply()

    assert orderers.cluster.sizes == {"orderer0": 1, "orderer1": 1, "orderer2": 1}


def test_the_advice_names_a_peer_of_this_node_that_lives_above_what_is_to_be_restored(
    orderers: Orderers, tmp_path: Path
) -> None:
    below = {CHANNEL: HEIGHT - 1}
    first, *others = orderers.work.opened
    lower = first.artifact.model_copy(update={"evidence": {**first.artifact.evidence, "heights": below}})
    copies = tuple(Copy(ORDERER, name, below) for name in sorted(orderers.cluster.volumes))
    uneven = orderers.work.model_copy(update={
        "opened": (first.model_copy(update={"artifact": lower}), *others), "options": {"allow_older": True},
        "here": (Held("vps3", "orderer-ledger", "20260909_050000", copies),),
    })  # fmt: skip
    orderers.cluster.volumes["peer0-org1-0"] = fabric_network.unpack("peer0", tmp_path / "p")
    orderers.cluster.mounts["peer0-org1-0"] = files.PRODUCTION["peer"]

    with pytest.raises(RestoreRefusedError) as refusal:
        SOURCE.preview(orderers.cluster.host(), uneven)

    assert any(
        "stop these" in hint and hint.endswith(f"peer0-org1-0 ({CHANNEL} {HEIGHT}): no copy is that low")
        for hint in refusal.value.hints
    )
