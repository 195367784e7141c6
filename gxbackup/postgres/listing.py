"""
An archive's own list, held against what was counted in the same snapshot: what it does not name was not dumped.

pg_dump may end well and still have left something out. An archive begins with its list, so that its first bytes, kept
while they stream by, are enough for `pg_restore --list`.
"""

from __future__ import annotations

import re

from gxbackup.errors import CommandError
from gxbackup.model import Frozen
from gxbackup.packed import PackedFile
from gxbackup.postgres.evidence import RELATIONS, USERS
from gxbackup.postgres.server import Server, Session

# How much of an archive is tried; the first holds the list of several hundred objects, the last of a hundred thousand.
BEGINNINGS_BYTES = (256 * 1024, 4 * 1024**2, 64 * 1024**2)
NAMES_TOLD = 10
_TIMEOUT_SECONDS = 600
UNSUPPORTED = "unsupported version"
TOO_SHORT = "could not read from input file"
# pg_restore stops reading behind the list.
_LIST = "pg_restore --list && exec cat >/dev/null"
# `3361; 0 16388 TABLE DATA public account app`, `218; 1259 16388 TABLE public account app`: numbers, kind, name.
_ENTRY = re.compile(r"^\d+; (\d+ \d+) (TABLE DATA|SEQUENCE SET|EXTENSION|BLOBS)?", re.MULTILINE)
_NAME = "format('%I.%I', n.nspname, c.relname)"
# What users made there is in no dump; whatever a server is made with has a lower number than 16384.
_SYSTEM_SCHEMAS = "n.nspname IN ('pg_catalog', 'information_schema')"
_IN_SYSTEM = "'(no dump holds what lies in a system schema: move it to another)'"
_ENTRIES = f"""SELECT concat_ws(' ', '1259', c.oid), '', concat_ws(' ', 'the definition of', {_NAME})
  {RELATIONS} WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND {USERS}
UNION ALL SELECT concat_ws(' ', '0', c.oid), 'TABLE DATA', concat_ws(' ', 'the rows of', {_NAME})
  {RELATIONS} WHERE c.relkind = 'r' AND {USERS}
UNION ALL SELECT concat_ws(' ', '3079', oid), 'EXTENSION', concat_ws(' ', 'extension', extname)
  FROM pg_extension WHERE oid >= 16384
UNION ALL SELECT concat_ws(' ', '1259', c.oid), 'OURS', concat_ws(' ', {_NAME}, {_IN_SYSTEM})
  {RELATIONS} WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND {_SYSTEM_SCHEMAS} AND c.oid >= 16384
  AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = c.tableoid AND e.objid = c.oid AND e.deptype = 'e')
UNION ALL SELECT concat_ws(' ', '1255', p.oid), 'OURS', concat_ws(' ', 'function', p.oid::regprocedure, {_IN_SYSTEM})
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE {_SYSTEM_SCHEMAS} AND p.oid >= 16384
  AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = p.tableoid AND e.objid = p.oid AND e.deptype = 'e')
UNION ALL SELECT '', 'BLOBS', 'the large objects' WHERE EXISTS (SELECT FROM pg_largeobject_metadata)
ORDER BY 3;"""  # noqa: S608 - of constants
_SEQUENCES = f"SELECT count(*) {RELATIONS} WHERE c.relkind = 'S' AND {USERS};"


class Expected(Frozen):
    """What the list of a whole archive names: each entry's numbers and kind → its words."""

    entries: dict[tuple[str, str], str]
    sequences: int


def expected(session: Session) -> Expected:
    """Ask what an archive has to name, in the session's transaction."""
    entries = {(numbers, kind): words for numbers, kind, words in session.ask(_ENTRIES, 3)}
    return Expected(entries=entries, sequences=int(session.value(_SEQUENCES)))


def lacking(told: str, wanted: Expected) -> list[str]:
    """Return what a list does not name, each in words."""
    found = _ENTRY.findall(told)
    listed = {*found, *((numbers, "") for numbers, _ in found), *(("", kind) for _, kind in found)}
    missing = [words for entry, words in wanted.entries.items() if entry not in listed]
    values = sum(kind == "SEQUENCE SET" for _, kind in found)
    if values < wanted.sequences:
        missing.append(f"the values of {wanted.sequences - values} of {wanted.sequences} sequences")
    return missing


def is_bare(server: Server, file: PackedFile) -> bool:
    """
    Tell whether an archive holds nothing but what is about its database itself: its own list then names nothing.

    Asked of an older snapshot's, whose evidence does not tell how much that is. Also true where pg_restore there is too
    old to say: such a restore is refused. Raises: CommandError.
    """
    if file.plain_size_bytes > BEGINNINGS_BYTES[0]:
        return False
    try:
        told = server.run(["sh", "-c", _LIST], stdin=file.beginning(file.plain_size_bytes))
    except CommandError as error:
        if UNSUPPORTED in error.message:
            return True
        raise
    return _ENTRY.search(told) is None


class Listing:
    """The list of one archive that streams by."""

    def __init__(self, server: Server, wanted: Expected, label: str) -> None:
        self._server = server
        self._wanted = wanted
        self._label = label
        self._beginning: bytearray | None = bytearray()
        self._sizes = list(BEGINNINGS_BYTES)
        self._list: str | None = None

    def add(self, piece: memoryview) -> None:
        """Take the next bytes; nothing is kept once the list is whole. Raises: CommandError."""
        if self._beginning is None:
            return
        self._beginning += piece
        if len(self._beginning) >= self._sizes[0]:
            self._list = self._read()
            self._sizes.pop(0)
            if self._list is not None or not self._sizes:
                self._beginning = None

    def names_count(self) -> int | None:
        """Return how many things the list names, once `shortfalls` was asked; None where it could not be read."""
        return None if self._list is None else len(_ENTRY.findall(self._list))

    def shortfalls(self) -> tuple[str, ...]:
        """Return what is wrong with it, once the last byte was taken. Raises: CommandError."""
        if self._beginning is not None:
            self._list = self._read()
        if self._list is None:
            return (f"{self._label}: its list could not be read from its first {BEGINNINGS_BYTES[-1]} bytes",)
        if missing := lacking(self._list, self._wanted):
            more = f" and {len(missing) - NAMES_TOLD} more" if len(missing) > NAMES_TOLD else ""
            return (f"{self._label}: the archive's own list lacks {', '.join(missing[:NAMES_TOLD])}{more}",)
        return ()

    def _read(self) -> str | None:
        """Return the list; None where what is kept does not hold all of it."""
        assert self._beginning is not None
        try:
            return self._server.run(["sh", "-c", _LIST], stdin=bytes(self._beginning), timeout_seconds=_TIMEOUT_SECONDS)
        except CommandError as error:
            if TOO_SHORT in error.message:
                return None
            raise
