"""
The one place that deletes from the remote by plan: explicit paths, in the plan's order, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Protocol

from gxbackup.errors import PruneRefusedError
from gxbackup.model import Catalog, Frozen
from gxbackup.retention import Plan

LOOK_AGAIN = "make a new plan with the flow prune-snapshots, and read it"


class Remote(Protocol):
    """What pruning may do to the remote."""

    def delete_file(self, path: str) -> None:
        """Delete exactly this file below the remote's root; one that is not there is fine."""
        ...

    def remove_empty_folder(self, path: str) -> None:
        """Remove a folder, and those in it, as far as no file is in them; one that is not there is fine."""
        ...


class PruneResult(Frozen):
    """What was deleted: all that the plan named."""

    server: str
    deleted: tuple[str, ...]
    freed_bytes: int


def execute(plan: Plan, remote: Remote, *, relist: Callable[[], Catalog]) -> PruneResult:
    """
    Delete what a plan names, in its order, after one more look whether it would still be the same plan.

    May be cut anywhere: a copy that stays loses nothing, and the next plan goes on with what is left.

    Raises: PruneRefusedError where the plan is refused, or another one is right by now: nothing was deleted. Whatever
    `relist` raises: nothing was deleted. RemoteError at the first deletion that fails: what comes before it is gone.
    """
    server = plan.question.server
    _require_allowed(plan)
    again = plan.remade(relist())
    _require_allowed(again)
    if again.sha256 != plan.sha256:
        raise PruneRefusedError(
            f"{server}: expected the same {len(plan.deletions)} deletions as planned, seen {_difference(plan, again)}",
            "did another run back up, prune or restore in between?",
            LOOK_AGAIN,
        )
    for snapshot, paths in groupby(plan.deletions, key=plan.snapshot_of):
        for path in paths:
            remote.delete_file(path)
        # With each snapshot, not at the end: an empty folder that a cut leaves behind shows in no listing.
        for folder in plan.emptied_folders:
            if plan.snapshot_of(folder) == snapshot:
                remote.remove_empty_folder(folder)
    return PruneResult(server=server, deleted=plan.deletions, freed_bytes=plan.freed_bytes)


def _require_allowed(plan: Plan) -> None:
    if plan.refused:
        raise PruneRefusedError(
            f"{plan.question.server}: the plan {plan.refused}",
            f"read the plan; where it is what you want, confirm it: confirm={plan.sha256}",
        )


def _difference(plan: Plan, again: Plan) -> str:
    fewer = [path for path in plan.deletions if path not in again.deletions]
    more = [path for path in again.deletions if path not in plan.deletions]
    named = [f"{len(paths)} {word} ({paths[0]})" for word, paths in (("fewer", fewer), ("more", more)) if paths]
    return " and ".join(named) or "another order or folder"
