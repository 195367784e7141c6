"""
What an archive may not hold when it comes back: names that lead out, links that lead out, surprises.

Reads no stream; `tarstream` shows it one member after the other.
"""

from __future__ import annotations

from gxbackup import tally
from gxbackup.errors import RestoreRefusedError
from gxbackup.model import Evidence
from gxbackup.tally import Member, Tally, relative, shown

_ODD_STEPS = (b"", b".", b"..")


class Vetting:
    """Refuses members that a backup of a healthy tree does not hold."""

    def __init__(self, allowed: Evidence) -> None:
        self._allowed = {risk: _count(allowed, risk) for risk in tally.RISKS}
        self._symlinks: set[bytes] = set()
        self._clear_parent = b""

    def check(self, member: Member, seen: Tally) -> None:
        """Raise RestoreRefusedError for a member that may not be; `seen` has counted it already."""
        name, kind = member.name, member.kind
        if name != b"." or kind != tally.DIRECTORY:
            self._require_inside(name, name)
        if kind == tally.HARD_LINK:
            self._require_inside(relative(member.target, kind), name)
        elif kind == tally.SYMLINK:
            if not member.target or b"\0" in member.target:
                raise RestoreRefusedError(f"{shown(name)}: a symlink without a target that can be")
            self._symlinks.add(name)
            self._clear_parent = b""
        if kind != tally.DIRECTORY:
            for risk, limit in self._allowed.items():
                if getattr(seen.counts, risk) > limit:
                    raise RestoreRefusedError(
                        f"{shown(name)}: a surprise: the source had {limit} {risk}, the archive holds more",
                        "was the archive exchanged? choose another snapshot",
                    )

    def _require_inside(self, path: bytes, name: bytes) -> None:
        parent, _, leaf = path.rpartition(b"/")
        if leaf in _ODD_STEPS or b"\0" in path or path[:1] == b"/":
            raise RestoreRefusedError(f"{shown(name)}: a name that leads out of the tree, or nowhere: {shown(path)}")
        if not parent or parent == self._clear_parent:
            return
        above = b""
        for step in parent.split(b"/"):
            if step in _ODD_STEPS:
                raise RestoreRefusedError(
                    f"{shown(name)}: a path that leads out of the tree, or nowhere: {shown(path)}"
                )
            above = above + b"/" + step if above else step
            if above in self._symlinks:
                raise RestoreRefusedError(f"{shown(name)}: lies behind a symlink of the same archive, {shown(above)}")
        self._clear_parent = parent


def _count(allowed: Evidence, risk: str) -> int:
    value = allowed.get(risk, 0)
    if not isinstance(value, int):
        raise RestoreRefusedError(f"evidence {risk}: expected a number, seen {value!r}")
    return value
