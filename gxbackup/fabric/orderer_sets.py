"""
Which orderers may be started together from their copies, and exactly what to do where those differ in height. Pure.

Raft orders on once a majority of a channel's orderers runs. Restored at one height, they do; where the lower ones are
a majority, they order other blocks under numbers that a higher one holds, and that one stops for good. One orderer's
copy is never put onto another: its Raft log holds that one's own votes, and nobody has proven what follows. A
peer above the orderers meets other blocks under numbers that it holds, and stops for good: it goes back with them.
Source: facts B11 (Raft trap; after a total loss the same set on all nodes; Fabric #3223, #3639).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from gxbackup.errors import RestoreRefusedError
from gxbackup.fabric import heights
from gxbackup.fabric.heights import ORDERER, PEER, Copy, Heights, Held

Level: TypeAlias = tuple[tuple[tuple[str, int], ...], dict[str, Held]]  # heights, and who holds them where
UNSEEN = "a peer may stand above its newest copy: look at each, also on the other hosts; none may start that is above"

if TYPE_CHECKING:
    from gxbackup.sources.base import Work


def refuse_beside(running: Sequence[str]) -> None:
    """Raise RestoreRefusedError where orderers would be put back beside others that moved on."""
    if running:
        raise RestoreRefusedError(
            f"orderers {', '.join(running)} are running: one that is put back beside them stops with "
            "`tocommit is out of range`, or forks",
            "while a quorum lives: remove the lost one from the channel, empty its volume, and join it again",
            "after a total loss: stop them all (`kubectl scale`), and restore the same set on each node",
            "put back just now, all from this set, by a run that was killed? say alone",
        )


def require_even(kept: Sequence[Copy], work: Work, living: Sequence[Copy] = ()) -> None:
    """Raise RestoreRefusedError, with what to do instead, where orderers of different heights would be put back."""
    if uneven := heights.uneven(kept):
        raise RestoreRefusedError(
            f"orderers of different heights must not be started together: {'; '.join(uneven)}",
            "restore the pods of one height, with --pods",
            *advice([*work.here, *work.elsewhere], living),
        )


def require_elsewhere(kept: Sequence[Copy], work: Work, living: Sequence[Copy] = ()) -> list[str]:
    """See `heights.require_elsewhere`; where it is orderers that do not fit, its refusal says what to do instead."""
    try:
        return heights.require_elsewhere(kept, work.elsewhere)
    except RestoreRefusedError as error:
        if not any(copy.role == ORDERER for copy in kept):
            raise
        raise RestoreRefusedError(error.message, *error.hints, *advice([*work.here, *work.elsewhere], living)) from None


def advice(all_held: Sequence[Held], living: Iterable[Copy] = ()) -> list[str]:
    """
    Say, line by line, which copies of which orderers to restore, and which peers are above those and go back too.

    `all_held` is what all servers hold, newest first; `living` the nodes that somebody has looked at, as they are now.
    """
    at: dict[tuple[tuple[str, int], ...], dict[str, Held]] = {}
    orderers: set[str] = set()
    for held in all_held:
        for copy in held.copies:
            if copy.role == ORDERER:
                orderers.add(copy.name)
                at.setdefault(tuple(sorted(copy.heights.items())), {}).setdefault(copy.name, held)
    nodes = list(living)
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
        line = f"all {count} orderers have copies at {_level(most)}: restore exactly these: {_choice(most)}"
        return [line, *_peers_above(most, all_held, nodes), f"{UNSEEN} {_level(most)}"]
    others = ", ".join(sorted(orderers - set(most[1])))
    majority = f"{len(most[1])} of {count} orderers, a majority if there are no others, have copies at {_level(most)}"
    rejoin = "take it out of the channel's consenters, empty its volume, put it in again, and join it"
    return [
        f"{majority}: stop all orderers, restore exactly these, with --unmatched: {_choice(most)}",
        f"do not start {others} from a copy; once the channel orders blocks again: {rejoin} (`osnadmin channel join`)",
        *_peers_above(most, all_held, nodes),
        *([f"or lose more and restore all {count}, at {_level(whole)}: {_choice(whole)}"] if whole else []),
        *(_peers_above(whole, all_held, nodes) if whole else []),
        f"{UNSEEN} {_level(whole or most)}",
    ]


def _peers_above(of: Level, all_held: Sequence[Held], living: Iterable[Copy]) -> list[str]:
    """Name the peers that are, or have a copy, above a level, each with its newest copy that is not; none: no line."""
    limits = dict(of[0])
    highest: dict[str, dict[str, int]] = {}
    for copy in [*(copy for held in all_held for copy in held.copies), *living]:
        if copy.role == PEER:
            known = highest.setdefault(copy.name, {})
            known |= {channel: max(height, known.get(channel, 0)) for channel, height in copy.heights.items()}
    told = []
    for name, known in sorted(highest.items()):
        if above := ", ".join(
            f"{one} {height}" for one, height in sorted(known.items()) if height > limits.get(one, 0)
        ):
            fitting = next((held for held in all_held for copy in held.copies
                            if (copy.role, copy.name) == (PEER, name) and _is_within(copy, limits)), None)  # fmt: skip
            told.append(f"{name} ({above}): {_choice_of(fitting, name) if fitting else 'no copy is that low'}")
    if not told:
        return []
    first = f"peers are above {_level(of)}, would meet other blocks there, and stop for good: stop these"
    return [f"{first}, and restore them to at most {_level(of)}, with --allow-older: {'; '.join(told)}"]


def _is_within(copy: Copy, limits: Heights) -> bool:
    return all(height <= limits.get(channel, 0) for channel, height in copy.heights.items())


def _level(of: Level) -> str:
    return ", ".join(f"{channel} {height}" for channel, height in of[0])


def _choice(of: Level) -> str:
    return "; ".join(f"{name}: {_choice_of(held, name)}" for name, held in sorted(of[1].items()))


def _choice_of(held: Held, name: str) -> str:
    return f"on {held.server}, --snapshot {held.snapshot} --pods {name}"
