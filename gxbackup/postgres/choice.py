"""Which of a snapshot's artifacts a restore takes, by the options that a person gave. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import JsonValue

from gxbackup.errors import RestoreRefusedError
from gxbackup.model import Artifact


def chosen(artifacts: Sequence[Artifact], options: dict[str, JsonValue]) -> tuple[Artifact, ...]:
    """Return roles and the databases asked for; RestoreRefusedError for what the snapshot does not hold."""
    place = options.get("place")
    of_place = [artifact for artifact in artifacts if not place or artifact.settings["where"] == place]
    if not of_place:
        held = ", ".join(str(where) for where in dict.fromkeys(each.settings["where"] for each in artifacts))
        raise RestoreRefusedError(f"place {place}: nothing of it is in this snapshot", f"it holds: {held}")
    wanted = _wanted(of_place, options)
    return tuple(
        artifact for artifact in of_place if wanted is None or artifact.settings.get("database") in (None, *wanted)
    )


def _wanted(artifacts: Sequence[Artifact], options: dict[str, JsonValue]) -> list[str] | None:
    """Return the databases that the options name; None: all."""
    held = [str(artifact.settings["database"]) for artifact in artifacts if "database" in artifact.settings]
    known = f"it holds: {', '.join(dict.fromkeys(held))}"
    if point := options.get("point"):
        if options.get("databases"):
            raise RestoreRefusedError("point and databases: give one of them")
        if not options.get("to"):
            raise RestoreRefusedError(f"point {point}: `to` must name the new database", "it may not exist yet")
        for artifact in artifacts:
            name = artifact.settings.get("database")
            counted = [artifact.evidence.get(kind) for kind in ("tables", "partitions")]
            tables = [table for each in counted if isinstance(each, dict) for table in each]
            if point == name or any(point == f"{name}.{table}" for table in tables):
                return [str(name)]
        raise RestoreRefusedError(
            f"point {point}: the snapshot holds no such database or table",
            "spell a table as database.schema.table, each name quoted as SQL needs it",
            known,
        )
    databases = options.get("databases")
    if not databases:
        return None
    assert isinstance(databases, list)
    if unknown := [name for name in databases if name not in held]:
        raise RestoreRefusedError(f"database {unknown[0]!r}: not in this snapshot", known)
    return [str(name) for name in databases]
