"""Ledgers read and put back without Kubernetes: real ones, and nodes that write while they are read."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import pytest

from gxbackup import clock, layout, trees
from gxbackup.adapters import freezer
from gxbackup.adapters.places import LocalPlace
from gxbackup.adapters.volumes import Volume
from gxbackup.errors import (
    CollectError,
    IntegrityError,
    RestoreError,
    RestoreRefusedError,
    SetupError,
    SourceMissingError,
)
from gxbackup.fabric import blocks
from gxbackup.fabric import layout as files
from gxbackup.model import Artifact
from gxbackup.sources import ledger
from gxbackup.sources.ledger import Ledger
from gxbackup.volume_exchange import VolumeExchange
from tests import fabric_network
from tests.fabric_network import CHANNEL, HEIGHT, BlockWriter
from tests.integration.node import control_groups, writing_node
from tests.local_cluster import LocalCluster
from tests.opened import Read, read, work

PEER, ORDERER = "peer0-org1-0", "orderer0-0"
TAR_BYTES = 512 * 1024  # of headers, and what pads a record
SOURCES = {role: Ledger(role=role, node="here") for role in ("peer", "orderer")}


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with control_groups() as top:
        monkeypatch.setattr(freezer, "CGROUPS", top)
        yield top


def cluster_of(monkeypatch: pytest.MonkeyPatch, role: str, **volumes: Path) -> LocalCluster:
    cluster = LocalCluster({name.replace("_", "-"): folder for name, folder in volumes.items()}, files.PRODUCTION[role])

    def volume_of(asked: object, namespace: str, claim: str) -> Volume:
        folder = cluster.volumes[claim.removeprefix("data-")]
        return Volume(name="pv", folder=folder, driver="local", nodes=("here",))

    monkeypatch.setattr("gxbackup.adapters.volumes.volume_of", volume_of)
    return cluster


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LocalCluster:
    """A stopped peer with a real ledger."""
    cluster = cluster_of(monkeypatch, "peer", peer0_org1_0=fabric_network.unpack("peer0", tmp_path / "volumes"))
    monkeypatch.setattr(ledger, "frozen", lambda uid, label: nullcontext())
    return cluster


def capture(cluster: LocalCluster, into: Path, *last_good: Artifact, role: str = "peer") -> Read:
    (found,) = SOURCES[role].collect_since(cluster.host(), f"{role}-ledger", last_good)
    into.mkdir(exist_ok=True)
    return read(SOURCES[role], cluster.host(), found, into)


def held(plain: Read, snapshot: str | None = None) -> Artifact:
    """Return the artifact as the newest good copy tells it."""
    return plain.opened().artifact.model_copy(update={"held_in": snapshot or layout.snapshot_id(clock.now())})


def unpacked(into: Path, *levels: Read) -> Path:
    """Unpack with nothing of ours: GNU tar alone."""
    into.mkdir()
    for level in levels:
        command = ["tar", "-C", into, "--listed-incremental=/dev/null", "--numeric-owner", "-xpf", level.file]
        subprocess.run(command, check=True, timeout=60)
    return into


def age(folder: Path) -> None:
    """Make files as old as those of a node are that nobody writes now."""
    for path in folder.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000), follow_symlinks=False)


def grow(cluster: LocalCluster, blocks_more: int = 5, channel: str = "channel2") -> None:
    BlockWriter(cluster.volumes[PEER] / files.CHAINS["peer"] / channel).append(blocks_more)


def test_a_real_peer_is_kept_with_its_heights_and_without_what_it_rebuilds(peer: LocalCluster, tmp_path: Path) -> None:
    plain = capture(peer, tmp_path / "day 0")

    tree = unpacked(tmp_path / "out", plain)
    assert plain.end.shortfalls == ()
    assert plain.end.evidence["heights"] == {CHANNEL: HEIGHT}
    assert blocks.read_chains(tree / files.CHAINS["peer"], check_data=True)[CHANNEL].height == HEIGHT
    assert not (tree / "ledgersData" / "stateLeveldb").exists()
    assert not (tree / "ledgersData" / "chains" / "index").exists()
    for kept in ("ledgersData/pvtdataStore/000009.ldb", "ledgersData/ledgerProvider/CURRENT"):
        assert (tree / kept).read_bytes() == (peer.volumes[PEER] / kept).read_bytes()


def test_a_real_orderer_keeps_its_raft_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cluster = cluster_of(monkeypatch, "orderer", orderer0_0=fabric_network.unpack("orderer1", tmp_path / "volumes"))
    cluster.stopped = set()
    monkeypatch.setattr(ledger, "frozen", lambda uid, label: nullcontext())

    plain = capture(cluster, tmp_path / "day 0", role="orderer")

    tree = unpacked(tmp_path / "out", plain)
    wal = Path("etcdraft/wal/gxchannel/0000000000000000-0000000000000000.wal")
    assert plain.end.evidence["heights"] == {CHANNEL: HEIGHT}
    assert subprocess.run(["cmp", tree / wal, cluster.volumes[ORDERER] / wal], check=False, timeout=60).returncode == 0
    assert plain.file.stat().st_size < 8 * 1024**2
    assert not (tree / wal.with_name("0.tmp")).exists()
    assert any("74" in line for line in SOURCES["orderer"].rehearse(cluster.host(), work(tmp_path, plain)))


def test_the_second_day_costs_what_was_written_since(peer: LocalCluster, tmp_path: Path) -> None:
    chains = peer.volumes[PEER] / files.CHAINS["peer"]
    writer = BlockWriter(chains / "channel2")
    for _ in range(20):
        writer.append(10, transaction_bytes=100_000)
        writer.next_file()
    age(peer.volumes[PEER])
    first = capture(peer, tmp_path / "day 0")
    base = held(first)
    writer.append(5, transaction_bytes=10_000)

    second = capture(peer, tmp_path / "day 1", base)

    assert (second.capture.settings["level"], second.capture.base) == (1, base.held_in)
    assert first.file.stat().st_size > 40_000_000
    assert second.file.stat().st_size < writer.file.stat().st_size + TAR_BYTES
    tree = unpacked(tmp_path / "out", first, second)
    trees.compare(second.end.evidence["tree"], trees.tally(tree))
    assert blocks.read_chains(tree / files.CHAINS["peer"], check_data=True)["channel2"].height == 205


def test_what_was_removed_since_the_full_one_is_gone_after_both_are_unpacked(
    peer: LocalCluster, tmp_path: Path
) -> None:
    first = capture(peer, tmp_path / "day 0")
    (peer.volumes[PEER] / "ledgersData" / "pvtdataStore" / "000004.ldb").unlink()
    (peer.volumes[PEER] / "ledgersData" / "pvtdataStore" / "000099.ldb").write_bytes(b"compacted")

    second = capture(peer, tmp_path / "day 1", held(first))

    tree = unpacked(tmp_path / "out", first, second)
    names = {path.name for path in (tree / "ledgersData" / "pvtdataStore").iterdir()}
    assert "000099.ldb" in names
    assert "000004.ldb" not in names
    trees.compare(second.end.evidence["tree"], trees.tally(tree))


def test_a_day_without_a_block_is_a_small_level_1(peer: LocalCluster, tmp_path: Path) -> None:
    first = capture(peer, tmp_path / "day 0")

    second = capture(peer, tmp_path / "day 1", held(first))

    assert second.capture.settings["level"] == 1
    assert second.end.evidence["heights"] == {CHANNEL: HEIGHT}
    SOURCES["peer"].rehearse(peer.host(), work(tmp_path, first, second))


@pytest.mark.parametrize(
    "lost", ["not on the remote", "of another level 0", "memory gone", "memory changed", "too old"]
)
def test_without_its_base_whole_and_young_a_capture_is_a_full_one(
    peer: LocalCluster, tmp_path: Path, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = capture(peer, tmp_path / "day 0")
    area = ledger.frozen_copy(peer.volumes[PEER], "peer").area
    last_good = [held(first)]
    match lost:
        case "not on the remote":
            last_good = []
        case "of another level 0":
            capture(peer, tmp_path / "another")
        case "memory gone":
            (area / "full.snar").unlink()
        case "memory changed":
            (area / "full.snar").write_bytes(b"something else")
        case "too old":
            last_good = [held(first, layout.snapshot_id(clock.now() - timedelta(days=7, minutes=1)))]

    second = capture(peer, tmp_path / "day 1", *last_good)

    assert second.capture.settings["level"] == 0
    assert second.capture.base is None
    assert blocks.read_chain(unpacked(tmp_path / "out", second) / files.CHAINS["peer"] / CHANNEL).height == HEIGHT


def test_the_copy_of_a_volume_that_is_gone_goes_too_and_no_other(peer: LocalCluster, tmp_path: Path) -> None:
    beside = peer.volumes[PEER].parent
    for name in ("gone", "there"):
        (beside / f".gxbackup-frozen-{name}" / "tree").mkdir(parents=True)
        (beside / f".gxbackup-frozen-{name}" / "tree" / "blockfile_000000").write_bytes(b"blocks")
    (beside / "there").mkdir()
    (peer.volumes[PEER] / ".gxbackup-frozen-production" / "tree").mkdir(parents=True)  # reached otherwise, once

    capture(peer, tmp_path / "day 0")

    assert not (beside / ".gxbackup-frozen-gone").exists()
    assert not (peer.volumes[PEER] / ".gxbackup-frozen-production").exists()
    assert (beside / ".gxbackup-frozen-there" / "tree" / "blockfile_000000").exists()


def test_a_chain_that_does_not_hold_is_a_shortfall_and_its_files_are_kept(peer: LocalCluster, tmp_path: Path) -> None:
    grow(peer, 20)
    file = peer.volumes[PEER] / files.CHAINS["peer"] / "channel2" / "blockfile_000000"
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2 // 500 * 500 + 40] ^= 1
    file.write_bytes(damaged[: len(damaged) // 2] + damaged[len(damaged) // 2 + 3 :])

    plain = capture(peer, tmp_path / "day 0")

    (shortfall,) = plain.end.shortfalls
    assert "channel channel2" in shortfall
    assert plain.end.evidence["heights"] == {CHANNEL: HEIGHT}


def test_a_peer_without_a_pod_is_missed_beside_others_until_it_is_said_to_be_retired(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    volumes = {f"peer{number}_org1_0": fabric_network.unpack("peer0", tmp_path / f"v{number}") for number in (0, 1)}
    cluster = cluster_of(monkeypatch, "peer", **volumes)
    monkeypatch.setattr(ledger, "frozen", lambda uid, label: nullcontext())
    source = SOURCES["peer"]
    last_good = [
        held(read(source, cluster.host(), one, tmp_path)) for one in source.collect(cluster.host(), "peer-ledger")
    ]
    cluster.stopped = {"peer1-org1-0"}

    (found,) = source.collect_since(cluster.host(), "peer-ledger", last_good)

    (shortfall,) = read(source, cluster.host(), found, tmp_path).end.shortfalls
    assert shortfall.startswith("peer-ledger: peer1-org1-0: expected as in the last good copy, seen on no node")
    retired = source.model_copy(update={"retired": ("peer1-org1-0",)})
    (quiet,) = retired.collect_since(cluster.host(), "peer-ledger", last_good)
    assert read(retired, cluster.host(), quiet, tmp_path).end.shortfalls == ()


def test_a_ledger_that_its_node_reaches_in_no_way_is_a_shortfall_and_costs_no_other(
    peer: LocalCluster, tmp_path: Path
) -> None:
    peer.volumes["peer1-org1-0"] = tmp_path
    peer.mounts["peer1-org1-0"] = ""  # on no claim, and no process of it runs here

    read_whole, not_read = SOURCES["peer"].collect(peer.host(), "peer-ledger")

    assert read(SOURCES["peer"], peer.host(), read_whole, tmp_path).end.shortfalls == ()
    tried = "peer1-org1-0: expected a claim at /var/hyperledger/prod.*; nor as its containers see it: .*control group"
    with pytest.raises(SourceMissingError, match=tried) as shortfall:
        read(SOURCES["peer"], peer.host(), not_read, tmp_path)
    assert "in its claim's folder, else as its running containers see it" in shortfall.value.hints[0]
    peer.mounts[PEER] = ""
    with pytest.raises(SourceMissingError, match="expected a claim at"):
        SOURCES["peer"].collect(peer.host(), "peer-ledger")


def test_a_copy_that_goes_while_it_is_read_is_no_backup(peer: LocalCluster, tmp_path: Path) -> None:
    (found,) = SOURCES["peer"].collect(peer.host(), "peer-ledger")
    buffer = memoryview(bytearray(256 * 1024))

    with SOURCES["peer"].open(peer.host(), found) as stream:
        while stream.readinto(buffer):
            pass
        shutil.rmtree(ledger.frozen_copy(peer.volumes[PEER], "peer").tree / "ledgersData")
        with pytest.raises(CollectError, match=f"{PEER}: its copy went while it was read"):
            stream.finish()

    (again,) = SOURCES["peer"].collect(peer.host(), "peer-ledger")
    assert again.settings["level"] == 0


def test_volumes_of_another_node_are_named_with_their_node(peer: LocalCluster) -> None:
    with pytest.raises(SourceMissingError, match=f"on node {socket.gethostname()}, seen {PEER} on here"):
        Ledger(role="peer").collect(peer.host(), "peer-ledger")


def test_a_peer_that_writes_all_the_time_is_captured_as_of_one_moment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, groups: Path
) -> None:
    volume = tmp_path / "volumes" / "p"
    cluster = cluster_of(monkeypatch, "peer", peer0_org1_0=volume)
    last_good: list[Artifact] = []
    with writing_node(groups, PEER, volume, files.CHAINS["peer"]):
        plains = []
        for day in range(4):
            plains.append(capture(cluster, tmp_path / f"day {day}", *last_good))
            last_good = [held(plains[-1])]

    assert [plain.capture.settings["level"] for plain in plains] == [0, 1, 1, 1]
    for day, plain in enumerate(plains):
        tree = unpacked(tmp_path / f"out {day}", *([plains[0]] if day else []), plain)
        height = blocks.read_chains(tree / files.CHAINS["peer"], check_data=True)["channel1"].height
        log = (tree / "ledgersData" / "pvtdataStore" / "000001.log").read_bytes()
        current = int((tree / "ledgersData" / "pvtdataStore" / "CURRENT").read_text())
        assert plain.end.evidence["heights"] == {"channel1": height}
        assert int(log[-8:]) in (height, height - 1), "private data and blocks are of one moment"
        assert current in (int(log[-8:]), int(log[-8:]) - 1)
        assert plain.end.shortfalls == ()
    heights = [plain.end.evidence["heights"]["channel1"] for plain in plains]
    assert heights == sorted(set(heights))


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
