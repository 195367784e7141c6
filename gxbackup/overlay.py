"""
A host's own files put back over a live root, file by file: nothing that the backup lacks is ever deleted.

The host keeps its identity unless asked otherwise, and the SSH keys that open it now still open it afterwards. What is
overwritten lies in a safety copy first, and a journal puts back an `apply` that was killed; so does what others have
written there since.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Literal

from gxbackup import mounts, placing
from gxbackup.errors import IntegrityError, RestoreError, RestoreRefusedError
from gxbackup.locks import locked
from gxbackup.safety import KEYS, SafetyCopy, digest
from gxbackup.tally import shown

# What makes this machine this machine. From another one, or from before it was set up anew, they would lock it out.
IDENTITY = (
    "etc/machine-id", "etc/hostname", "etc/hosts", "etc/hostid", "etc/adjtime",
    "etc/fstab", "etc/crypttab", "etc/mtab", "etc/mdadm", "etc/lvm", "etc/iscsi", "etc/nvme",
    "etc/resolv.conf", "etc/netplan", "etc/network", "etc/NetworkManager/system-connections", "etc/systemd/network",
    "etc/udev/rules.d/70-persistent-*", "etc/cloud", "etc/default/grub", "etc/default/grub.d",
    "etc/passwd", "etc/passwd-", "etc/group", "etc/group-", "etc/shadow", "etc/shadow-", "etc/gshadow", "etc/gshadow-",
    "etc/subuid", "etc/subuid-", "etc/subgid", "etc/subgid-",
    "etc/ssh/ssh_host_*", "etc/rancher/node", "etc/gx-backup",
)  # fmt: skip

Action = Literal["create", "replace", "attributes", "merge"]


@dataclass(frozen=True)
class Change:
    """One path that an overlay would touch."""

    path: str  # relative to the root, of any bytes (surrogateescape)
    action: Action

    def described(self) -> str:
        """Return it as one line for people."""
        return f"{self.action} {_shown(self.path)}"


@dataclass(frozen=True)
class OverlayPlan:
    """All that an overlay would do: parents before what lies in them."""

    prepared: Path
    root: Path
    only: tuple[str, ...]
    without: tuple[str, ...]
    with_identity: bool
    changes: tuple[Change, ...]
    left_alone: tuple[str, ...]  # the host's identity, as far as the backup holds one
    unchanged_count: int


def plan(
    prepared: Path, root: Path, only: Sequence[str] = (), *, without: Sequence[str] = (), with_identity: bool = False
) -> OverlayPlan:
    """
    Say what putting an unpacked tree over a live root would change; nothing is touched.

    `only` names paths (and what lies below) relative to the root; none: all. `without` names those that are left to
    another backup, which holds them too.

    Raises: RestoreRefusedError where the root is no directory, `only` names what the backup lacks, a folder of the
    backup meets something else on the host (or the other way round), which would have to be deleted, or a file to
    replace is a mount point.
    """
    if not root.is_dir():
        raise RestoreRefusedError(f"{root}: expected a directory to put files back over, seen none")
    wanted = tuple(_selector(path) for path in only)
    if absent := [path for path in wanted if not os.path.lexists(prepared / path)]:
        raise RestoreRefusedError(f"only {', '.join(absent)}: not in this backup")
    actions: dict[str, Action | None] = {}
    left_alone: list[str] = []
    for path in _walk(prepared):
        if any(_is_within(path, each) for each in without):
            continue
        chosen = not wanted or any(_is_within(path, each) for each in wanted)
        if not chosen and not any(_is_within(each, path) for each in wanted):
            continue
        kept = None if with_identity else _identity(path)
        if kept or _is_locked_out(prepared / path, root / path):
            left_alone.append(_shown(kept or path))
            continue
        action = _action(prepared / path, root / path)
        actions[path] = action if chosen or action == "create" else None
    for group in _link_groups(prepared, actions):
        if any(actions[path] for path in group) or len({(root / path).lstat().st_ino for path in group}) > 1:
            actions.update({path: actions[path] or "replace" for path in group})
    _refuse_mount_points(root, actions)
    return OverlayPlan(
        prepared=prepared,
        root=root,
        only=wanted,
        without=tuple(without),
        with_identity=with_identity,
        changes=tuple(Change(path, action) for path, action in actions.items() if action),
        left_alone=tuple(dict.fromkeys(left_alone)),
        unchanged_count=sum(action is None for action in actions.values()),
    )


def apply(planned: OverlayPlan, safety_dir: Path, restore: str = "") -> Path:
    """
    Do what of the plan is still to do, prove it, and return the folder of the safety copy.

    On failure all that was touched is as it was before; after a kill, `recover` does that. Several overlays of one
    named `restore` stay open until `finish`: a kill before that, or `undo`, has all of them put back.

    Raises: RestoreRefusedError where the host changed since the plan, a killed overlay was not recovered, or the safety
    copy cannot be made: nothing was touched. RestoreError, IntegrityError: it was, and was put back.
    """
    root = planned.root
    with locked(str(root), "restore", f"restore over {root}"):
        left = [copy for copy in SafetyCopy.unfinished(safety_dir, root) if not restore or copy.restore != restore]
        if left:
            raise RestoreRefusedError(f"{root}: a restore over it was killed: recover it first from {left[0].folder}")
        changes = _again(planned).changes
        # Another overlay of the same restore may have made a change, or a folder for it, since.
        made = (Change(change.path, "attributes") for change in planned.changes if change.action == "create")
        meant = {*planned.changes, *made}
        if unmeant := [change for change in changes if change not in meant]:
            raise RestoreRefusedError(
                f"{root}: changed since this restore was planned: {unmeant[0].described()}",
                "make the plan again, and look",
            )
        copy = SafetyCopy.take(
            safety_dir,
            root,
            overwritten=[change.path for change in changes if change.action != "create"],
            created=[change.path for change in changes if change.action == "create"],
            restore=restore,
            keys=_written_keys(planned.prepared, root, changes),
        )
        try:
            merged = {change.path for change in changes if change.action == "merge"}
            placing.put(planned.prepared, root, [change.path for change in changes], copy.temporary, merged)
            if differing := _again(planned).changes:
                raise IntegrityError(f"{root}: not as in the backup: {differing[0].described()}")
            os.sync()
        except BaseException as error:
            copy.put_back()
            if isinstance(error, OSError):
                raise RestoreError(
                    f"{root}: cannot be restored: {error.strerror}: {error.filename}", "all is as it was before"
                ) from None
            raise
        if not restore:
            copy.close()
    return copy.folder


def finish(safety_copies: Sequence[Path]) -> None:
    """Note that all overlays of one restore ended well; as long as one of them is not noted, all would be put back."""
    for folder in safety_copies:
        SafetyCopy.of(folder).close()


def unended(root: Path, safety_dir: Path) -> list[str]:
    """Say for people which restores over this root `recover` would put back first; nothing is touched."""
    return [copy.described() for copy in SafetyCopy.unfinished(safety_dir, root)]


def undo(root: Path, safety_dir: Path, restore: str) -> None:
    """Put back what overlays of a `restore` did a moment ago; no copy of that is kept, as by `recover`."""
    with locked(str(root), "restore", f"putting back {root}"):
        _put_back([copy for copy in SafetyCopy.unfinished(safety_dir, root) if copy.restore == restore])


def recover(root: Path, safety_dir: Path) -> list[Path]:
    """
    Put back every `apply` over this root that was killed, with the others of its restore, the newest first.

    What lies there now, others may have written since: it is copied first. Returns the folders of their safety copies,
    in which `safety.found` finds that too.

    Raises: RestoreRefusedError where it cannot be copied: nothing was touched. RestoreError, IntegrityError.
    """
    with locked(str(root), "restore", f"recovery of {root}"):
        unfinished = SafetyCopy.unfinished(safety_dir, root)
        for copy in unfinished:
            copy.keep_found()
        _put_back(unfinished)
    return [copy.folder for copy in unfinished]


def _put_back(copies: Sequence[SafetyCopy]) -> None:
    for copy in copies:  # first, so that a recovery that is killed too goes on with all of them
        copy.reopen()
    for copy in copies:
        copy.put_back()


def _written_keys(prepared: Path, root: Path, changes: Sequence[Change]) -> dict[str, str]:
    """Return the digests of the keys that an overlay will write, so that later ones are told from them."""
    created = [each.path for each in changes if each.action == "create" and fnmatchcase(Path(each.path).name, KEYS)]
    merged = {each.path: (prepared / each.path, root / each.path) for each in changes if each.action == "merge"}
    added = {path: digest(there, placing.missing_lines(here, there)) for path, (here, there) in merged.items()}
    return {**added, **{path: digest(prepared / path) for path in created}}


def _again(planned: OverlayPlan) -> OverlayPlan:
    return plan(
        planned.prepared, planned.root, planned.only, without=planned.without, with_identity=planned.with_identity
    )


def _action(source: Path, destination: Path) -> Action | None:
    if not os.path.lexists(destination):
        return "create"
    here, there = source.lstat().st_mode, destination.lstat().st_mode
    if stat.S_ISDIR(here) != stat.S_ISDIR(there):
        backup, host = ("a folder", "none") if stat.S_ISDIR(here) else ("no folder", "one")
        raise RestoreRefusedError(
            f"{_shown(str(destination))}: {backup} in the backup, {host} on the host: it would have to go first",
            "move it aside by hand, or leave it out with `only`",
        )
    if _holds_keys(source):
        return "merge" if placing.missing_lines(source, destination) else None
    if placing.alike(source, destination):
        return None
    return "attributes" if stat.S_ISDIR(here) else "replace"


def _refuse_mount_points(root: Path, actions: dict[str, Action | None]) -> None:
    points = mounts.points()
    for path, action in actions.items():
        if action in ("replace", "merge") and root / path in points:
            raise RestoreRefusedError(
                f"{_shown(str(root / path))}: is a mount point, which no file can take the place of",
                "unmount it first, or leave it out with `only`",
            )


def _holds_keys(path: Path) -> bool:
    return fnmatchcase(path.name, KEYS) and stat.S_ISREG(path.lstat().st_mode)


def _is_locked_out(source: Path, destination: Path) -> bool:
    """Tell whether authorized keys would go: a link, here or there, cannot be merged."""
    if not fnmatchcase(source.name, KEYS) or not os.path.lexists(destination):
        return False
    return stat.S_IFMT(source.lstat().st_mode) != stat.S_IFMT(destination.lstat().st_mode) or source.is_symlink()


def _link_groups(prepared: Path, actions: dict[str, Action | None]) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for path in actions:
        seen = (prepared / path).lstat()
        if seen.st_nlink > 1 and not stat.S_ISDIR(seen.st_mode) and not _holds_keys(prepared / path):
            groups.setdefault(seen.st_ino, []).append(path)
    return [group for group in groups.values() if len(group) > 1]


def _walk(prepared: Path) -> Iterator[str]:
    """Yield all paths below a tree, relative to it, a folder before what lies in it."""
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(prepared / folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            path = f"{folder}/{entry.name}" if folder else entry.name
            yield path
        inside = [entry.name for entry in found if entry.is_dir(follow_symlinks=False)]
        folders += [f"{folder}/{name}" if folder else name for name in reversed(inside)]


def _identity(path: str) -> str | None:
    """Return the part of a path that names the host's identity, if one does."""
    names = [path, *(str(parent) for parent in PurePosixPath(path).parents)]
    return next((name for name in reversed(names) for each in IDENTITY if fnmatchcase(name, each)), None)


def _selector(path: str) -> str:
    steps = PurePosixPath(path)
    if steps.is_absolute() or ".." in steps.parts or not steps.parts:
        raise RestoreRefusedError(f"only {path!r}: expected a path relative to the root, such as etc/nginx")
    return str(steps)


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _shown(path: str) -> str:
    return shown(os.fsencode(path))
