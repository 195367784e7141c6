"""
How much an artifact holds, by what each kind of source counts in its evidence. Pure.

Only what is of the operator's own is counted: a database that is emptied keeps what its server makes by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gxbackup.model import Artifact

# What CouchDB and Fabric's peers keep there for themselves: users, replications, the version of a peer's databases,
# and beside the data of each channel its savepoint and its settings, its chaincodes' definitions.
_COUCHDB_OWN = ("_", "fabric__internal")
_CHANNEL_OWN = re.compile(r"(_lifecycle.*|lscc)?")


class Counted(NamedTuple):
    """What a kind counts, in words, and how; the count is None where the artifact tells none."""

    words: str
    of: Callable[[Artifact], int | None]


def count(artifact: Artifact) -> int | None:
    """Return how much an artifact holds; None where its evidence does not tell."""
    return KINDS[artifact.kind].of(artifact) if artifact.kind in KINDS else None


def in_words(kind: str) -> str:
    """Say what is counted: `rows`."""
    return KINDS[kind].words


def _bytes(artifact: Artifact) -> int | None:
    # What builds on a base holds only what has changed since.
    return None if artifact.base is not None else _number(artifact.evidence.get("bytes"))


def _rows(artifact: Artifact) -> int | None:
    tables = artifact.evidence.get("tables")
    if not isinstance(tables, Mapping):  # roles and tablespaces
        return None
    return _sum(tables) + _part(artifact.evidence.get("large_objects"), "count")


def _documents(artifact: Artifact) -> int | None:
    """Count the living documents that chaincodes wrote."""
    databases = artifact.evidence.get("databases")
    if not isinstance(databases, Mapping):
        return None
    channels = artifact.evidence.get("heights")
    prefixes = [f"{channel}_" for channel in channels] if isinstance(channels, Mapping) else []
    own = {
        name
        for name in databases
        if name.startswith(_COUCHDB_OWN)
        or any(name.startswith(prefix) and _CHANNEL_OWN.fullmatch(name.removeprefix(prefix)) for prefix in prefixes)
    }
    return sum(_part(told, "doc_count") for name, told in databases.items() if name not in own)


def _objects(artifact: Artifact) -> int | None:
    # The raw form also holds what every cluster makes by itself.
    return _number(artifact.evidence.get("objects_total")) if artifact.settings.get("form") == "apply" else None


def _blocks(artifact: Artifact) -> int | None:
    heights = artifact.evidence.get("heights")  # those of the whole ledger, also where the copy builds on a base
    return _sum(heights) if isinstance(heights, Mapping) else None


def _crypto(artifact: Artifact) -> int | None:
    certificates = artifact.evidence.get("certificates")
    return len(certificates) + (_number(artifact.evidence.get("keys")) or 0) if isinstance(certificates, list) else None


def _packages(artifact: Artifact) -> int | None:
    packages = artifact.evidence.get("packages")
    return len(packages) if isinstance(packages, list) else None


def _of_engine(artifact: Artifact) -> int | None:
    told = [_number(artifact.evidence.get(name)) for name in ("containers", "images")]
    return sum(number or 0 for number in told) if any(number is not None for number in told) else None


def _told(key: str) -> Callable[[Artifact], int | None]:
    return lambda artifact: _number(artifact.evidence.get(key))


def _number(told: Any) -> int | None:
    return told if isinstance(told, int) else None


def _part(told: Any, key: str) -> int:
    return (_number(told.get(key)) or 0) if isinstance(told, Mapping) else 0


def _sum(told: Mapping[str, Any]) -> int:
    return sum(_number(value) or 0 for value in told.values())


KINDS = {
    "chaincode": Counted("packages", _packages),
    "couchdb": Counted("documents", _documents),
    "directory": Counted("bytes", _bytes),
    "docker_state": Counted("containers and images", _of_engine),
    "etcd": Counted("objects", _told("objects")),
    "fabric_crypto": Counted("certificates and keys", _crypto),
    "kubernetes_objects": Counted("objects", _objects),
    "ledger": Counted("blocks", _blocks),
    "postgres": Counted("rows", _rows),
    "redis": Counted("keys", _told("keys")),
}


def lines_told(artifact: Artifact, key: str) -> list[str]:
    """Return the lines that the evidence has for people under a key; none where it has none."""
    lines = artifact.evidence.get(key)
    return [str(line) for line in lines] if isinstance(lines, list) else []
