"""
Which orderers may be started together from their copies, and exactly what to do where those differ in height. Pure.

Raft orders on once a majority of a channel's orderers runs. Restored at one height, they do; where the lower ones are
a majority, they order other blocks under numbers that a higher one holds, and that one stops for good. One orderer's
copy is never put onto another: its Raft log holds that one's own votes, and nobody has proven what follows.
Source: facts B11 (Raft trap; after a total loss the same set on all nodes; Fabric #3223, #3639).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from gxbackup.errors import RestoreRefusedError
from gxbackup.fabric import heights
from gxbackup.fabric.heights import ORDERER, Copy, Held

Level: TypeAlias = tuple[tuple[tuple[str, int], ...], dict[str, Held]]  # heights, and who holds them where

if TYPE_CHECKING:
    from gxbackup.sources.base import Work


def require_even(kept: Sequence[Copy], work: Work) -> None:
    """Raise RestoreRefusedError, with what to do instead, where orderers of different heights would be put back."""
    if uneven := heights.uneven(kept):
        raise RestoreRefusedError(
            f"orderers of different heights must not be started together: {'; '.join(uneven)}",
            "restore the pods of one height, with --pods",
            *advice([*work.here, *work.elsewhere]),
        )


def require_elsewhere(kept: Sequence[Copy], work: Work) -> list[str]:
    """See `heights.require_elsewhere`; where it is orderers that do not fit, its refusal says what to do instead."""
    try:
        return heights.require_elsewhere(kept, work.elsewhere)
    except RestoreRefusedError as error:
        if not any(copy.role == ORDERER for copy in kept):
            raise
        raise RestoreRefusedError(error.message, *error.hints, *advice([*work.here, *work.elsewhere])) from None


def advice(all_held: Iterable[Held]) -> list[str]:
    """Say, line by line, which copies of which orderers to restore, from all that all servers hold, newest first."""
    at: dict[tuple[tuple[str, int], ...], dict[str, Held]] = {}
    orderers: set[str] = set()
    for held in all_held:
        for copy in held.copies:
            if copy.role == ORDERER:
                orderers.add(copy.name)
                at.setdefault(tuple(sorted(copy.heights.items())), {}).setdefault(copy.name, held)
    count = len(orderers)
    if count < 2:
        return []
    levels = sorted(at.items(), key=lambda one: sum(height for _, height in one[0]), reverse=True)
    whole = next((one for one in levels if len(one[1]) == count), None)
    most = next((one for one in levels if len(one[1]) > count // 2), None)
    if most is None:
        none = f"no height is held of {count // 2 + 1} of the {count} orderers that there are copies of"
        return [
            f"{none}: start none of them from these copies, and put no orderer's copy onto another",
            "what is left: copies that were made elsewhere, or a new ordering service",
        ]
    if most is whole:
        return [f"all {count} orderers have copies at {_level(most)}: restore exactly these: {_choice(most)}"]
    others = ", ".join(sorted(orderers - set(most[1])))
    majority = f"{len(most[1])} of {count} orderers, a majority if there are no others, have copies at {_level(most)}"
    rejoin = "take it out of the channel's consenters, empty its volume, put it in again, and join it"
    return [
        f"{majority}: stop all orderers, restore exactly these, with --unmatched: {_choice(most)}",
        f"do not start {others} from a copy; once the channel orders blocks again: {rejoin} (`osnadmin channel join`)",
        *([f"or lose more and restore all {count}, at {_level(whole)}: {_choice(whole)}"] if whole else []),
    ]


def _level(of: Level) -> str:
    return ", ".join(f"{channel} {height}" for channel, height in of[0])


def _choice(of: Level) -> str:
    return "; ".join(
        f"{name}: on {held.server}, --snapshot {held.snapshot} --pods {name}" for name, held in sorted(of[1].items())
    )
