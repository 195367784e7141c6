"""
A dump back into a CouchDB: databases made anew, documents with the revisions they had, then counted against the dump.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote

from gxbackup.couchdb.client import CouchClient, parsed, path_of
from gxbackup.couchdb.dump import Dump, opening
from gxbackup.couchdb.reading import BEGUN
from gxbackup.errors import CollectError, IntegrityError, RestoreError
from gxbackup.model import Evidence

DOCUMENTS_PER_REQUEST = 500
REQUEST_BYTES = 8 * 1024 * 1024
EXISTS = 412
CONFLICT = 409
USERS = "_users"
DESIGN = b'"_id":"_design/'


def load(
    client: CouchClient, lines: Iterable[bytes], target: Callable[[str], str | None], attempt: str = ""
) -> list[str]:
    """
    Make databases of a dump anew and fill them; one that is there is dropped first. Return their names in the dump.

    `target` tells the name that each gets, None where it is not wanted. Design documents come last: their
    `validate_doc_update` would judge older documents by the user who restores them. A database that the same `attempt`
    has begun is gone on with: what it holds is not sent again; `settle` ends an attempt. Raises: RestoreError where the
    server refuses a document; what is loaded until then stays.
    """
    made: list[str] = []
    batch = _Batch(client, "", "")
    for line in lines:
        if line.startswith(batch.prefix):
            batch.add(line[len(batch.prefix) : -2])
            continue
        told = json.loads(line)
        name = target(told["database"]) or ""
        if "security" in told:
            batch.finish()
            batch = _Batch(client, told["database"], name, goes_on=bool(name) and is_begun(client, name, attempt))
            if name:
                _make(client, name, told, attempt)
                made.append(told["database"])
        elif "local" in told and name:
            _put_local(client, name, told["local"])
    batch.finish()
    return made


def held(lines: Iterable[bytes]) -> list[str]:
    """Return the databases that a dump holds, by the lines that they begin with."""
    found: list[str] = []
    prefix = opening("", "doc")
    for line in lines:
        if line.startswith(prefix):
            continue
        told = json.loads(line)
        if "security" in told:
            found.append(told["database"])
            prefix = opening(told["database"], "doc")
    return found


def drop(client: CouchClient, database: str) -> None:
    """Drop a database; none of that name is as good."""
    client.request("DELETE", path_of(database), also=(404,))


def is_begun(client: CouchClient, database: str, attempt: str) -> bool:
    """Tell whether this attempt has made this database; none has, where it has no name."""
    if not attempt:
        return False
    answer = client.request("GET", path_of(database, *BEGUN), also=(404,))
    return answer.status != 404 and bool(parsed(answer, database).get("attempt") == attempt)


def settle(client: CouchClient, databases: Iterable[str]) -> None:
    """End an attempt: its databases are as any others."""
    for database in databases:
        begun = client.get(path_of(database, *BEGUN))
        client.request("DELETE", path_of(database, *BEGUN), {"rev": begun["_rev"]}, also=(404,))


def compare(client: CouchClient, evidence: Evidence, names: Mapping[str, str], label: str) -> list[str]:
    """
    Compare databases (their name in the dump → on the server) with the evidence.

    Each database is read back whole, and its counts and the digest of its revisions are compared; only the number of
    documents where it was written while it was captured. Raises: IntegrityError naming the first difference.
    """
    told = evidence.get("databases")
    if not isinstance(told, dict):
        raise IntegrityError(f"{label}: the snapshot tells no databases to compare with")
    reading = Dump(client, list(names.values()), False, label)
    buffer = memoryview(bytearray(1024 * 1024))
    while reading.readinto(buffer):
        pass
    seen = reading.finish().evidence["databases"]
    assert isinstance(seen, dict)
    for database, name in names.items():
        expected, found = told.get(database), seen.get(name)
        if not isinstance(expected, dict) or not isinstance(found, dict):
            raise IntegrityError(f"{label}: database {database}: expected in the evidence and on the server")
        _require_equal(expected, found, f"{label}: database {database}", has_own=name.startswith("_"))
    revisions = sum(one["revisions"] for one in seen.values() if isinstance(one, dict))  # type: ignore[misc]
    return [f"{len(names)} databases with {revisions} revisions equal what was captured"]


def _require_equal(expected: dict[str, Any], found: dict[str, Any], label: str, *, has_own: bool) -> None:
    """Raise IntegrityError where counts differ; `has_own`: a server may add one design document of its own there."""
    if expected["moved"]:  # it was written while it was read, so that some of its documents came twice
        low = expected["doc_count"] + (expected["doc_del_count"] or 0)
        if not low <= found["rows"] <= expected["rows"]:
            raise IntegrityError(f"{label}: expected {low} to {expected['rows']} documents, seen {found['rows']}")
        return
    if has_own and found["revisions"] == expected["revisions"] + 1:
        keys, spare = ("doc_count", "rows", "attachments"), {"doc_count": 1, "rows": 1}
        if all(0 <= found[key] - expected[key] <= spare.get(key, 0) for key in keys):
            return
    for key in ("doc_count", "rows", "revisions", "conflicts", "attachments", "revisions_digest"):
        if expected[key] != found[key]:
            raise IntegrityError(f"{label}: {key}: expected {expected[key]}, seen {found[key]}")


class _Batch:
    """Documents on their way, as they were written: nothing is decoded, unless some of them may be there."""

    def __init__(self, client: CouchClient, database: str, name: str, *, goes_on: bool = False) -> None:
        self.prefix = opening(database, "doc")
        self._goes_on = goes_on
        self._client = client
        self._database = name
        self._documents: list[bytes] = []
        self._designs: list[bytes] = []
        self._size_bytes = 0

    def add(self, document: bytes) -> None:
        if not self._database:
            return
        if DESIGN in document and json.loads(document)["_id"].startswith("_design/"):
            self._designs.append(document)
            return
        self._documents.append(document)
        self._size_bytes += len(document)
        if len(self._documents) >= DOCUMENTS_PER_REQUEST or self._size_bytes >= REQUEST_BYTES:
            self.flush()

    def finish(self) -> None:
        self.flush()
        self._documents, self._designs = self._designs, []
        self.flush()

    def flush(self) -> None:
        if self._goes_on:
            self._documents = self._missing()
        if self._documents:
            self._send()
        self._documents.clear()
        self._size_bytes = 0

    def _missing(self) -> list[bytes]:
        """Return those that the server lacks, as a replicator asks for them."""
        told = [(one["_id"], one["_rev"]) for one in map(json.loads, self._documents)]
        asked: dict[str, list[str]] = {}
        for name, revision in told:
            asked.setdefault(name, []).append(revision)
        path = path_of(self._database, "_revs_diff")
        answer = self._client.request("POST", path, body=json.dumps(asked).encode())
        lacking = parsed(answer, f"{self._client.name}{path}")
        return [
            document
            for document, (name, revision) in zip(self._documents, told, strict=True)
            if revision in lacking.get(name, {}).get("missing", ())
        ]

    def _send(self) -> None:
        body = b'{"new_edits":false,"docs":[' + b",".join(self._documents) + b"]}"
        path = path_of(self._database, "_bulk_docs")
        answer = parsed(self._client.request("POST", path, body=body), f"{self._client.name}{path}")
        if refused := [one for one in answer if "error" in one]:
            raise RestoreError(
                f"{self._client.name}: database {self._database}: expected all documents to be taken, "
                f"seen {len(refused)} refused, the first: {json.dumps(refused[0])[:300]}"
            )


def _make(client: CouchClient, database: str, told: dict[str, Any], attempt: str) -> None:
    if not is_begun(client, database, attempt):
        drop(client, database)
        query: dict[str, object] = {"partitioned": "true"} if told["partitioned"] else {}
        client.request("PUT", path_of(database), query, also=(EXISTS,))
        if attempt:
            body = json.dumps({"attempt": attempt}).encode()
            client.request("PUT", path_of(database, *BEGUN), body=body, also=(CONFLICT,))
    # An empty one lets everybody in, which no new database does; nobody may say so of the users.
    security = told["security"]
    if client.get(path_of(database, "_security")) != security and (security or database != USERS):
        _put_security(client, database, security)


def _put_security(client: CouchClient, database: str, security: object) -> None:
    try:
        client.request("PUT", path_of(database, "_security"), body=json.dumps(security).encode())
    except CollectError as error:
        if database != USERS:
            raise
        raise RestoreError(
            f"{error.message}; CouchDB lets nobody change that of {USERS} unless its setting "
            "couchdb/users_db_security_editable is true"
        ) from None


def _put_local(client: CouchClient, database: str, document: dict[str, Any]) -> None:
    name = quote(document["_id"].removeprefix("_local/"), safe="")
    body = {key: value for key, value in document.items() if key != "_rev"}
    client.request("PUT", path_of(database, "_local", name), body=json.dumps(body).encode(), also=(CONFLICT,))
