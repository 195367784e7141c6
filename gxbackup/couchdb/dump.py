"""
A whole CouchDB as JSON lines, with what was counted on the way.

Each database begins with `{"database": …, "security": …}`; then comes a line for each revision, `{"database": …,
"doc": …}`, just as `_bulk_docs` takes it with `"new_edits": false`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import JsonValue

from gxbackup.couchdb import reading
from gxbackup.couchdb.client import CouchClient, path_of
from gxbackup.errors import EmptyArtifactError, IntegrityError, SourceMissingError
from gxbackup.model import Evidence
from gxbackup.ports import StreamEnd

SAVEPOINT = "statedb_savepoint"
PIECE_LINES = 64
_MODULUS = 1 << 256


class Tally:
    """What one database amounts to, whatever order it was read in."""

    def __init__(self) -> None:
        self.revisions = 0
        self.deleted = 0
        self.attachments = 0
        self._sum = 0

    def add(self, document: dict[str, Any]) -> None:
        """
        Count a revision, with its history and its attachments' bytes.

        Its body is not part of it: servers differ in how they spell a number, and its revision was made from it.
        """
        attached = document.get("_attachments") or {}
        self.revisions += 1
        self.deleted += bool(document.get("_deleted"))
        self.attachments += len(attached)
        told = [
            document["_id"], document["_rev"], bool(document.get("_deleted")), document.get("_revisions"),
            [[name, one.get("content_type"), hashlib.sha256(base64.b64decode(one["data"])).hexdigest()]
             for name, one in sorted(attached.items())],
        ]  # fmt: skip
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).digest()
        self._sum = (self._sum + int.from_bytes(digest, "big")) % _MODULUS

    def digest(self) -> str:
        """Return the sum of all revisions' digests."""
        return f"{self._sum:064x}"


class Dump:
    """A PlainStream of databases, in the order given."""

    def __init__(self, client: CouchClient, databases: Sequence[str], with_local: bool, label: str) -> None:
        self._client = client
        self._label = label
        self._with_local = with_local
        self._content = 0
        self._databases: dict[str, JsonValue] = {}
        self._heights: dict[str, JsonValue] = {}
        self._shortfalls: list[str] = []
        self._pieces = self._all(databases)
        self._piece = memoryview(b"")

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer; pages are asked for as they are needed."""
        filled = 0
        while filled < len(buffer):
            if not self._piece:
                self._piece = memoryview(next(self._pieces, b""))
                if not self._piece:
                    break
            count = min(len(self._piece), len(buffer) - filled)
            buffer[filled : filled + count] = self._piece[:count]
            self._piece = self._piece[count:]
            filled += count
        return filled

    def finish(self) -> StreamEnd:
        """Return what was counted; its digest names the content in whatever order it was read."""
        if not self._databases:
            raise EmptyArtifactError(f"{self._label}: expected databases, seen none")
        evidence: Evidence = {"databases": self._databases, "heights": self._heights}
        return StreamEnd(evidence, tuple(self._shortfalls), f"{self._content:064x}")

    def _all(self, databases: Sequence[str]) -> Iterator[bytes]:
        for database in databases:
            lines: list[bytes] = []
            for line in self._database(database):
                self._content = (self._content + int.from_bytes(hashlib.sha256(line).digest(), "big")) % _MODULUS
                lines.append(line)
                if len(lines) == PIECE_LINES:
                    yield b"".join(lines)
                    lines.clear()
            if lines:
                yield b"".join(lines)

    def _database(self, database: str) -> Iterator[bytes]:
        """Give a database's lines; one that was dropped before it could be read is a shortfall."""
        client = self._client
        try:
            before = client.get(path_of(database))
            security = client.get(path_of(database, "_security"))
        except SourceMissingError:
            self._shortfalls.append(f"database {database} was dropped before it could be read")
            return
        partitioned = bool((before.get("props") or {}).get("partitioned"))
        yield _line({"database": database, "security": security, "partitioned": partitioned})
        seen, tally, height = reading.Seen(), Tally(), None
        prefix = opening(database, "doc")
        for page in reading.changes(client, database, seen):
            for document in reading.documents(client, database, page, seen):
                tally.add(document)
                if document["_id"] == SAVEPOINT and not document.get("_deleted"):
                    height = int(document["BlockNum"]) + 1
                yield prefix + json.dumps(document, separators=(",", ":")).encode() + b"}\n"
        if self._with_local:
            for document in reading.local_documents(client, database):
                yield _line({"database": database, "local": document})
        after = client.get(path_of(database))
        if channel := channel_of(database, height):
            self._heights[channel] = height
        self._judge(database, before, after, seen, tally)

    def _judge(self, database: str, before: Any, after: Any, seen: reading.Seen, tally: Tally) -> None:
        """Hold what was read against what the server says it has."""
        total = before["doc_count"] + before.get("doc_del_count", 0)
        moved = _number(before["update_seq"]) != _number(after["update_seq"])
        exact = "doc_del_count" in before and not moved
        if seen.rows < total or (exact and seen.rows != total):
            raise IntegrityError(
                f"{self._label}: database {database}: expected {total} documents, seen {seen.rows}", retryable=True
            )
        if seen.gone:
            name, revision = min(seen.gone)
            self._shortfalls.append(
                f"database {database}: {len(seen.gone)} revisions could not be read, the first: {name} {revision}"
            )
        self._databases[database] = {
            "doc_count": before["doc_count"],
            "doc_del_count": before.get("doc_del_count"),
            "update_seq": _number(after["update_seq"]),
            "moved": moved,
            "rows": seen.rows,
            "revisions": tally.revisions,
            "conflicts": seen.conflicts,
            "attachments": tally.attachments,
            "revisions_digest": tally.digest(),
        }


def opening(database: str, kind: str) -> bytes:
    """Return how a line of this kind begins."""
    return f'{{"database":{json.dumps(database)},"{kind}":'.encode()


def in_order(databases: Sequence[str]) -> list[str]:
    """
    Return databases in the order that a restore needs: each channel's savepoint (`<channel>_`) before its data.

    A savepoint that is older than the data makes the peer replay blocks; a newer one would hide what is missing.
    """
    return sorted(databases, key=lambda name: (not name.endswith("_"), name.startswith("_"), name))


def channel_of(database: str, height: int | None) -> str | None:
    """Return the channel whose savepoint a database holds."""
    return database.removesuffix("_") if height is not None and database.endswith("_") else None


def _line(told: dict[str, Any]) -> bytes:
    return json.dumps(told, separators=(",", ":")).encode() + b"\n"


def _number(sequence: object) -> int:
    """Return the number that a sequence begins with; the rest of CouchDB's is opaque and differs between calls."""
    return int(str(sequence).split("-", 1)[0])
