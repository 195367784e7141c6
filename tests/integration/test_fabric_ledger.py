"""Ledgers read and put back without Kubernetes: real ones, and nodes that write while they are read."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import pytest

from gxbackup import clock, layout, trees
from gxbackup.adapters import freezer
from gxbackup.errors import CollectError, SourceMissingError
from gxbackup.fabric import blocks
from gxbackup.fabric import layout as files
from gxbackup.model import Artifact
from gxbackup.sources import ledger
from gxbackup.sources.ledger import Ledger
from tests import fabric_network
from tests.fabric_network import CHANNEL, HEIGHT, BlockWriter
from tests.integration.fabric_ledgers import ORDERER, PEER, SOURCES, age, capture, cluster_of, grow, held
from tests.integration.node import control_groups, writing_node
from tests.local_cluster import LocalCluster
from tests.opened import Read, read, work

TAR_BYTES = 512 * 1024  # of headers, and what pads a record


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with control_groups() as top:
        monkeypatch.setattr(freezer, "CGROUPS", top)
        yield top


def unpacked(into: Path, *levels: Read) -> Path:
    """Unpack with nothing of ours: GNU tar alone."""
    into.mkdir()
    for level in levels:
        command = ["tar", "-C", into, "--listed-incremental=/dev/null", "--numeric-owner", "-xpf", level.file]
        subprocess.run(command, check=True, timeout=60)
    return into


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
