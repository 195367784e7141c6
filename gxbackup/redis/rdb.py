"""
An RDB file: checked by Redis's own tool where it lies, counted, and looked at once more as it is read.

Source: the RDB format, https://github.com/redis/redis/blob/7.0/src/rdb.c (aux fields, RESIZEDB, EOF and checksum).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import NamedTuple

from gxbackup.errors import CollectError, CommandError, EmptyArtifactError, IntegrityError
from gxbackup.model import Evidence
from gxbackup.ports import Place, PlainStream, StreamEnd
from gxbackup.redis.server import KeyCount

CHECK_TIMEOUT_SECONDS = 3600
AUX, RESIZE_DB, EOF = 0xFA, 0xFB, 0xFF
TRAILER_BYTES = 9  # EOF and the checksum
HEAD_BYTES = 4096
SIZES_BYTES = 32
UNCHECKED = "unchecked"
# What differs between two saves of the same dataset.
VOLATILE = (b"ctime", b"used-mem")
# Another save may take the file's name meanwhile: all is asked of the file that was opened.
_CHECK = f"""exec 3<"$1" || exit 66
stat -L -c 'identity %i-%s-%Y' /dev/fd/3
command -v redis-check-rdb >/dev/null || {{ echo {UNCHECKED}; exit 0; }}
exec redis-check-rdb /dev/fd/3"""
_READ = """exec 3<"$1" || exit 66
[ "$(stat -L -c '%i-%s-%Y' /dev/fd/3)" = "$2" ] || { echo "$1 was replaced by another save meanwhile" >&2; exit 75; }
exec cat <&3"""


@dataclass(frozen=True)
class CheckedRdb:
    """What Redis's own tool said of a file; `identity` tells whether it is still that file."""

    identity: str
    database_offsets: dict[str, int]
    keys: int | None
    expires: int = 0
    expired: int = 0


def check(place: Place, file: str) -> CheckedRdb:
    """
    Have redis-check-rdb read a whole file where it lies; without that tool `keys` is None.

    Raises: CommandError where the file is not there, or damaged.
    """
    ended = place.run(["sh", "-c", _CHECK, "sh", file], timeout_seconds=CHECK_TIMEOUT_SECONDS, check=False)
    said = ended.text()
    identity = re.search(r"^identity (\S+)$", said, re.MULTILINE)
    if identity is None:
        raise CommandError(f"{place.name}: {file}: expected an RDB file, seen none: {ended.complaint()}")
    if ended.returncode != 0:
        raise CommandError(f"{place.name}: redis-check-rdb {file}: it is damaged: {' '.join(said.splitlines()[-6:])}")
    if said.endswith(UNCHECKED):
        return CheckedRdb(identity[1], {}, None)
    counted = {what: int(count) for count, what in re.findall(r"^\[info\] (\d+) (.+)$", said, re.MULTILINE)}
    offsets = re.findall(r"^\[offset (\d+)\] Selecting DB ID (\d+)$", said, re.MULTILINE)
    if "keys read" not in counted:
        raise CollectError(f"{place.name}: redis-check-rdb: expected `keys read`, seen {said[-200:]!r}")
    return CheckedRdb(
        identity[1],
        {database: int(offset) for offset, database in offsets},
        counted["keys read"],
        counted.get("expires", 0),
        counted.get("already expired", 0),
    )


def created_at(place: Place, file: str) -> int:
    """Return when an RDB says that its save began; 0 where it does not say. Raises: CommandError."""
    data = place.run(["head", "-c", str(HEAD_BYTES), file], timeout_seconds=60).stdout
    try:
        head = {aux.name: aux.value for aux in _aux_fields(data)}
    except IndexError:
        return 0
    told = head.get(b"ctime", b"")
    return int(told) if told.isdigit() else 0


def counts(place: Place, file: str) -> dict[str, KeyCount] | None:
    """Return the keys of each database as a whole file tells them; without Redis's tool None. Raises: CollectError."""
    checked = check(place, file)
    if checked.keys is None:
        return None
    script = f'tail -c +"$2" "$1" | head -c {SIZES_BYTES}'
    return {
        name: _sizes(
            place.run(["sh", "-c", script, "sh", file, str(at + 1)], timeout_seconds=CHECK_TIMEOUT_SECONDS).stdout
        )
        for name, at in checked.database_offsets.items()
    }


def read_argv(file: str, checked: CheckedRdb) -> list[str]:
    """Return the command that prints the file that was checked, and no other."""
    return ["sh", "-c", _READ, "sh", file, checked.identity]


class Aux(NamedTuple):
    """One field of an RDB's head; `start` and `end` are where its value lies."""

    name: bytes
    value: bytes
    start: int
    end: int


class RdbStream:
    """A PlainStream of an RDB that tells, at its end, what is in it."""

    def __init__(self, stream: PlainStream, checked: CheckedRdb, label: str) -> None:
        self._stream = stream
        self._checked = checked
        self._label = label
        self._digest = hashlib.sha256()
        self._head: list[Aux] | None = None
        self._pending = bytearray()
        self._position = 0
        self._sizes = {offset: bytearray() for offset in checked.database_offsets.values()}

    def readinto(self, buffer: memoryview) -> int:
        """Pass bytes on, and look at them."""
        count = self._stream.readinto(buffer)
        piece = buffer[:count]
        for offset, kept in self._sizes.items():
            start = offset + len(kept) - self._position
            if 0 <= start < count and len(kept) < SIZES_BYTES:
                kept += piece[start : start + SIZES_BYTES - len(kept)]
        self._position += count
        self._pending += piece
        if self._head is None and len(self._pending) >= HEAD_BYTES:
            self._open_head()
        if self._head is not None:
            self._digest.update(self._pending[:-TRAILER_BYTES])
            del self._pending[:-TRAILER_BYTES]
        return count

    def finish(self) -> StreamEnd:
        """Return the counts of the file itself; IntegrityError where it does not begin or end as an RDB does."""
        self._stream.finish()
        if not self._position:
            raise EmptyArtifactError(f"{self._label}: expected an RDB, seen an empty file")
        if self._head is None:
            self._open_head()
        trailer = bytes(self._pending[-TRAILER_BYTES:])
        if len(trailer) < TRAILER_BYTES or trailer[0] != EOF:
            raise IntegrityError(f"{self._label}: expected an RDB's end, seen {trailer.hex()}")
        self._digest.update(self._pending[:-TRAILER_BYTES])
        assert self._head is not None
        head = {aux.name: aux.value.decode("utf-8", "replace") for aux in self._head}
        evidence: Evidence = {"rdb_created_at": int(head.get(b"ctime", "0"))}
        checked = self._checked
        if checked.keys is not None:
            counts = {name: _sizes(bytes(self._sizes[at])) for name, at in checked.database_offsets.items()}
            evidence["databases"] = {name: {"keys": one.keys, "expires": one.expires} for name, one in counts.items()}
            evidence["keys"] = checked.keys
            evidence["expires"] = checked.expires
            if sum(one.keys for one in counts.values()) != checked.keys:
                raise IntegrityError(f"{self._label}: expected {checked.keys} keys, seen {counts} in its databases")
        return StreamEnd(evidence, content_sha256=self._digest.hexdigest())

    def _open_head(self) -> None:
        """Read the head; its volatile values do not count as content."""
        if not re.match(rb"REDIS\d{4}", self._pending):
            raise IntegrityError(f"{self._label}: expected an RDB, seen {bytes(self._pending[:9])!r}")
        try:
            self._head = _aux_fields(bytes(self._pending))
        except IndexError:
            raise IntegrityError(f"{self._label}: the RDB's head is cut") from None
        for aux in reversed(self._head):
            if aux.name in VOLATILE:
                del self._pending[aux.start : aux.end]


def _aux_fields(data: bytes) -> list[Aux]:
    fields: list[Aux] = []
    position = 9
    while position < len(data) and data[position] == AUX:
        name, value_at = _string(data, position + 1)
        value, end = _string(data, value_at)
        fields.append(Aux(name, value, value_at, end))
        position = end
    return fields


def _sizes(data: bytes) -> KeyCount:
    """Read what RESIZEDB says of a database; rdb.c writes it first, with the exact sizes."""
    if not data or data[0] != RESIZE_DB:
        raise CollectError(f"RDB: expected a database's sizes, seen {data[:4].hex()}", "is it of a Redis before 3.2?")
    keys, position = _length(data, 1)
    expires, _ = _length(data, position)
    return KeyCount(keys, expires)


def _length(data: bytes, at: int) -> tuple[int, int]:
    first = data[at]
    if first < 0x40:
        return first, at + 1
    if first < 0x80:
        return (first & 0x3F) << 8 | data[at + 1], at + 2
    width = 8 if first == 0x81 else 4
    return int.from_bytes(data[at + 1 : at + 1 + width], "big"), at + 1 + width


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    if data[at] & 0xC0 == 0xC0:  # an integer of 1, 2 or 4 bytes
        width = 1 << (data[at] & 3)
        value = int.from_bytes(data[at + 1 : at + 1 + width], "little", signed=True)
        return str(value).encode(), at + 1 + width
    length, start = _length(data, at)
    return data[start : start + length], start + length
