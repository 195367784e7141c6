"""
The SQLite datastore of a single K3s server: copied while it is in use, and looked at. Knows no K3s.

A plain copy of state.db under its write-ahead log gave none of 1000 rows and passed SQLite's own check, so it is
copied by SQLite itself. Source: sqlite.org/backup.html; the table `kine` of k3s-io/kine.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from gxbackup.errors import IntegrityError
from gxbackup.etcd_snapshot import SnapshotState, count_objects

BUSY_TIMEOUT_SECONDS = 60
# The newest row of a name tells whether it lives: with max(), SQLite takes the other columns from that row.
_LIVING = "SELECT name FROM (SELECT name, deleted, max(id) FROM kine GROUP BY name) WHERE deleted = 0"
_PAIRS = "SELECT name, value FROM (SELECT name, value, deleted, max(id) FROM kine GROUP BY name) WHERE deleted = 0"


def copy(source: Path, into: Path) -> None:
    """
    Copy a database in use, as of one moment, into one file without a log beside it.

    Raises: IntegrityError where SQLite cannot read it.
    """
    try:
        with closing(_opened(source, "rw")) as live, closing(_opened(into, "rwc")) as copied:
            live.backup(copied)
            copied.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise IntegrityError(f"{source}: SQLite: {error}", retryable=True) from None


def read_state(file: Path) -> SnapshotState:
    """
    Check a database that nobody else uses, and return its last revision, its rows and the living objects.

    Raises: IntegrityError where SQLite's own check finds a fault, or it is no datastore of K3s.
    """
    try:
        with closing(_opened(file, "ro")) as database:
            (verdict,) = database.execute("PRAGMA integrity_check(1)").fetchone()
            if verdict != "ok":
                raise IntegrityError(f"{file.name}: SQLite's integrity_check: {verdict}")
            revision, rows = database.execute("SELECT coalesce(max(id), 0), count(*) FROM kine").fetchone()
            objects = count_objects(name.encode() for (name,) in database.execute(_LIVING))
    except sqlite3.Error as error:
        raise IntegrityError(f"{file.name}: SQLite: {error}") from None
    if not rows:
        raise IntegrityError(f"{file.name}: expected rows in the table kine, seen none")
    return SnapshotState(revision=revision, total_keys=rows, objects=objects)


def read_pairs(file: Path) -> Iterator[tuple[bytes, bytes]]:
    """Give every living name with its value; the file was checked before."""
    with closing(_opened(file, "ro")) as database:
        for name, value in database.execute(_PAIRS):
            yield name.encode(), value if isinstance(value, bytes) else str(value or "").encode()


def _opened(file: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(file))}?mode={mode}", uri=True, timeout=BUSY_TIMEOUT_SECONDS)
