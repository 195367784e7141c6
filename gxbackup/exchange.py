"""
One tree takes the place of another in one step, and the old one stays beside it as the safety copy.

    /var/www/.gxcoin.money.restore-…/tree    the tree being restored; nobody but root may look in
    /var/www/gxcoin.money                    the target
    /var/www/.gxcoin.money.before-20261122T020000Z   what the target was: renamed, never copied

Killed at any point, the target is the old tree or the new one, whole; the next restore tidies up. Unpacks nothing.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import secrets
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gxbackup import clock, mounts
from gxbackup.errors import RestoreError, RestoreRefusedError
from gxbackup.locks import locked

SPARE_BYTES = 64 * 1024**2
_TREE = "tree"
_INODE = "inode"
_AT_FDCWD = -100
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
_libc = ctypes.CDLL(None, use_errno=True)


def check(target: Path, needed_bytes: int = 0) -> None:
    """
    Say before anything is done whether a tree could take a target's place; nothing is touched.

    Raises: RestoreRefusedError as `prepare` would.
    """
    require_room(_resolved(target), needed_bytes)


def require_room(place: Path, needed_bytes: int) -> None:
    """Raise RestoreRefusedError unless the disk of a place has this much room, and some to spare."""
    there = next(folder for folder in (place, *place.parents) if folder.is_dir())
    free_bytes = shutil.disk_usage(there).free
    if free_bytes < needed_bytes + SPARE_BYTES:
        raise RestoreRefusedError(
            f"{place}: needs {needed_bytes} bytes and {SPARE_BYTES} to spare beside it, seen {free_bytes} free",
            "older safety copies (.NAME.before-…) beside the target may be in the way",
        )


@contextmanager
def prepare(target: Path, needed_bytes: int = 0) -> Iterator[Path]:
    """
    Give an empty directory next to a target, for the tree that shall take its place; it is gone after the block.

    Holds the target for the length of the block, and tidies up first what killed restores left: their unfinished trees
    go, an old tree that was just exchanged becomes a safety copy. A target that is a symlink (blue/green) is followed.

    Raises: RestoreRefusedError where the target is a mount point, has one inside, is no directory, cannot be replaced,
    or there is not enough room (needed_bytes and some to spare); LockedError where another restore holds it.
    """
    real = _resolved(target)
    with locked(str(real), "restore", f"restore of {real}"):
        _sweep(real)
        require_room(real, needed_bytes)
        work = _make_work(real)
        try:
            yield work / _TREE
        finally:
            _finish(work, real)


def exchange(prepared: Path, target: Path) -> Path | None:
    """
    Put a prepared tree in the target's place in one step; return where the old tree lies now (None: there was none).

    All of the prepared tree is on the disk before the step, so that no power cut leaves empty files in its place.

    Raises: RestoreError; then the target is as it was.
    """
    real = _resolved(target)
    work = prepared.parent
    if prepared.name != _TREE or work.parent != real.parent:
        raise RestoreRefusedError(f"{prepared}: expected a tree prepared beside {real}")
    _sync(prepared)
    if not os.path.lexists(real):
        _rename(prepared, real, _RENAME_NOREPLACE)
        _sync_folder(real.parent)
        return None
    _rename(prepared, real, _RENAME_EXCHANGE)
    return _keep_old(work, real)


def put_back(target: Path, before: Path | None) -> None:
    """
    Undo an exchange: the old tree takes its place again (None: there was none), and what was restored is deleted.

    For the block of `prepare`, which holds the target.

    Raises: RestoreError; then the old tree still lies at `before`.
    """
    real = _resolved(target)
    work = _make_work(real, outgoing=real)
    if before is None:
        _rename(real, work / _TREE, _RENAME_NOREPLACE)
    else:
        _rename(before, work / _TREE, _RENAME_NOREPLACE)
        _rename(work / _TREE, real, _RENAME_EXCHANGE)
    _sync_folder(real.parent)
    _finish(work, real)


def discard(tree: Path) -> None:
    """Delete a tree that nobody misses, if it is there; links in it are not followed."""
    if os.path.lexists(tree):
        shutil.rmtree(tree)


def _resolved(target: Path) -> Path:
    real = Path(os.path.realpath(target))
    if os.path.lexists(real) and not real.is_dir():
        raise RestoreRefusedError(f"{real}: expected a directory to replace, seen something else")
    if not real.parent.is_dir():
        raise RestoreRefusedError(
            f"{real}: expected a folder to put it in, seen no {real.parent}",
            f"on a new machine: mkdir -p {shlex.quote(str(real.parent))}; else, is its disk mounted?",
        )
    points = mounts.points()
    if real == real.parent or real in points or (real.exists() and real.stat().st_dev != real.parent.stat().st_dev):
        raise RestoreRefusedError(
            f"{real}: is a mount point, which no tree can take the place of", "restore to a folder below it, and move"
        )
    inside = [str(point) for point in points if real in point.parents]
    if inside:
        raise RestoreRefusedError(
            f"{real}: has mount points inside, which would go aside with the old tree: {', '.join(inside[:3])}",
            "unmount them first",
        )
    return real


def _make_work(real: Path, outgoing: Path | None = None) -> Path:
    """
    Make the private directory beside a target, and note in it by inode which tree is the one to delete.

    Whatever else is found as its `tree` later is the old tree of an exchange that was not ended, and is kept.
    """
    try:
        work = real.parent / f".{real.name}.restore-{secrets.token_hex(4)}"
        work.mkdir(mode=0o700)
        if outgoing is None:
            outgoing = work / _TREE
            outgoing.mkdir(mode=0o700)
        note = work / _INODE
        note.with_suffix(".new").write_text(str(outgoing.stat().st_ino), encoding="ascii")
        _sync(work)
        note.with_suffix(".new").rename(note)
        _sync_folder(work)
    except OSError as error:
        raise RestoreRefusedError(f"{real.parent}: cannot make a directory beside the target: {error}") from None
    return work


def _finish(work: Path, real: Path) -> None:
    """Remove a work directory with the tree that it was made for; an old tree in it becomes a safety copy."""
    tree, note = work / _TREE, work / _INODE
    if os.path.lexists(tree) and note.exists() and int(note.read_text(encoding="ascii")) != tree.lstat().st_ino:
        _keep_old(work, real)
    shutil.rmtree(work)


def _sweep(real: Path) -> None:
    for left in sorted(real.parent.glob(f".{glob.escape(real.name)}.restore-*")):
        if left.is_dir() and not left.is_symlink():
            _finish(left, real)


def _keep_old(work: Path, real: Path) -> Path:
    before = real.parent / f".{real.name}.before-{clock.now():%Y%m%dT%H%M%S.%fZ}"
    _rename(work / _TREE, before, _RENAME_NOREPLACE)
    _sync_folder(real.parent)
    return before


def _rename(source: Path, destination: Path, flags: int) -> None:
    if _libc.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(destination), flags) == 0:
        return
    number = ctypes.get_errno()
    hint = ["this filesystem cannot exchange two directories in one step"] if number == errno.EINVAL else []
    raise RestoreError(f"{destination}: cannot be replaced by {source}: {os.strerror(number)}", *hint)


def _sync(path: Path) -> None:
    """Put all that was written to the filesystem of a path on its disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(handle) != 0:
            raise RestoreError(f"{path}: cannot be written to disk: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
