"""
Every document of a database, page by page: all leaf revisions, deleted ones too, attachments inline. Memory stays flat.

Source: https://docs.couchdb.org/en/stable/replication/protocol.html: what a replicator reads is what a copy needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gxbackup.couchdb import multipart
from gxbackup.couchdb.client import CouchClient, TooLargeError, parsed, path_of

ROWS_PER_PAGE = 1000
REVISIONS_PER_REQUEST = 500
# An answer beyond this is asked for again in halves; one document alone may be larger.
ANSWER_BYTES = 32 * 1024 * 1024
LOCAL_PER_PAGE = 1000
# In each database that a restore fills: which attempt fills it. No part of what is kept or compared.
BEGUN = ("_local", "gx-backup-restore")

Reference = tuple[str, str]
Document = dict[str, Any]


@dataclass
class Seen:
    """What was met while a database was read."""

    rows: int = 0
    conflicts: int = 0
    gone: set[Reference] = field(default_factory=set)


def changes(client: CouchClient, database: str, seen: Seen) -> Iterator[list[Reference]]:
    """
    Give the leaf revisions of every document, in the order of their last change, page by page.

    A document that is written meanwhile comes again later, with its new revision.
    """
    since: object = 0
    while True:
        page = client.get(
            path_of(database, "_changes"), style="all_docs", limit=ROWS_PER_PAGE, since=_word(since), feed="normal"
        )
        rows = page["results"]
        seen.rows += len(rows)
        seen.conflicts += sum(len(row["changes"]) - 1 for row in rows)
        if rows:
            if seen.gone:  # what has changed meanwhile comes again here
                came = {row["id"] for row in rows}
                seen.gone = {gone for gone in seen.gone if gone[0] not in came}
            yield [(row["id"], change["rev"]) for row in rows for change in row["changes"]]
            since = page["last_seq"]
        if len(rows) < ROWS_PER_PAGE and not page.get("pending") and not (rows and seen.gone):
            return


def documents(client: CouchClient, database: str, wanted: list[Reference], seen: Seen) -> Iterator[Document]:
    """Give these revisions with their bodies; one that is no longer there is noted in `seen.gone`."""
    for start in range(0, len(wanted), REVISIONS_PER_REQUEST):
        yield from _fetched(client, database, wanted[start : start + REVISIONS_PER_REQUEST], seen)


def local_documents(client: CouchClient, database: str) -> Iterator[Document]:
    """Give the documents that never leave a server by replication: `_local/…`."""
    query: dict[str, object] = {"include_docs": "true", "limit": LOCAL_PER_PAGE}
    while True:
        rows = client.get(path_of(database, "_local_docs"), **query)["rows"]
        yield from (row["doc"] for row in rows if row["id"] != "/".join(BEGUN))
        if len(rows) < LOCAL_PER_PAGE:
            return
        query |= {"startkey": json.dumps(rows[-1]["id"]), "skip": 1}


def _fetched(client: CouchClient, database: str, wanted: list[Reference], seen: Seen) -> Iterator[Document]:
    body = json.dumps({"docs": [{"id": name, "rev": revision} for name, revision in wanted]}).encode()
    try:
        answer = client.request(
            "POST",
            path_of(database, "_bulk_get"),
            {"revs": "true", "attachments": "true"},
            body,
            limit_bytes=ANSWER_BYTES if len(wanted) > 1 else None,
        )
    except TooLargeError:
        half = len(wanted) // 2
        yield from _fetched(client, database, wanted[:half], seen)
        yield from _fetched(client, database, wanted[half:], seen)
        return
    missed = set(wanted)
    if answer.content_type.startswith("multipart/"):
        found = multipart.documents(answer.content_type, answer.body)
    else:
        told = parsed(answer, f"{client.name}: _bulk_get of {database}")
        found = (one for result in told["results"] for one in result["docs"])
    for one in found:
        if (document := one.get("ok")) is not None:
            missed.discard((document["_id"], document["_rev"]))
            yield document
    seen.gone |= missed


def _word(since: object) -> object:
    """Return a sequence as a query takes it: CouchDB 3 tells text, others numbers, CouchDB 2 lists."""
    return since if isinstance(since, str | int) else json.dumps(since)
