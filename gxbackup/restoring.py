"""
The first half of every restore: choose a good snapshot, fetch what is needed, check it, unpack it where nobody uses it.

How it takes the place of what is there is `exchange`'s and `overlay`'s business.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from gxbackup import checking, freshness, layout, mounts, sealing, trees
from gxbackup.adapters.rclone import Progress, Remote
from gxbackup.contents import lines_told
from gxbackup.errors import RestoreRefusedError
from gxbackup.model import Artifact, Catalog, Frozen, HeldSnapshot
from gxbackup.trees import TreeDifference

LATEST = "latest"
NAMES_TOLD = 15
OTHERS_TOLD = 3


class Chosen(Frozen):
    """The snapshot that a restore reads, and what it takes from it."""

    server: str
    remote_dir: str
    snapshot: str
    data_type: str
    age_hours: float
    artifacts: tuple[Artifact, ...]
    remarks: tuple[str, ...] = ()
    others: tuple[str, ...] = ()  # good snapshots that share no stored file with this one, the next older one first

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
        f"{newer.snapshot} is newer, but does not hold all of {data_type}: {reason}"
        for newer in catalog.snapshots
        if newer.snapshot > held.snapshot and newer not in good and (reason := _why(catalog, newer, data_type))
    ]
    artifacts = held.manifest.of(data_type)
    remarks += [f"only the link is kept: {one}" for each in artifacts for one in lines_told(each, "folders_outside")]
    return Chosen(
        server=catalog.server,
        remote_dir=catalog.remote_dir,
        snapshot=held.snapshot,
        data_type=data_type,
        age_hours=round((now - layout.snapshot_time(held.snapshot)).total_seconds() / 3600, 1),
        artifacts=artifacts,
        remarks=tuple(remarks),
        others=_others(held, data_type, good),
    )


def fetch(remote: Remote, chosen: Chosen, area: Path, progress: Callable[[Progress], None] | None = None) -> None:
    """
    Download the sealed files of a choice into a staging area and check size and sha256 of each.

    Raises: RemoteError, IntegrityError; what was fetched is gone with the area.
    """
    for snapshot in dict.fromkeys(artifact.held_in or chosen.snapshot for artifact in chosen.artifacts):
        artifacts = [a for a in chosen.artifacts if (a.held_in or chosen.snapshot) == snapshot]
        names = [part.path for artifact in artifacts for part in artifact.parts]
        remote.download(layout.in_snapshot(chosen.remote_dir, snapshot), names, area, progress, may_link=True)
        for artifact in artifacts:
            for part in artifact.parts:
                checking.require_equal(area / part.path, part, *_if_damaged(chosen))


def sealed_files(artifact: Artifact, area: Path) -> Sequence[Path]:
    """Return where `fetch` left an artifact's sealed files, in order."""
    return [area / part.path for part in artifact.parts]


def _others(held: HeldSnapshot, data_type: str, good: Sequence[HeldSnapshot]) -> tuple[str, ...]:
    files = _files(held, data_type)
    others = [other.snapshot for other in good if files.isdisjoint(_files(other, data_type))]
    return tuple(sorted(others, key=lambda other: other > held.snapshot)[:OTHERS_TOLD])


def _files(held: HeldSnapshot, data_type: str) -> set[tuple[str, str]]:
    """Return the stored files of a data type: an unchanged one lies in an earlier snapshot's folder."""
    return {(artifact.held_in or held.snapshot, artifact.path) for artifact in held.manifest.of(data_type)}


def _if_damaged(chosen: Chosen) -> tuple[str, str]:
    others = " or ".join(f"`--snapshot {other}`" for other in chosen.others) or "flow list-snapshots shows which"
    return (
        "it may have been damaged on the way: start it again",
        f"where the same is seen again, the remote's copy is damaged: take the next good snapshot: {others}",
    )


def _named(catalog: Catalog, data_type: str, snapshot: str, good: Sequence[HeldSnapshot]) -> HeldSnapshot:
    for held in good:
        if held.snapshot == snapshot:
            return held
    found = catalog.find(snapshot)
    if found is not None:
        reason = _why(catalog, found, data_type) or f"it holds no {data_type}"
    elif bad := next((bad for bad in catalog.rejected if bad.snapshot == snapshot), None):
        reason = f"it is not trusted: {bad.reason}"
    elif left := next((left for left in catalog.leftovers if left.snapshot == snapshot), None):
        reason = "it has no manifest: that run was cut"
        if layout.RECOVER_PAGE in left.files:  # sent when all of it was proven
            reason = "it has no manifest: it was cut, or its manifest was lost; the RECOVER.md beside it still works"
    else:
        reason = f"there is no such snapshot in {catalog.remote_dir}"
    raise RestoreRefusedError(f"{data_type} {snapshot}: refused: {reason}", _known(catalog, good))


def _why(catalog: Catalog, held: HeldSnapshot, data_type: str) -> str:
    """Say why a snapshot does not hold all of a data type; empty where it never meant to."""
    for gap in held.manifest.missing:
        if gap.data_type == data_type:
            return gap.reason
    for artifact in held.manifest.of(data_type):
        if not freshness.artifact_is_held(catalog, held, artifact):
            if artifact.held_in and catalog.find(artifact.held_in) is None:
                return f"{artifact.path} lies in {artifact.held_in}, which is gone or not trusted"
            gone = f"{artifact.path} is not on the remote (pruned, or lost)"
            return freshness.cut_file(catalog, held, artifact) or gone
    return ""


def _known(catalog: Catalog, good: Sequence[HeldSnapshot]) -> str:
    if good:
        return f"good snapshots: {', '.join(held.snapshot for held in good[:5])}"
    return f"{len(catalog.snapshots)} snapshots are held there; the flow list-snapshots shows them"


def preview(artifact: Artifact, area: Path, identity_file: Path, target: Path) -> TreeDifference:
    """
    Read a fetched file tree to its end, checked and vetted as a restore would, and say what it would change.

    Raises: SealingError, IntegrityError, RestoreRefusedError; nothing is unpacked.
    """
    with sealing.unseal(artifact, sealed_files(artifact, area), identity_file) as chunks:
        return trees.preview(chunks, target, artifact.evidence)


def unpack(artifact: Artifact, area: Path, identity_file: Path, into: Path) -> None:
    """
    Unpack a fetched file tree into an empty directory that nobody uses yet, and prove that it is the one captured.

    One pass: unsealed, decompressed, hashed, vetted and unpacked in flight; then the tree on disk is counted and
    compared with the manifest's evidence. Nothing may use `into` before this returned; on failure a part is left in it.

    Raises: SealingError, IntegrityError, RestoreRefusedError, RestoreError.
    """
    with sealing.unseal(artifact, sealed_files(artifact, area), identity_file) as chunks:
        trees.extract(chunks, into, artifact.evidence)
    trees.compare(artifact.evidence, trees.tally(into))
    for file in sealed_files(artifact, area):
        file.unlink()


def scratch_directory(target: str) -> Path:
    """
    Make (or take) the empty directory that a restore to scratch unpacks into.

    Raises: RestoreRefusedError unless it is absolute and absent or empty.
    """
    place = Path(target)
    hint = "scratch never overwrites: name a folder that is not there yet, for example /root/to-look-at"
    if not target or not place.is_absolute():
        raise RestoreRefusedError(f"target: expected an absolute path, seen {target!r}", hint)
    if place.is_symlink() or (place.exists() and (not place.is_dir() or any(place.iterdir()))):
        raise RestoreRefusedError(f"target {place}: expected nothing or an empty folder, seen something there", hint)
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise RestoreRefusedError(f"target {place}: cannot be made: {error.strerror}", hint) from None
    return place


def origin(chosen: Chosen) -> str:
    """Return the root that a file tree was captured from."""
    root = chosen.artifacts[0].settings.get("root")
    if not isinstance(root, str):
        raise RestoreRefusedError(f"{chosen.data_type}: is no file tree", "this restore puts file trees back")
    return root


def not_mounted(chosen: Chosen) -> list[str]:
    """Tell, for a restore to where it was captured, of the disk that it lay on where none is mounted there now."""
    point = Path(str(chosen.artifacts[0].settings.get("mounted_at", "/")))
    if point.parent == point or point in mounts.points():
        return []
    hidden = "what is put there now will be hidden once that is mounted"
    return [f"its disk is not mounted: it lay on one at {point}; {hidden}. If this host has no disk for it, go on"]


def select(catalog: Catalog, ours: Sequence[str], named: Sequence[str] | None, snapshot: str) -> list[str]:
    """
    Return which data types a restore of several takes: those named, else all of ours (that the named snapshot holds).

    Raises: RestoreRefusedError for one that this restore does not put back, or where none is left.
    """
    if unknown := [name for name in named or [] if name not in ours]:
        raise RestoreRefusedError(
            f"data type {unknown[0]!r}: not put back by this restore on {catalog.server}",
            f"choose from: {', '.join(ours)}",
        )
    held = catalog.find(snapshot)
    chosen = list(named or [name for name in ours if held is None or held.manifest.of(name)])
    if not chosen:
        raise RestoreRefusedError(f"{catalog.server} {snapshot}: holds none of {', '.join(ours)}")
    return chosen


def share_out(only: Sequence[str], prepared: Mapping[str, Path]) -> dict[str, list[str]]:
    """
    Return for each unpacked tree which of the wanted paths it holds.

    Raises: RestoreRefusedError for a path that none of them holds.
    """
    shares = {
        name: [path for path in only if os.path.lexists(tree / path.strip("/"))] for name, tree in prepared.items()
    }
    for path in only:
        if not any(path in share for share in shares.values()):
            raise RestoreRefusedError(
                f"only {path}: in none of {', '.join(prepared)}", "paths are relative to the root: etc/nginx"
            )
    return shares


def more_specific(chosen: Mapping[str, Chosen]) -> dict[str, list[str]]:
    """
    Return for each data type the paths that another one of the choice holds more closely.

    /etc is captured weekly and /etc/rancher/k3s daily: the older, wider copy must not overwrite the newer one.
    """
    paths = {name: _paths(choice) for name, choice in chosen.items()}
    return {
        name: [
            inner
            for other, others in paths.items()
            for inner in others
            if other != name and any(inner.startswith(f"{outer}/") for outer in own)
        ]
        for name, own in paths.items()
    }


def _paths(chosen: Chosen) -> list[str]:
    paths = chosen.artifacts[0].settings.get("paths")
    return [path for path in paths if isinstance(path, str)] if isinstance(paths, list) else []


def in_words(difference: TreeDifference) -> list[str]:
    """Say a difference in a few lines for people, first names included."""
    told = [
        f"{count} {what}"
        for what, count in (
            ("added", difference.added_count),
            ("changed", difference.changed_count),
            ("removed", difference.removed_count),
            ("the same", difference.same_count),
        )
    ]
    for what, names in (("added", difference.added), ("changed", difference.changed), ("removed", difference.removed)):
        told += [f"{what}: {name}" for name in names[:NAMES_TOLD]]
        if len(names) > NAMES_TOLD:
            told.append(f"{what}: … and more")
    return told
