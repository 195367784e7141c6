"""
Copies of a host's ledgers brought to one moment: one alone, or all at that at which the other hosts bring theirs.

Orderers' copies are worth something together alone, at one height (see orderer_sets), and blocks are ordered all day.
So all nodes stand still at once, at a moment that each host reads off the clock. A block that is on its way just then
may still part them; that is told (see health), and the next day's are even.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from datetime import timedelta
from functools import partial

from pydantic import JsonValue

from gxbackup import clock
from gxbackup.adapters.cluster import Pod
from gxbackup.errors import BackupError, CollectError
from gxbackup.frozen_copy import FrozenCopy

_log = logging.getLogger(__name__)
# What a node writes while its host waits is copied this long before it stands still, so that it does so only shortly.
LEAD = timedelta(seconds=10)


def settle_alone(
    copy: FrozenCopy,
    pod_now: Callable[[], Pod | None],
    frozen: Callable[[str, str], AbstractContextManager[None]],
    label: str,
) -> float:
    """
    Settle a copy that was approached, while its pod stands still; return for how many seconds it did.

    `pod_now` tells the pod, or that none runs: it may have gone, come or been replaced while its files were copied.
    Raises: CollectError (retryable) where one came after it was looked for, and stood still for nobody.
    """
    pod = pod_now()
    began = clock.now()
    with frozen(pod.uid, label) if pod else nullcontext():
        copy.settle()
    if pod:
        return round((clock.now() - began).total_seconds(), 3)
    if pod_now():
        message = f"{label}: was started while its files were copied: they are of no one moment"
        raise CollectError(message, retryable=True)
    return 0.0


def settle(
    copies: Mapping[str, FrozenCopy],
    uids: Callable[[], Mapping[str, str]],
    frozen: Callable[[str, str], AbstractContextManager[None]],
    every_seconds: int,
) -> tuple[dict[str, JsonValue], frozenset[str]]:
    """
    Settle copies that were approached, by the name of their pod, while all the pods stand still together.

    That is at the next full `every_seconds` of the clock. `uids` tells the pods that run then, `frozen` stops one.
    Returns what a capture tells of it, and whose copies are of that moment; why another is not goes to the log.
    """
    moment = clock.next_full(every_seconds)
    clock.wait_until(moment - LEAD)
    waiting = dict(copies)
    running = uids()
    for pod, copy in copies.items():
        _try(copy.catch_up, pod, waiting)
    clock.wait_until(moment)
    began = clock.now()
    try:
        with ExitStack() as standing:
            for pod in list(waiting):
                _try(partial(standing.enter_context, frozen(running.get(pod, "none"), pod)), pod, waiting)
            for pod, copy in copies.items():
                if pod in waiting:
                    _try(copy.settle, pod, waiting)
    except BackupError as error:  # one went on before all was read
        _log.warning("%s: no ledger of this host is of the moment %s", error.message, moment.isoformat())
        waiting.clear()
    stood_still = round((clock.now() - began).total_seconds(), 3)
    return {"settled_at": moment.isoformat(), "stood_still_seconds": stood_still}, frozenset(waiting)


def _try(step: Callable[[], object], pod: str, waiting: dict[str, FrozenCopy]) -> None:
    """Do a step for a pod; one that fails is waited for no longer."""
    try:
        step()
    except (BackupError, OSError) as error:
        _log.warning("%s: is not kept at one moment with the others, but alone: %s", pod, error)
        waiting.pop(pod, None)
