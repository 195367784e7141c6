"""Which databases of a snapshot a restore is about: those that are named, else those that Fabric's peers made."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gxbackup.couchdb.restore import is_fabric, is_state
from gxbackup.errors import RestoreRefusedError
from gxbackup.model import Evidence

NAMES_TOLD = 12


def wanted(evidence: Evidence, named: Sequence[str], *, rebuilt: bool, label: str) -> Callable[[str], bool]:
    """
    Return what tells whether a database is restored; `rebuilt`: dropped, for a peer to make it anew.

    Raises: RestoreRefusedError where one is named that the snapshot lacks, that no peer makes anew, or without its
    channel's savepoint; and where nothing is named and there is no channel.
    """
    there = channels(evidence)
    told = ", ".join(captured(evidence)[:NAMES_TOLD])
    if not named:
        if not there:
            raise RestoreRefusedError(
                f"{label}: expected a channel's state in the snapshot, seen {told}",
                "name the databases to put back, with method=documents",
            )
        return lambda name: (is_state if rebuilt else is_fabric)(name, there)
    if unknown := [name for name in named if name not in captured(evidence)]:
        raise RestoreRefusedError(f"{label}: database {unknown[0]!r}: not in the snapshot", f"it holds {told}")
    if rebuilt and (lost := [name for name in named if not is_state(name, there)]):
        raise RestoreRefusedError(
            f"{label}: database {lost[0]!r}: expected a channel's, seen one that no peer makes anew from its blocks",
            "method=documents puts it back",
        )
    for channel in there:
        if f"{channel}_" not in named and any(name.startswith(f"{channel}_") for name in named):
            raise RestoreRefusedError(
                f"{label}: databases: expected {channel}_ among them, seen {', '.join(named)}",
                "it holds the channel's savepoint: beside data that is older, it hides what is missing for good",
            )
    return lambda name: name in named


def captured(evidence: Evidence) -> list[str]:
    """Return the databases of a snapshot."""
    databases = evidence.get("databases")
    return list(databases) if isinstance(databases, dict) else []


def channels(evidence: Evidence) -> list[str]:
    """Return the channels whose state it holds."""
    heights = evidence.get("heights")
    return list(heights) if isinstance(heights, dict) else []
