"""
Copies: what one snapshot holds of one data type, whether it could be restored, and what else it needs. Pure, no clock.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from gxbackup import layout
from gxbackup.model import Artifact, Catalog, HeldSnapshot

NOTHING = "(nothing)"

Key = tuple[str, str]
Need = Literal["base", "holder", "set"]


@dataclass(frozen=True)
class Copy:
    """All artifacts of one data type in one snapshot; of `NOTHING`, where the snapshot never held an artifact."""

    held: HeldSnapshot
    time: datetime
    data_type: str
    good: bool
    needs: tuple[tuple[Need, Key], ...]

    @property
    def key(self) -> Key:
        """The snapshot's id and the data type."""
        return self.held.snapshot, self.data_type

    @property
    def keep_days(self) -> int:
        """The promise that the manifest was written under; 0 without an artifact."""
        return max((artifact.keep_days for artifact in self.held.manifest.of(self.data_type)), default=0)

    def named(self) -> list[str]:
        """Return the paths that its artifacts name, in the manifest's order."""
        return [part.path for artifact in self.held.manifest.of(self.data_type) for part in artifact.parts]

    def files(self) -> list[str]:
        """Return those of its paths that lie in the snapshot's own folder."""
        return [path for path in dict.fromkeys(self.named()) if path in self.held.files]

    def size_bytes(self) -> int:
        """Return the size of its files in the snapshot's own folder."""
        return sum(self.held.files[path] for path in self.files())

    def is_gone(self) -> bool:
        """Tell whether no byte of it is left: pruned, or lost."""
        return not self.good and not self.files() and self.data_type != NOTHING


def copies(catalog: Catalog) -> dict[Key, Copy]:
    """
    Return every copy that the trusted manifests name, oldest snapshot first.

    A copy is good where its manifest misses nothing of it, every byte lies on the remote with its size (in the one
    folder that `held_in` names, or in its own), and so does every base down to the one that builds on nothing.
    """
    snapshots = sorted(catalog.snapshots, key=lambda held: held.snapshot)
    by_id = {held.snapshot: held for held in snapshots}
    sets: dict[str, list[Key]] = defaultdict(list)
    for held in snapshots:
        for artifact in held.manifest.artifacts:
            if artifact.set_id is not None:
                sets[artifact.set_id].append((held.snapshot, artifact.data_type))
    found: dict[Key, Copy] = {}
    for held in snapshots:
        time = layout.snapshot_time(held.snapshot)
        for data_type in held.manifest.data_types() or (NOTHING,):
            artifacts = held.manifest.of(data_type)
            # A base is older than what builds on it, so it was judged before; a younger one is no base.
            good = held.manifest.has_good(data_type) and all(
                _is_held(artifact, held, by_id) and (artifact.base is None or _is_good(found, artifact.base, data_type))
                for artifact in artifacts
            )
            needs = tuple(dict.fromkeys(need for artifact in artifacts for need in _needs(artifact, by_id, sets)))
            copy = Copy(
                held, time, data_type, good, tuple(need for need in needs if need[1] != (held.snapshot, data_type))
            )
            found[copy.key] = copy
    return found


def _is_good(found: dict[Key, Copy], snapshot: str, data_type: str) -> bool:
    return (snapshot, data_type) in found and found[snapshot, data_type].good


def _is_held(artifact: Artifact, held: HeldSnapshot, by_id: dict[str, HeldSnapshot]) -> bool:
    if artifact.held_in is None:
        return held.holds(artifact)
    holder = by_id.get(artifact.held_in)
    return holder is not None and holder.holds(artifact) and _same(holder, artifact) is not None


def _same(holder: HeldSnapshot, artifact: Artifact) -> Artifact | None:
    """Return the holder's own entry of a file that another snapshot refers to, or None: then it is not that file."""
    for own in holder.manifest.artifacts:
        if (own.path, own.sealed_sha256, own.base) == (artifact.path, artifact.sealed_sha256, artifact.base):
            return own
    return None


def _needs(artifact: Artifact, by_id: dict[str, HeldSnapshot], sets: dict[str, list[Key]]) -> list[tuple[Need, Key]]:
    needs: list[tuple[Need, Key]] = []
    if artifact.base is not None:
        needs.append(("base", (artifact.base, artifact.data_type)))
    if artifact.held_in is not None:
        holder = by_id.get(artifact.held_in)
        own = _same(holder, artifact) if holder else None
        needs.append(("holder", (artifact.held_in, own.data_type if own else artifact.data_type)))
    if artifact.set_id is not None:
        needs += [("set", member) for member in sets[artifact.set_id]]
    return needs
