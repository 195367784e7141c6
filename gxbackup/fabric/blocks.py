"""
Reads Fabric's block files: how high a chain is, and whether each block follows from the one before it.

A block file is a row of blocks: a varint length, then number (varint), data hash and previous hash (each with its
length), then the transactions and the metadata. Only a block's head is read unless its data is checked too.
Source: Fabric 2.5, common/ledger/blkstorage/block_serialization.go; golden files in tests/golden/fabric.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gxbackup.errors import IntegrityError

BLOCK_FILE = re.compile(r"blockfile_(\d{6})")
SNAPSHOT_MARK = "bootstrappingSnapshot.info"  # Fabric 2.5, common/ledger/blkstorage/blockfile_mgr.go
HEAD_BYTES = 256
LARGEST_BLOCK_BYTES = 1024**3
_VARINT_BYTES = 10


@dataclass(frozen=True)
class Chain:
    """What the block files of one channel hold."""

    first: int  # 0, but for a peer that joined by a snapshot
    height: int  # the number of the next block
    last_header_sha256: str  # equal on two nodes of equal height: no fork
    torn_bytes: int = 0  # of a last block that was still being written; Fabric cuts it off when it starts


@dataclass(frozen=True)
class _Header:
    number: int
    data_hash: bytes
    previous_hash: bytes
    size_bytes: int  # of the header as serialized in the file

    def sha256(self) -> bytes:
        """Return the hash that the next block names: of the header's ASN.1 DER."""
        content = _der(0x02, _integer(self.number)) + _der(0x04, self.previous_hash) + _der(0x04, self.data_hash)
        return hashlib.sha256(_der(0x30, content)).digest()


def channels(chains: Path) -> dict[str, Path]:
    """Return the channels' folders below a `chains` folder, by name; empty where there is none."""
    if not chains.is_dir():
        return {}
    return {folder.name: folder for folder in sorted(chains.iterdir()) if folder.is_dir() and block_files(folder)}


def block_files(folder: Path) -> list[Path]:
    """Return a channel's block files in their order."""
    return sorted(file for file in folder.iterdir() if BLOCK_FILE.fullmatch(file.name))


def read_chain(folder: Path, *, check_data: bool = False) -> Chain:
    """
    Follow one channel's chain from its first block file to the last.

    With `check_data` the transactions are read too, and held against the hash in their block's header. A torn last
    block of the last file is no fault: it is what a crash leaves too.

    Raises: IntegrityError naming the file and the block where the chain does not hold; where there is no block at all.
    """
    files = block_files(folder)
    previous: _Header | None = None
    first = torn_bytes = 0
    for position, file in enumerate(files):
        if position and int(file.name[-6:]) != int(files[position - 1].name[-6:]) + 1:
            raise IntegrityError(f"{file}: expected the file after {files[position - 1].name}, seen a gap")
        for header in _headers(file, check_data):
            if isinstance(header, int):
                torn_bytes = header
                if file != files[-1]:
                    raise IntegrityError(f"{file}: expected whole blocks, seen the last one cut off")
            elif previous is None:
                first = header.number
                previous = header
            else:
                _require_follows(previous, header, file)
                previous = header
    if previous is None:
        raise IntegrityError(f"{folder}: expected blocks, seen none in {len(files)} files")
    return Chain(first, previous.number + 1, previous.sha256().hex(), torn_bytes)


def read_chains(chains: Path, *, check_data: bool = False) -> dict[str, Chain]:
    """Follow every channel's chain below a `chains` folder. Raises: IntegrityError, see `read_chain`."""
    return {name: read_chain(folder, check_data=check_data) for name, folder in channels(chains).items()}


def readable_heights(chains: Path) -> dict[str, int]:
    """Return the height of each channel whose chain holds: one that is damaged hides no other."""
    found = {}
    for name, folder in channels(chains).items():
        with suppress(IntegrityError):
            found[name] = read_chain(folder).height
    return found


def joined_by_snapshot(chains: Path) -> list[str]:
    """
    Return the channels that a peer joined by a snapshot: by Fabric's mark, or by blocks that begin above the first.

    It lacks the blocks before, so that it rebuilds neither index nor state of such a one, and does not start without.
    """
    if not chains.is_dir():
        return []
    folders = sorted(folder for folder in chains.iterdir() if folder.is_dir())
    return [folder.name for folder in folders if (folder / SNAPSHOT_MARK).exists() or _first_number(folder) > 0]


def heights(chains: Mapping[str, Chain]) -> dict[str, int]:
    """Return each channel's height."""
    return {name: chain.height for name, chain in chains.items()}


def _first_number(folder: Path) -> int:
    """Return the number of a channel's first block; 0 where none can be read."""
    with suppress(IntegrityError, FileNotFoundError):  # gone since it was listed, where its peer runs
        for file in block_files(folder)[:1]:
            header = next(_headers(file, check_data=False), None)
            return header.number if isinstance(header, _Header) else 0
    return 0


def _headers(file: Path, check_data: bool) -> Iterator[_Header | int]:
    """Yield each block's header; last, as a number, the bytes of a torn block."""
    with file.open("rb", buffering=0) as opened:
        handle = opened.fileno()
        size_bytes = os.fstat(handle).st_size
        position = 0
        while position < size_bytes:
            head = os.pread(handle, HEAD_BYTES, position)
            length, begin = _varint(head, 0)
            if begin == 0:  # the length itself is cut off
                yield size_bytes - position
                return
            if length == 0:
                return
            end = position + begin + length
            if length > LARGEST_BLOCK_BYTES:
                raise IntegrityError(f"{file}: expected a block at byte {position}, seen a length of {length} bytes")
            if end > size_bytes:
                yield size_bytes - position
                return
            header = _header(head[begin : begin + length], file, position)
            if check_data:
                body = os.pread(handle, length, position + begin)
                _require_data(header, memoryview(body)[header.size_bytes :], file)
            yield header
            position = end


def _header(block: bytes, file: Path, position: int) -> _Header:
    number, at = _varint(block, 0)
    data_hash, at = _field(block, at)
    previous_hash, at = _field(block, at)
    if at == 0 or len(data_hash) != 32 or len(previous_hash) not in (0, 32):
        raise IntegrityError(f"{file}: expected a block of Fabric at byte {position}, seen something else")
    return _Header(number, data_hash, previous_hash, at)


def _require_follows(previous: _Header, header: _Header, file: Path) -> None:
    if header.number != previous.number + 1:
        raise IntegrityError(f"{file}: expected block {previous.number + 1}, seen block {header.number}")
    if header.previous_hash != previous.sha256():
        raise IntegrityError(
            f"{file}: block {header.number}: expected previous hash {previous.sha256().hex()}, "
            f"seen {header.previous_hash.hex()}",
            "the chain is damaged or forked here; another node's copy may be whole",
        )


def _require_data(header: _Header, body: memoryview, file: Path) -> None:
    count, at = _varint(body, 0)
    digest = hashlib.sha256()
    for _ in range(count):
        length, begin = _varint(body, at)
        if begin == 0 or begin + length > len(body):
            raise IntegrityError(f"{file}: block {header.number}: expected {count} transactions, seen them cut off")
        digest.update(body[begin : begin + length])
        at = begin + length
    if digest.digest() != header.data_hash:
        raise IntegrityError(
            f"{file}: block {header.number}: expected data hash {header.data_hash.hex()}, seen {digest.hexdigest()}",
            "a byte of this block was changed on the disk or on the way",
        )


def _field(data: bytes, at: int) -> tuple[bytes, int]:
    """Return a field that begins with its length, and where the next one begins (0: cut off)."""
    length, begin = _varint(data, at) if at else (0, 0)
    if begin == 0 or begin + length > len(data):
        return b"", 0
    return data[begin : begin + length], begin + length


def _varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Return a protobuf varint and where the next field begins (0: cut off)."""
    value = 0
    for step, byte in enumerate(data[at : at + _VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * step
        if byte < 0x80:
            return value, at + step + 1
    return 0, 0


def _integer(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big")


def _der(tag: int, content: bytes) -> bytes:
    length = len(content)
    size = bytes([length]) if length < 0x80 else bytes([0x81, length])
    return bytes([tag]) + size + content
