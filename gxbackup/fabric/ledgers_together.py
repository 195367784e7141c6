"""
Orderers' volumes put back together: a set of them is worth something at one height alone.

Source: facts B11, B12 (one orderer beside others that moved on).
"""

from __future__ import annotations

from collections.abc import Sequence

from gxbackup.errors import BackupError, RestoreError
from gxbackup.fabric.ledger_restore import LedgerRestore, as_it_was

UNLIKE = "those restored and those as they were may differ in height: stop them all, and restore the same set again"


def apply_together(restores: Sequence[LedgerRestore]) -> list[str]:
    """
    Stop all of them, prepare all, then put one after the other in its place and start it.

    So what cannot be put back is found before any is exchanged. On failure, or where the run is cancelled, those whose
    turn had not come are as they were, with the pods that they had.
    Raises: RestoreError that names those already restored, and those that are as they were.
    """
    had = {one.pod: one.statefulset.replicas() for one in restores}
    waiting, restored, told = list(restores), [], []
    try:
        for one in restores:
            one.stop()
        for one in restores:
            one.prepare()
        while waiting:
            one = waiting.pop(0)  # from here on its own `apply` answers for it
            told += one.apply(had[one.pod])
            restored.append(one.pod)
    except BaseException as error:
        states = [f"restored and started: {', '.join(restored)}"] if restored else []
        hints = [UNLIKE] if restored else []
        for one in waiting:
            try:
                one.withdraw(had[one.pod], error)
                states.append(f"{one.pod}: {as_it_was(had[one.pod])}")
            except BackupError as worse:
                states.append(worse.message)
                hints += worse.hints
        if not isinstance(error, BackupError):
            for note in ("; ".join(states), *(f"HINT: {hint}" for hint in dict.fromkeys(hints))):
                error.add_note(note)
            raise
        raise RestoreError("; ".join([error.message, *states]), *dict.fromkeys([*error.hints, *hints])) from error
    return told
