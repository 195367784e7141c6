"""What a person named of a snapshot's artifacts: all of it is held, or nothing is put back. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from gxbackup.errors import RestoreRefusedError


def require_held(option: str, lost: Iterable[str], held: Iterable[str]) -> None:
    """Raise RestoreRefusedError where something was named that this snapshot does not hold: not left out in silence."""
    if names := ", ".join(sorted(lost)):
        raise RestoreRefusedError(
            f"{option}: expected {names} in this snapshot, seen {', '.join(sorted(set(held))) or 'none'}",
            "nothing was touched: name what it holds, or choose another snapshot, maybe of another server",
        )
