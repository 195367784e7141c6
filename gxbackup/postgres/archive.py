"""One database of a snapshot, opened and proven; and the names of what a restore makes and keeps. No I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from datetime import timedelta
from typing import Any

from gxbackup import clock
from gxbackup.model import Artifact, Frozen
from gxbackup.packed import PackedFile

NAME_BYTES = 63
# What a restore is connected to while all other databases change names; gone again at its end.
HOME = "gx_restore_home"


class Archive(Frozen):
    """One database of a snapshot: its archive, opened and proven."""

    artifact: Artifact
    file: PackedFile

    @property
    def database(self) -> str:
        """The database's name."""
        return str(self.artifact.settings["database"])

    @property
    def evidence(self) -> dict[str, Any]:
        """What was counted in it."""
        return self.artifact.evidence

    @property
    def create(self) -> dict[str, Any]:
        """What CREATE DATABASE needs."""
        create = self.artifact.settings["create"]
        assert isinstance(create, dict)
        return create

    def tables_of(self, table: str) -> list[str]:
        """Return the tables that hold a table's rows: itself, or its partitions."""
        return list(self.evidence.get("partitions", {}).get(table, [table]))

    def in_tablespaces(self) -> dict[str, int]:
        """Return how much of it lay in tablespaces of their own, by name."""
        return dict(self.evidence.get("tablespaces", {}))

    def needs_roles(self) -> list[str]:
        """Return the roles that it refers to; an older snapshot does not tell."""
        return list(self.evidence.get("needs_roles", []))

    def listed_count(self) -> int | None:
        """Return how many things its own list names; None where an older snapshot does not tell."""
        listed = self.evidence.get("listed")
        return None if listed is None else int(listed)

    def size_bytes(self) -> int:
        """Return how large the database was on its server's disk."""
        return int(self.evidence["size_bytes"])


def beside_name(database: str) -> str:
    """Return the name of the half-made database: always the same, so that the next try finds and drops it."""
    return _cut(database, f"_restore_{_digest(database)}")


def before_name(database: str, taken: Collection[str]) -> str:
    """Return a name that a replaced database can be kept under; two that begin alike keep two names."""
    moment = clock.now()
    while True:
        suffix = f"_before_{moment:%Y%m%d_%H%M%S}"
        if len(database.encode("utf-8", "surrogateescape")) + len(suffix) > NAME_BYTES:
            suffix = f"_{_digest(database)}{suffix}"
        if (name := _cut(database, suffix)) not in taken:
            return name
        moment += timedelta(seconds=1)  # what was put back within this second was replaced again


def _digest(database: str) -> str:
    return hashlib.sha256(database.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _cut(name: str, suffix: str) -> str:
    return name.encode("utf-8", "surrogateescape")[: NAME_BYTES - len(suffix)].decode("utf-8", "ignore") + suffix
