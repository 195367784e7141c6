"""Ledgers put back without Kubernetes: proven, exchanged, started; and what refuses or ends one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from contextlib import nullcontext
from pathlib import Path

import pytest

from gxbackup.adapters.places import LocalPlace
from gxbackup.errors import IntegrityError, RestoreError, RestoreRefusedError, SetupError
from gxbackup.fabric import blocks
from gxbackup.fabric import layout as files
from gxbackup.sources import ledger
from gxbackup.volume_exchange import VolumeExchange
from tests import fabric_network
from tests.fabric_network import CHANNEL, HEIGHT, BlockWriter
from tests.integration.fabric_ledgers import PEER, SOURCES, capture, cluster_of, grow, held
from tests.local_cluster import LocalCluster
from tests.opened import read, work


def test_a_restore_of_both_levels_is_proven_started_and_keeps_what_was_there(
    peer: LocalCluster, tmp_path: Path
) -> None:
    first = capture(peer, tmp_path / "day 0")
    grow(peer)
    second = capture(peer, tmp_path / "day 1", held(first))
    volume = peer.volumes[PEER]
    shutil.rmtree(volume / "ledgersData" / "chains")
    restore = work(tmp_path, first, second)
    SOURCES["peer"].preview(peer.host(), restore)

    (line,) = SOURCES["peer"].apply(peer.host(), restore)

    assert blocks.heights(blocks.read_chains(volume / files.CHAINS["peer"])) == {CHANNEL: HEIGHT, "channel2": 5}
    assert not (volume / "ledgersData" / "stateLeveldb").exists()
    assert peer.scaled == [("peer0-org1", 0), ("peer0-org1", 1)]
    (before,) = volume.glob(".gxbackup-before-*")
    assert (before / "ledgersData" / "stateLeveldb" / "CURRENT").exists()
    assert before.name in line


def test_an_older_ledger_over_a_newer_one_wants_a_word(peer: LocalCluster, tmp_path: Path) -> None:
    grow(peer, 5)
    plain = capture(peer, tmp_path / "day 0")
    shutil.rmtree(peer.volumes[PEER] / files.CHAINS["peer"] / "channel2")
    grow(peer, 9)

    with pytest.raises(RestoreRefusedError, match="older than what is there: channel2: 9 there, 5 kept"):
        SOURCES["peer"].apply(peer.host(), work(tmp_path, plain))
    assert peer.scaled == []

    SOURCES["peer"].apply(peer.host(), work(tmp_path, plain, allow_older=True))
    assert blocks.read_chain(peer.volumes[PEER] / files.CHAINS["peer"] / "channel2").height == 5


def test_what_a_killed_restore_half_moved_is_put_back_before_it_is_asked_whether_it_is_newer(
    peer: LocalCluster, tmp_path: Path
) -> None:
    volume = peer.volumes[PEER]
    plain = capture(peer, tmp_path / "day 0")
    BlockWriter(volume / files.CHAINS["peer"] / "since").append(1)
    (volume / ".gxbackup-undo").mkdir()
    (volume / "ledgersData").rename(volume / ".gxbackup-undo" / "ledgersData")

    with pytest.raises(RestoreRefusedError, match="since: 1 there, not in the backup") as refused:
        SOURCES["peer"].apply(peer.host(), work(tmp_path, plain))

    assert any("name the others alone, with pods" in hint for hint in refused.value.hints)
    assert peer.scaled == [], "told before anything is stopped"
    SOURCES["peer"].apply(peer.host(), work(tmp_path, plain, allow_older=True))
    (before,) = volume.glob(".gxbackup-*")
    assert blocks.read_chains(before / files.CHAINS["peer"])["since"].height == 1


def test_a_damaged_channel_hides_no_other_that_is_newer_than_the_backup(peer: LocalCluster, tmp_path: Path) -> None:
    grow(peer, 5)
    plain = capture(peer, tmp_path / "day 0")
    shutil.rmtree(peer.volumes[PEER] / files.CHAINS["peer"] / "channel2")
    grow(peer, 9)
    damaged = peer.volumes[PEER] / files.CHAINS["peer"] / CHANNEL / "blockfile_000000"
    damaged.write_bytes(b"\x7f" + damaged.read_bytes()[1:])

    with pytest.raises(RestoreRefusedError, match="older than what is there: channel2: 9 there, 5 kept"):
        SOURCES["peer"].apply(peer.host(), work(tmp_path, plain))

    assert peer.scaled == []


def test_a_channel_created_since_the_backup_wants_a_word_too(peer: LocalCluster, tmp_path: Path) -> None:
    plain = capture(peer, tmp_path / "day 0")
    grow(peer)

    with pytest.raises(RestoreRefusedError, match="channel2: 5 there, not in the backup"):
        SOURCES["peer"].preview(peer.host(), work(tmp_path, plain))


def test_a_node_that_does_not_come_back_is_put_back_as_it_was(
    peer: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = capture(peer, tmp_path / "day 0")
    volume = peer.volumes[PEER]
    (volume / "mark").write_text("as it was")
    scale = peer.scale
    failures = iter([True])

    def never_ready(namespace: str, name: str, replicas: int, timeout_seconds: float = 600) -> None:
        scale(namespace, name, replicas)
        if replicas and next(failures, False):
            raise RestoreError("statefulset: 1 ready pods: expected within 600 s")

    monkeypatch.setattr(peer, "scale", never_ready)

    with pytest.raises(RestoreError, match="as it was, and started again: statefulset"):
        SOURCES["peer"].apply(peer.host(), work(tmp_path, plain))

    assert (volume / "mark").exists()
    assert list(volume.glob(".gxbackup-*")) == []
    assert peer.scaled[-1] == ("peer0-org1", 1)


def test_a_disk_that_turns_read_only_in_the_exchange_leaves_the_node_stopped_and_says_where_its_ledger_lies(
    peer: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = capture(peer, tmp_path / "day 0")
    volume = peer.volumes[PEER]
    subprocess.run(["mount", "--bind", volume, volume], check=True)
    exchange = VolumeExchange.exchange

    def on_a_failing_disk(asked: VolumeExchange) -> str:
        (volume / ".gxbackup-undo").mkdir()  # it fails when half is moved
        (volume / "ledgersData").rename(volume / ".gxbackup-undo" / "ledgersData")
        subprocess.run(["mount", "-o", "remount,bind,ro", volume], check=True)
        return exchange(asked)

    monkeypatch.setattr(VolumeExchange, "exchange", on_a_failing_disk)
    try:
        with pytest.raises(RestoreError, match="Read-only file system.*could not be put back") as failure:
            SOURCES["peer"].apply(peer.host(), work(tmp_path, plain))
    finally:
        subprocess.run(["umount", volume], check=True)

    assert peer.scaled[-1] == ("peer0-org1", 0)
    assert f"its old content lies in .gxbackup-undo on claim fabric/data-{PEER}" in str(failure.value)
    monkeypatch.undo()
    assert VolumeExchange(LocalPlace("here"), str(volume)).recover()
    assert (volume / "ledgersData").is_dir()


def test_a_level_1_without_its_own_level_0_is_refused(peer: LocalCluster, tmp_path: Path) -> None:
    first = capture(peer, tmp_path / "day 0")
    second = capture(peer, tmp_path / "day 1", held(first))
    another = capture(peer, tmp_path / "another")

    with pytest.raises(RestoreRefusedError, match="expected its level 0"):
        SOURCES["peer"].preview(peer.host(), work(tmp_path, second))
    with pytest.raises(RestoreRefusedError, match="builds on another level 0"):
        SOURCES["peer"].preview(peer.host(), work(tmp_path, another, second))


def test_a_rehearsal_unpacks_nothing_that_no_ledger_holds(peer: LocalCluster, tmp_path: Path) -> None:
    plain = capture(peer, tmp_path / "day 0")
    with tarfile.open(plain.file, "w") as tar:
        tar.addfile(tarfile.TarInfo("../outside"))

    with pytest.raises(RestoreRefusedError, match="outside"):
        SOURCES["peer"].rehearse(peer.host(), work(tmp_path, plain))

    assert not list(tmp_path.rglob("outside"))


def test_what_was_sealed_of_other_bytes_is_refused_before_anything_stops_and_never_exchanged(
    peer: LocalCluster, tmp_path: Path
) -> None:
    restore = work(tmp_path, capture(peer, tmp_path / "day 0"))
    (one,) = restore.opened
    wrong = one.artifact.model_copy(update={"plain_sha256": "0" * 64})
    restore = restore.model_copy(update={"opened": (one.model_copy(update={"artifact": wrong}),)})

    with pytest.raises(IntegrityError, match=f"with sha256 {'0' * 64}"):
        SOURCES["peer"].preview(peer.host(), restore)
    assert peer.scaled == []
    with pytest.raises(RestoreError, match="as it was, and started again: .* with sha256"):
        SOURCES["peer"].apply(peer.host(), restore)

    assert peer.scaled == [("peer0-org1", 0), ("peer0-org1", 1)]
    assert not list(peer.volumes[PEER].glob(".gxbackup-*"))


def test_without_its_identity_nothing_is_stopped(peer: LocalCluster, tmp_path: Path) -> None:
    restore = work(tmp_path, capture(peer, tmp_path / "day 0"))
    identity_file = restore.opened[0].identity_file
    assert identity_file is not None
    identity_file.unlink()

    with pytest.raises(SetupError, match="age identity .* cannot be read"):
        SOURCES["peer"].apply(peer.host(), restore)

    assert peer.scaled == []


def test_a_changed_byte_is_found_before_the_volume_is_exchanged(peer: LocalCluster, tmp_path: Path) -> None:
    plain = capture(peer, tmp_path / "day 0")
    content = plain.file.read_bytes()
    block_file = (peer.volumes[PEER] / files.CHAINS["peer"] / CHANNEL / "blockfile_000000").read_bytes()
    at = content.index(block_file[1000:1100])
    plain.file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])

    with pytest.raises(IntegrityError, match="expected data hash"):
        SOURCES["peer"].rehearse(peer.host(), work(tmp_path, plain))


def test_one_orderer_is_not_put_back_beside_others_that_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one, two = (fabric_network.unpack("orderer1", tmp_path / name) for name in ("one", "two"))
    cluster = cluster_of(monkeypatch, "orderer", orderer0_0=one, orderer1_0=two)
    monkeypatch.setattr(ledger, "frozen", lambda uid, label: nullcontext())
    (tmp_path / "day").mkdir()
    host = cluster.host()
    both = [read(SOURCES["orderer"], host, found, tmp_path / "day") for found in SOURCES["orderer"].collect(host, "o")]

    with pytest.raises(RestoreRefusedError, match="orderers orderer1-0 are running"):
        SOURCES["orderer"].apply(host, work(tmp_path, both[0]))
    SOURCES["orderer"].apply(host, work(tmp_path, *both))

    assert cluster.scaled[:2] == [("orderer0", 0), ("orderer1", 0)]
    assert json.dumps(both[0].end.evidence["heights"]) == json.dumps({CHANNEL: HEIGHT})


def test_orderers_below_a_peer_of_the_same_node_are_refused_before_anything_is_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster = cluster_of(monkeypatch, "orderer", orderer0_0=fabric_network.unpack("orderer1", tmp_path / "o"))
    monkeypatch.setattr(ledger, "frozen", lambda uid, label: nullcontext())
    plain = capture(cluster, tmp_path / "day 0", role="orderer")
    peer_volume = fabric_network.unpack("peer0", tmp_path / "p")
    BlockWriter(peer_volume / files.CHAINS["peer"] / "channel2").append(1)
    cluster.volumes = {**cluster.volumes, PEER: peer_volume}
    cluster.mounts = {PEER: files.PRODUCTION["peer"]}

    with pytest.raises(
        RestoreRefusedError, match=f"channel2: peer {PEER} holds it at height 1, orderer orderer0-0 does"
    ):
        SOURCES["orderer"].preview(cluster.host(), work(tmp_path, plain))
    SOURCES["orderer"].preview(cluster.host(), work(tmp_path, plain, allow_older=True))


def test_orderers_of_different_heights_are_not_put_back_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one, two = (fabric_network.unpack("orderer1", tmp_path / name) for name in ("one", "two"))
    block_file = two / "chains" / CHANNEL / "blockfile_000000"
    os.truncate(block_file, block_file.stat().st_size - 1)
    cluster = cluster_of(monkeypatch, "orderer", orderer0_0=one, orderer1_0=two)
    monkeypatch.setattr(ledger, "frozen", lambda uid, label: nullcontext())
    host = cluster.host()
    both = [read(SOURCES["orderer"], host, found, tmp_path) for found in SOURCES["orderer"].collect(host, "o")]

    with pytest.raises(RestoreRefusedError, match="channel gxchannel: orderer0-0 at 74, orderer1-0 at 73"):
        SOURCES["orderer"].preview(host, work(tmp_path, *both))
