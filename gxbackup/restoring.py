"""
The first half of every restore: choose a good snapshot, fetch what is needed of it, check it before it is opened.

How bytes are put back is each kind's own (`trees`, `exchange`, `overlay`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from gxbackup import checking, freshness, layout
from gxbackup.adapters.rclone import Progress, Remote
from gxbackup.errors import RestoreRefusedError
from gxbackup.model import Artifact, Catalog, Frozen, HeldSnapshot

LATEST = "latest"


class Chosen(Frozen):
    """The snapshot that a restore reads, and what it takes from it."""

    server: str
    remote_dir: str
    snapshot: str
    data_type: str
    age_hours: float
    artifacts: tuple[Artifact, ...]
    remarks: tuple[str, ...] = ()

    def sealed_size_bytes(self) -> int:
        """Return how much is downloaded."""
        return sum(artifact.sealed_size_bytes for artifact in self.artifacts)

    def plain_size_bytes(self) -> int:
        """Return how much it is once opened."""
        return sum(artifact.plain_size_bytes for artifact in self.artifacts)


def choose(catalog: Catalog, data_type: str, snapshot: str, now: datetime) -> Chosen:
    """
    Choose the newest good snapshot of a data type, or the one that was named.

    Raises: RestoreRefusedError where there is none, or the named one is unknown, unfinished, unsigned, tampered with,
    or does not hold all of the data type.
    """
    good = freshness.good_copies(catalog, data_type)
    if snapshot == LATEST:
        if not good:
            raise RestoreRefusedError(
                f"{data_type}: no good snapshot on {catalog.server}'s remote folder {catalog.remote_dir}",
                _known(catalog, good),
                *(f"{bad.snapshot} is not trusted: {bad.reason}" for bad in catalog.rejected[-3:]),
            )
        held = good[0]
    else:
        held = _named(catalog, data_type, snapshot, good)
    remarks = [f"{bad.snapshot} is not trusted: {bad.reason}" for bad in catalog.rejected]
    remarks += [
        f"{newer.snapshot} is newer, but does not hold all of {data_type}: {_why(newer, data_type)}"
        for newer in catalog.snapshots
        if newer.snapshot > held.snapshot and newer not in good and _why(newer, data_type)
    ]
    return Chosen(
        server=catalog.server,
        remote_dir=catalog.remote_dir,
        snapshot=held.snapshot,
        data_type=data_type,
        age_hours=round((now - layout.snapshot_time(held.snapshot)).total_seconds() / 3600, 1),
        artifacts=held.manifest.of(data_type),
        remarks=tuple(remarks),
    )


def fetch(remote: Remote, chosen: Chosen, area: Path, progress: Callable[[Progress], None] | None = None) -> None:
    """
    Download the sealed files of a choice into a staging area and check size and sha256 of each.

    Raises: RemoteError, IntegrityError; what was fetched is gone with the area.
    """
    for snapshot in dict.fromkeys(artifact.held_in or chosen.snapshot for artifact in chosen.artifacts):
        artifacts = [a for a in chosen.artifacts if (a.held_in or chosen.snapshot) == snapshot]
        names = [part.path for artifact in artifacts for part in artifact.parts]
        remote.download(layout.in_snapshot(chosen.remote_dir, snapshot), names, area, progress)
        for artifact in artifacts:
            for part in artifact.parts:
                checking.require_equal(area / part.path, part)


def sealed_files(artifact: Artifact, area: Path) -> Sequence[Path]:
    """Return where `fetch` left an artifact's sealed files, in order."""
    return [area / part.path for part in artifact.parts]


def _named(catalog: Catalog, data_type: str, snapshot: str, good: Sequence[HeldSnapshot]) -> HeldSnapshot:
    for held in good:
        if held.snapshot == snapshot:
            return held
    found = catalog.find(snapshot)
    if found is not None:
        reason = _why(found, data_type) or f"it holds no {data_type}"
    elif bad := next((bad for bad in catalog.rejected if bad.snapshot == snapshot), None):
        reason = f"it is not trusted: {bad.reason}"
    elif any(left.snapshot == snapshot for left in catalog.leftovers):
        reason = "it has no manifest: that run never ended"
    else:
        reason = f"there is no such snapshot in {catalog.remote_dir}"
    raise RestoreRefusedError(f"{data_type} {snapshot}: refused: {reason}", _known(catalog, good))


def _why(held: HeldSnapshot, data_type: str) -> str:
    """Say why a snapshot does not hold all of a data type; empty where it never meant to, or where it was pruned."""
    for gap in held.manifest.missing:
        if gap.data_type == data_type:
            return gap.reason
    gone = [
        artifact.path for artifact in held.manifest.of(data_type) if not held.holds(artifact) and not artifact.held_in
    ]
    return f"{gone[0]} is not on the remote (pruned, or lost)" if gone else ""


def _known(catalog: Catalog, good: Sequence[HeldSnapshot]) -> str:
    if good:
        return f"good snapshots: {', '.join(held.snapshot for held in good[:5])}"
    return f"{len(catalog.snapshots)} snapshots are held there; the flow list-snapshots shows them"
