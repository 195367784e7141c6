"""The bytes of a dump on their way: its form is checked, and its content is named without the time it was made at."""

from __future__ import annotations

import hashlib
import re

from gxbackup.errors import CollectError, CommandError
from gxbackup.model import Evidence
from gxbackup.ports import PlainStream, StreamEnd
from gxbackup.postgres.listing import Listing
from gxbackup.postgres.said import explained
from gxbackup.postgres.server import connection

MAGIC = b"PGDMP"
CUSTOM_FORMAT = 1
# Magic, version (3 bytes), size of an integer, size of an offset, format; then compression, then the time.
_FIXED_BYTES = 11
_TIME_INTEGERS = 7
HEAD_BYTES = 128
COMPLETE = b"-- PostgreSQL database cluster dump complete"
_COMPLETE_WITHIN_LINES = 10
# psql's \restrict carries a new random word each time.
_RANDOM = re.compile(rb"^\\(un)?restrict .*\n?", re.MULTILINE)
GLOBALS_LIMIT_BYTES = 64 * 1024**2
# What pg_dumpall leaves out. Lists are spelled as they are kept: each of their names is quoted there.
_OF_ALL_ROLES = """SELECT format('ALTER ROLE ALL SET %I = %s;', name, CASE WHEN name IN ('search_path',
  'temp_tablespaces', 'local_preload_libraries', 'session_preload_libraries') AND value <> '' THEN value
  ELSE quote_literal(value) END)
  FROM pg_db_role_setting, unnest(setconfig) each,
  LATERAL (SELECT split_part(each, '=', 1) AS name, substr(each, strpos(each, '=') + 1) AS value) told
  WHERE setdatabase = 0 AND setrole = 0 ORDER BY name"""
_GLOBALS = 'psql -XqAtw -v ON_ERROR_STOP=1 -d "$1" -c "$2" && exec pg_dumpall --globals-only --no-password'


def globals_program(home: str) -> list[str]:
    """Return what writes the script of roles and tablespaces; `home` is a database that can be asked."""
    return ["sh", "-c", _GLOBALS, "sh", connection(home), _OF_ALL_ROLES]


class DumpStream:
    """A custom-format archive of pg_dump."""

    def __init__(self, stream: PlainStream, evidence: Evidence, listing: Listing, label: str) -> None:
        self._stream = stream
        self._evidence = evidence
        self._listing = listing
        self._label = label
        self._head = bytearray()
        self._content = hashlib.sha256()

    def readinto(self, buffer: memoryview) -> int:
        """See `PlainStream`."""
        count = self._stream.readinto(buffer)
        taken = min(count, HEAD_BYTES - len(self._head)) if len(self._head) < HEAD_BYTES else 0
        if taken:
            self._head += buffer[:taken]
            if len(self._head) == HEAD_BYTES:
                self._content.update(self._without_time())
        self._content.update(buffer[taken:count])
        self._listing.add(buffer[:count])
        return count

    def finish(self) -> StreamEnd:
        """See `PlainStream`; CollectError where it is no whole dump. What its own list lacks is a shortfall."""
        try:
            self._stream.finish()
        except CommandError as error:
            raise explained(error) from None
        if len(self._head) < HEAD_BYTES:
            raise CollectError(f"{self._label}: expected an archive of pg_dump, seen {len(self._head)} bytes")
        shortfalls = self._listing.shortfalls()
        return StreamEnd(
            {**self._evidence, "listed": self._listing.names_count()}, shortfalls, self._content.hexdigest()
        )

    def _without_time(self) -> bytes:
        head = self._head
        if head[:5] != MAGIC or head[10] != CUSTOM_FORMAT:
            raise CollectError(f"{self._label}: expected an archive of pg_dump, seen {bytes(head[:16])!r}")
        integer_bytes = 1 + head[8]
        # Version 1.15 (PostgreSQL 16) tells the compression's kind in one byte, older ones its level as an integer.
        start = _FIXED_BYTES + (1 if (head[5], head[6]) >= (1, 15) else integer_bytes)
        end = start + _TIME_INTEGERS * integer_bytes
        return bytes(head[:start]) + bytes(end - start) + bytes(head[end:])


class GlobalsStream:
    """A script of pg_dumpall --globals-only; small."""

    def __init__(self, stream: PlainStream, evidence: Evidence, shortfalls: tuple[str, ...], label: str) -> None:
        self._stream = stream
        self._evidence = evidence
        self._shortfalls = shortfalls
        self._label = label
        self._script = bytearray()

    def readinto(self, buffer: memoryview) -> int:
        """See `PlainStream`."""
        count = self._stream.readinto(buffer)
        self._script += buffer[:count]
        if len(self._script) > GLOBALS_LIMIT_BYTES:
            raise CollectError(f"{self._label}: expected at most {GLOBALS_LIMIT_BYTES} bytes of roles, seen more")
        return count

    def finish(self) -> StreamEnd:
        """See `PlainStream`; CollectError where it is no whole dump."""
        try:
            self._stream.finish()
        except CommandError as error:
            raise explained(error) from None
        last = bytes(self._script).rstrip().splitlines()[-_COMPLETE_WITHIN_LINES:]
        if COMPLETE not in last:
            raise CollectError(f"{self._label}: expected {COMPLETE.decode()!r} near its end, seen none: it was cut off")
        content = hashlib.sha256(_RANDOM.sub(b"", self._script)).hexdigest()
        return StreamEnd(self._evidence, self._shortfalls, content)
