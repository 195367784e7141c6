"""Block files, read as Fabric writes them: real ones, and ones with every kind of damage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gxbackup.errors import IntegrityError
from gxbackup.fabric import blocks
from tests import fabric_network
from tests.fabric_network import CHANNEL, HEIGHT, BlockWriter


@pytest.fixture(scope="module")
def peer_chains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fabric_network.unpack("peer0", tmp_path_factory.mktemp("peer")) / "ledgersData" / "chains" / "chains"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    writer = BlockWriter(tmp_path / "chains" / "channel1")
    writer.append(300)
    writer.next_file()
    writer.append(200)
    return tmp_path / "chains" / "channel1"


def test_a_real_peer_and_a_real_orderer_hold_the_same_chain(peer_chains: Path, tmp_path: Path) -> None:
    orderer_chains = fabric_network.unpack("orderer1", tmp_path) / "chains"

    peer = blocks.read_chains(peer_chains, check_data=True)
    orderer = blocks.read_chains(orderer_chains, check_data=True)

    assert blocks.heights(peer) == {CHANNEL: HEIGHT}
    assert peer == orderer


def test_a_chain_over_several_files_is_followed_to_its_end(written: Path) -> None:
    chain = blocks.read_chain(written, check_data=True)

    assert (chain.first, chain.height, chain.torn_bytes) == (0, 500, 0)


def test_the_header_hash_of_numbers_with_their_highest_bit_set_is_that_of_der(tmp_path: Path) -> None:
    writer = BlockWriter(tmp_path)
    writer.number = 0x7FFE
    writer.append(4)

    chain = blocks.read_chain(tmp_path)

    assert (chain.first, chain.height) == (0x7FFE, 0x8002)


@pytest.mark.parametrize("cut_bytes", [1, 3, 100, 500])
def test_a_torn_last_block_is_told_and_the_height_is_that_of_the_whole_blocks(written: Path, cut_bytes: int) -> None:
    last = written / "blockfile_000001"
    size_bytes = last.stat().st_size // 200
    with last.open("r+b") as file:
        file.truncate(last.stat().st_size - cut_bytes)

    chain = blocks.read_chain(written)

    cut_blocks = -(-cut_bytes // size_bytes)
    assert chain.height == 500 - cut_blocks
    assert 0 < chain.torn_bytes < size_bytes + 10


def test_a_torn_block_in_the_middle_of_a_chain_is_damage(written: Path) -> None:
    first = written / "blockfile_000000"
    with first.open("r+b") as file:
        file.truncate(first.stat().st_size - 1)

    with pytest.raises(IntegrityError, match="blockfile_000000: expected whole blocks, seen the last one cut off"):
        blocks.read_chain(written)


def test_zeros_behind_the_last_block_end_the_chain(written: Path) -> None:
    with (written / "blockfile_000001").open("ab") as file:
        file.write(bytes(4096))

    assert blocks.read_chain(written).height == 500


def test_a_flipped_byte_of_a_transaction_is_found_where_data_is_checked(peer_chains: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    copied.mkdir()
    damaged = bytearray((peer_chains / CHANNEL / "blockfile_000000").read_bytes())
    damaged[200_000] ^= 1
    (copied / "blockfile_000000").write_bytes(damaged)

    assert blocks.read_chain(copied).height == HEIGHT
    with pytest.raises(IntegrityError, match=r"block \d+: expected data hash"):
        blocks.read_chain(copied, check_data=True)


def test_a_block_of_another_history_is_found_by_its_header(written: Path, tmp_path: Path) -> None:
    forked = BlockWriter(tmp_path / "forked")
    forked.number = 500
    forked.append(1)
    with (written / "blockfile_000001").open("ab") as file:
        file.write((tmp_path / "forked" / "blockfile_000000").read_bytes())

    with pytest.raises(IntegrityError, match="block 500: expected previous hash [0-9a-f]{64}, seen"):
        blocks.read_chain(written)


def test_a_lost_file_in_between_is_named(written: Path) -> None:
    (written / "blockfile_000001").rename(written / "blockfile_000002")

    with pytest.raises(IntegrityError, match="blockfile_000002: expected the file after blockfile_000000, seen a gap"):
        blocks.read_chain(written)


@pytest.mark.parametrize("content", [b"", bytes(4096), b"\xff" * 4096, b"not a block at all" * 1000])
def test_what_is_no_block_file_has_no_height(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "blockfile_000000").write_bytes(content)

    with pytest.raises(IntegrityError, match="expected"):
        blocks.read_chain(tmp_path)


def test_memory_stays_flat_however_long_the_chain(tmp_path: Path) -> None:
    writer = BlockWriter(tmp_path)
    writer.append(32, transaction_bytes=1024**2)
    program = (
        "import resource, sys; from pathlib import Path; from gxbackup.fabric import blocks;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "blocks.read_chain(Path(sys.argv[1]), check_data=True);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )

    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True, timeout=60)

    assert int(done.stdout) < 32 * 1024
