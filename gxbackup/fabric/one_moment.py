"""
Copies of a host's ledgers brought to one moment, at which the other hosts bring theirs.

Orderers' copies are worth something together alone, at one height (see orderer_sets), and blocks are ordered all day.
So all nodes stand still at once, at a moment that each host reads off the clock. A block that is on its way just then
may still part them; that is told (see health), and the next day's are even.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import NamedTuple

from pydantic import JsonValue

from gxbackup import clock
from gxbackup.errors import BackupError
from gxbackup.frozen_copy import FrozenCopy


class Node(NamedTuple):
    """The copy of a node's ledger, which has been approached, and how the node is made to stand still."""

    copy: FrozenCopy
    stand_still: Callable[[], AbstractContextManager[None]]


def settle(nodes: Sequence[Node], every_seconds: int) -> tuple[dict[str, JsonValue], dict[int, BackupError]]:
    """
    Settle the copies of nodes that stand still together, at the next full `every_seconds` of the clock.

    Returns what a capture tells of it, and why nodes would not stand still, by their position: those copies are of no
    moment. Raises: BackupError where none would, or where one went on before all was read.
    """
    failed: dict[int, BackupError] = {}
    moment = clock.next_full(every_seconds)
    clock.wait_until(moment)
    began = clock.now()
    with ExitStack() as standing:
        for position, node in enumerate(nodes):
            try:
                standing.enter_context(node.stand_still())
            except BackupError as error:
                failed[position] = error
                if len(failed) == len(nodes):
                    raise
        for position, node in enumerate(nodes):
            if position not in failed:
                node.copy.settle()
    stood_still = (clock.now() - began).total_seconds()
    return {"moment": moment.isoformat(), "stood_still_seconds": round(stood_still, 3)}, failed
