"""
The two ways to give Fabric its state back, each undone or run again: dropped for the peer to rebuild, or by documents.

The state is derived from the peer's blocks. What is older than the peer is brought up by it; what is newer makes it
refuse its ledger while it looks healthy; and a savepoint newer than its data hides what is missing, without any error.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from gxbackup.couchdb.client import CouchClient
from gxbackup.couchdb.dump import in_order
from gxbackup.couchdb.loading import compare, drop, held, is_begun, load, settle
from gxbackup.couchdb.safety import Safety, finish, there_before
from gxbackup.errors import BackupError, RestoreError, RestoreRefusedError, words
from gxbackup.model import Evidence

INTERNAL = "fabric__internal"
_HEIGHT = re.compile(r'^ledger_blockchain_height\{[^}]*channel="([^"]+)"[^}]*\} (\S+)$', re.MULTILINE)


def is_state(database: str, channels: Iterable[str]) -> bool:
    """Tell whether a peer makes this database from its blocks: a channel's."""
    return any(database.startswith(f"{channel}_") for channel in channels)


def is_fabric(database: str, channels: Iterable[str]) -> bool:
    """Tell whether a peer made this database: a channel's, or its own one."""
    return database == INTERNAL or is_state(database, channels)


def heights_told(metrics: str) -> dict[str, int]:
    """Return each channel's height as a peer's /metrics tells it: the blocks that it has."""
    return {channel: int(float(height)) for channel, height in _HEIGHT.findall(metrics)}


def require_older(evidence: Evidence, peer: Mapping[str, int], label: str) -> None:
    """Raise RestoreRefusedError unless every channel's savepoint is known to be no newer than the peer's blocks."""
    heights = evidence.get("heights")
    assert isinstance(heights, dict)
    told = ", ".join(f"{channel} {height}" for channel, height in sorted(heights.items()))
    if unknown := sorted(channel for channel in heights if channel not in peer):
        raise RestoreRefusedError(
            f"{label}: documents of height {told}: expected the peer's height of {unknown[0]} beside it, seen none",
            "give peer_height: the lowest ledger_blockchain_height that the peer's /metrics tells for these channels; "
            "or name its metrics in the inventory, as source.peer_metrics, and have it run",
            "method=rebuild needs none: the peer makes its state anew from its blocks",
        )
    newer = [
        f"{channel} {height} above {peer[channel]}"
        for channel, height in sorted(heights.items())
        if _number(height) > peer[channel]
    ]
    if newer:
        raise RestoreRefusedError(
            f"{label}: expected no channel above the peer's height, seen {', '.join(newer)}",
            "a peer with older blocks does not open this ledger, though it calls itself healthy",
            "restore an older snapshot, or use method=rebuild",
        )


def rebuild(client: CouchClient, databases: Iterable[str]) -> list[str]:
    """
    Drop the channels' databases, savepoints first: cut in the middle, the peer still sees that it has to begin anew.

    Its own one stays: a peer that finds any database, and no version of their form there, opens no ledger at all.
    Source: Fabric 2.5, core/ledger/kvledger/txmgmt/statedb/statecouchdb, checkExpectedDataformatVersion.
    Raises: RestoreRefusedError where it would find just that afterwards.
    """
    gone = in_order(list(databases))
    stay = [name for name in client.get("/_all_dbs") if not name.startswith("_") and name not in gone]
    if stay and INTERNAL not in stay:
        raise RestoreRefusedError(
            f"{client.name}: expected {INTERNAL} beside {stay[0]}, seen none: no peer opens its ledgers on that",
            f"put it back first: method=documents, databases {INTERNAL}",
        )
    for database in gone:
        drop(client, database)
    return [f"dropped: {database}" for database in gone]


def put_documents(
    client: CouchClient, dump: Path, wanted: Callable[[str], bool], evidence: Evidence, safety: Safety, label: str
) -> list[str]:
    """
    Replace databases by those of a dump, as of its revisions, and compare; undone on failure.

    What is there is copied first; the copy of a run that was killed is the one that counts, and documents that such a
    run has loaded are not sent again. Raises: RestoreError; RestoreRefusedError before anything is touched, see
    `Safety.copy`, and where the dump lacks one of the databases.
    """
    databases = evidence.get("databases")
    assert isinstance(databases, dict), "the heights were compared"
    names = {name: name for name in databases if wanted(name)}
    _require_held(dump, names)
    copy = safety.copy(client, list(names), evidence, label)
    # The copy's own name and what is loaded over it: another attempt, or another snapshot, goes on with nothing.
    loaded = json.dumps([copy.name, {name: databases[name] for name in names}], sort_keys=True)
    attempt = hashlib.sha256(loaded.encode()).hexdigest()
    try:
        _load(client, dump, names, names, attempt)
        told = compare(client, evidence, names, label)
        with suppress(BackupError):  # what marks an attempt misleads no other one
            settle(client, names)
    except BaseException as error:
        said = words(error)
        try:
            _load(client, copy, names, there_before(copy))
        except BackupError as second:
            raise RestoreError(
                f"{label}: restore failed: {said}; and what was there could not be put back: {second.message}",
                f"it lies in {copy}; start the same restore again once the server answers",
            ) from None
        copy.unlink()
        if not isinstance(error, Exception):
            raise
        raise RestoreError(f"{label}: restore failed, and what was there is back: {said}") from None
    return [*told, f"what was there lies in {finish(copy)}"]


def _load(client: CouchClient, dump: Path, names: Iterable[str], expected: Iterable[str], attempt: str = "") -> None:
    """
    Fill databases, the savepoints last: a savepoint beside data that is not all there would hide it for good.

    Raises: RestoreRefusedError before one is dropped, where the file lacks one of those expected in it.
    """
    _require_held(dump, expected)
    wanted = in_order(list(names))
    for database in wanted:
        if not is_begun(client, database, attempt):
            drop(client, database)
    savepoints = [name for name in wanted if name.endswith("_")]
    for some in ([name for name in wanted if name not in savepoints], savepoints):
        with dump.open("rb") as lines:
            load(client, lines, {name: name for name in some}.get, attempt)


def _require_held(dump: Path, expected: Iterable[str]) -> None:
    with dump.open("rb") as lines:
        found = held(lines)
    if missing := [name for name in expected if name not in found]:
        raise RestoreRefusedError(
            f"{dump.name}: expected database {missing[0]} in it, seen {', '.join(found) or 'none'}"
        )


def _number(height: object) -> int:
    assert isinstance(height, int)
    return height
