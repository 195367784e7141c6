"""
The copy of the databases that a restore of documents replaces: made before, put back on failure, kept afterwards.

    SAFETY_DIR/couchdb-<label>-<time>.jsonl.unfinished    the restore is not over: what is on the server may be half
    SAFETY_DIR/couchdb-<label>-<time>.jsonl               it is; what was there before

Its first line says what it is a copy of, in the form of a database without a name, which every reader passes over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gxbackup import clock
from gxbackup.couchdb.client import CouchClient, path_of
from gxbackup.couchdb.dump import SAVEPOINT, Dump, in_order
from gxbackup.couchdb.loading import compare
from gxbackup.errors import BackupError, RestoreError, RestoreRefusedError, SourceMissingError
from gxbackup.model import Evidence

UNFINISHED = ".unfinished"
COPY_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Safety:
    """Where the copy of what is there goes, whose it is, and whether `_local` documents are in it."""

    folder: Path
    server: str
    with_local: bool

    def copy(self, client: CouchClient, names: list[str], evidence: Evidence, label: str) -> Path:
        """
        Return the copy: a dump, whole before it has its name; that of a killed run where its databases are still half.

        `evidence` is of what is loaded over them. Raises: RestoreRefusedError where a killed run left half of other
        databases, or another server's: a copy of these would be of the wrong thing, or of half of it.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        stem = f"couchdb-{label.replace('/', '-')}-"
        for left in sorted(self.folder.glob(f"{stem}*{UNFINISHED}")):
            head = _head(left)
            if head.get("server") != self.server:
                raise _not_ours(left, head, f"expected it to be of {self.server}", label)
            if _is_whole(client, head, label):
                finish(left)
                continue
            if head["databases"] != sorted(names):
                raise _not_ours(left, head, f"expected it to be of {', '.join(sorted(names))}", label)
            return left
        there = in_order([name for name in client.get("/_all_dbs") if name in names])
        head = {
            "server": self.server, "databases": sorted(names), "there": there,
            "loading": {"databases": {name: _told(evidence)[name] for name in names}},
        }  # fmt: skip
        return self._written(Dump(client, there, self.with_local, label), head, stem, label)

    def _written(self, stream: Dump, head: dict[str, Any], stem: str, label: str) -> Path:
        copy, half = (
            self.folder / f"{stem}{clock.now():%Y%m%d_%H%M%S_%f}.jsonl{UNFINISHED}",
            self.folder / f"{stem}half",
        )
        with open(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123 - its mode
            file.write(json.dumps({"database": "", "copy": head}).encode() + b"\n")
            for piece in _pieces(stream):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        if head["there"] and (short := stream.finish().shortfalls):
            raise RestoreError(f"{label}: what is there could not be copied whole: {short[0]}", "nothing was touched")
        half.rename(copy)
        return copy


def finish(copy: Path) -> Path:
    """Name a copy as one whose restore is over; return its new path."""
    return copy.rename(copy.with_name(copy.name.removesuffix(UNFINISHED)))


def there_before(copy: Path) -> list[str]:
    """Return the databases that were there when the copy was made, and so are in it."""
    return list(_head(copy)["there"])


def _head(copy: Path) -> dict[str, Any]:
    with copy.open("rb") as lines:
        told = json.loads(next(lines, b"{}"))
    head: dict[str, Any] = told.get("copy") or {}
    return head


def _is_whole(client: CouchClient, head: dict[str, Any], label: str) -> bool:
    """
    Tell whether the databases of a killed run are whole: untouched, loaded to the end, or made anew by the peer.

    Savepoints are dropped first and put back last, so all of them are there or something is half. Databases without
    one are whole where they equal what was loaded.
    """
    if savepoints := [name for name in head["databases"] if name.endswith("_")]:
        return all(_has_savepoint(client, name) for name in savepoints)
    try:
        compare(client, head["loading"], {name: name for name in head["databases"]}, label)
    except BackupError:
        return False
    return True


def _has_savepoint(client: CouchClient, database: str) -> bool:
    try:
        client.get(path_of(database, SAVEPOINT))
    except SourceMissingError:
        return False
    return True


def _not_ours(left: Path, head: dict[str, Any], expected: str, label: str) -> RestoreRefusedError:
    databases = ", ".join(head.get("databases") or ["unknown databases"])
    return RestoreRefusedError(
        f"{label}: {left} is the copy of a restore that was killed: {expected}, "
        f"seen {databases} of {head.get('server') or 'an unknown server'}",
        "those databases may be half there: run that restore again first, with the same databases",
        "or, where they are well again without it, remove that file",
    )


def _told(evidence: Evidence) -> dict[str, Any]:
    databases = evidence["databases"]
    assert isinstance(databases, dict)
    return databases


def _pieces(stream: Dump) -> Iterator[bytes]:
    buffer = bytearray(COPY_BYTES)
    while count := stream.readinto(memoryview(buffer)):
        yield bytes(buffer[:count])
