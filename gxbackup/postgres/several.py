"""The restores of one run, one for each place: held against what a person was shown, then one after the other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from gxbackup.errors import BackupError, RestoreRefusedError
from gxbackup.postgres.restore import Restore

_SHOWN = "postgres-shown.json"


def preview_each(restores: Sequence[Restore], area: Path) -> list[str]:
    """Say what each would do, and note in the run's staging which live databases they would replace."""
    said = [line for restore in restores for line in _named(restore, restore.preview(), restores)]
    (area / _SHOWN).write_text(json.dumps(_replaced(restores)), encoding="ascii")
    return said


def apply_each(restores: Sequence[Restore], area: Path) -> list[str]:
    """
    Put each place back; all or nothing holds for each of them, not for all together.

    Raises: as `Restore.apply`; the error says which places are done. RestoreRefusedError, before anything is made,
    where other live databases would be replaced than were shown.
    """
    _require_as_shown(restores, area)
    said: list[str] = []
    done: list[str] = []
    for restore in restores:
        try:
            if done:
                restore.ask_again()
                _require_as_shown([restore], area)
            said += _named(restore, restore.apply(), restores)
        except BackupError as error:
            if done:
                error.hints = (*error.hints, *done, "put back only what is missing: choose it with `place`")
            raise
        kept = f"what was there is kept as {', '.join(restore.kept)}" if restore.kept else "nothing was replaced there"
        done.append(f"{restore.label} was put back before that and stays so; {kept}")
    return said


def _require_as_shown(restores: Sequence[Restore], area: Path) -> None:
    if not (area / _SHOWN).exists():
        return
    shown = json.loads((area / _SHOWN).read_text(encoding="ascii"))
    for label, now in _replaced(restores).items():
        if now != shown.get(label):
            raise RestoreRefusedError(
                f"{label}: expected to replace the databases that were shown: {shown.get(label)}, seen {now}",
                "something changed there since: look at the plan again, then approve that",
            )


def _replaced(restores: Sequence[Restore]) -> dict[str, list[str]]:
    return {restore.label: restore.replaces() for restore in restores}


def _named(restore: Restore, lines: list[str], restores: Sequence[Restore]) -> list[str]:
    return lines if len(restores) == 1 else [f"{restore.label}: {line}" for line in lines]
