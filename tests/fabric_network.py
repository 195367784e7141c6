"""Fabric's files for tests: real ones (tests/golden), and block files that grow as long as a test needs."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden" / "fabric"
PACKAGE = next(GOLDEN.glob("gx_1.*.tar.gz"))
CHANNEL, HEIGHT = "gxchannel", 74
_PEER, _ORDERER = "p0", "o1"


def unpack(name: str, into: Path) -> Path:
    """Unpack `peer0` or `orderer1` and return the folder that its volume is."""
    into.mkdir(parents=True, exist_ok=True)
    command = ["tar", "--zstd", "-xf", str(GOLDEN / f"{name}.tar.zst"), "-C", str(into)]
    subprocess.run(command, check=True, timeout=60)
    for log in into.rglob("etcdraft/wal/*/*"):  # raft makes them large and empty
        subprocess.run(["fallocate", "--dig-holes", str(log)], check=True, timeout=60)
    return into / {"peer0": _PEER, "orderer1": _ORDERER}[name]


def join_by_snapshot(channel: Path) -> Path:
    """Make a channel's folder one that its peer joined by a snapshot; return the mark that Fabric leaves."""
    channel.mkdir(exist_ok=True)
    mark = channel / "bootstrappingSnapshot.info"
    mark.write_bytes(b"\x08" + varint(HEIGHT))
    return mark


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def _sized(data: bytes) -> bytes:
    return varint(len(data)) + data


def _der(tag: int, content: bytes) -> bytes:
    assert len(content) < 0x80
    return bytes([tag, len(content)]) + content


class BlockWriter:
    """Writes a chain as Fabric stores it: appends blocks to `blockfile_NNNNNN`, and starts the next file when told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.number = 0
        self.file_number = 0
        self._previous = b""

    @property
    def file(self) -> Path:
        return self.folder / f"blockfile_{self.file_number:06d}"

    def block(self, transactions: Sequence[bytes]) -> bytes:
        """Return the next block's bytes, and count it as written."""
        data_hash = hashlib.sha256(b"".join(transactions)).digest()
        body = varint(self.number) + _sized(data_hash) + _sized(self._previous)
        body += varint(len(transactions)) + b"".join(map(_sized, transactions))
        body += varint(2) + _sized(b"signature") + _sized(b"")
        number = self.number.to_bytes(self.number.bit_length() // 8 + 1, "big")
        header = _der(0x02, number) + _der(0x04, self._previous) + _der(0x04, data_hash)
        self._previous = hashlib.sha256(_der(0x30, header)).digest()
        self.number += 1
        return _sized(body)

    def append(self, count: int, transaction_bytes: int = 200) -> None:
        """Append blocks of two transactions each, one of them random."""
        with self.file.open("ab") as file:
            for _ in range(count):
                file.write(self.block([os.urandom(transaction_bytes), bytes(transaction_bytes)]))

    def next_file(self) -> None:
        self.file_number += 1
