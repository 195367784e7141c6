"""
The private directory in which sealed files wait for their upload, and which always disappears.

The only deleter of whole trees besides the restore's exchange. Plain bytes are never written here by a backup.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gxbackup.errors import StagingError

DEFAULT_ROOT = Path("/var/lib/gx-backup/staging")
SPARE_BYTES = 64 * 1024**2
NOT_A_DISK = ("tmpfs", "ramfs", "devtmpfs")
_PREFIX = "run-"
_MARK = ".in-use"


def staging_root() -> Path:
    """
    Return the staging directory of this host (GX_STAGING_DIR), made if need be, owned by us and closed to others.

    Raises: StagingError where it is open to others, a link, or in memory (a large backup would end the host).
    """
    root = Path(os.environ.get("GX_STAGING_DIR") or DEFAULT_ROOT)
    hint = "set GX_STAGING_DIR to a directory on a real disk that only root may enter"
    if not root.is_absolute():
        raise StagingError(f"staging {root}: expected an absolute path", hint)
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        seen = root.lstat()
    except OSError as error:
        raise StagingError(f"staging {root}: cannot be made: {error.strerror}", hint) from None
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid() or seen.st_mode & 0o077:
        raise StagingError(
            f"staging {root}: expected a directory of mode 0700 that is ours, "
            f"seen mode {seen.st_mode & 0o7777:04o}, owner {seen.st_uid}",
            hint,
        )
    if (kind := _filesystem(root)) in NOT_A_DISK:
        raise StagingError(f"staging {root}: expected a disk, seen {kind}", hint)
    return root


@contextmanager
def staging_area(label: str) -> Iterator[Path]:
    """
    Give a new private directory below the staging root; it is gone after the block, however the block ends.

    Sweeps first what killed runs left: a directory that no living process holds.
    """
    root = staging_root()
    with _alone(root):
        _sweep(root)
        area = root / f"{_PREFIX}{label}-{os.getpid()}"
        if area.exists():  # a second run of one process and label: the first still holds it
            raise StagingError(f"staging {area}: in use", "is this run started twice?")
        area.mkdir(mode=0o700)
        mark = os.open(area / _MARK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(mark, fcntl.LOCK_EX)
    try:
        yield area
    finally:
        with _alone(root):
            shutil.rmtree(area, ignore_errors=False)
            os.close(mark)


def drop(area: Path, names: Iterable[str]) -> None:
    """Delete files of a staging area that nobody needs any more; one that is gone already is fine."""
    for name in names:
        (area / name).unlink(missing_ok=True)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Make, sweep and remove areas one process at a time: one that is made and not yet held looks like a dead run's."""
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _sweep(root: Path) -> list[str]:
    """Remove the directories of runs that no longer live, and return their names."""
    swept: list[str] = []
    for area in sorted(root.glob(f"{_PREFIX}*")):
        if area.is_symlink() or not area.is_dir():
            continue
        try:
            mark = os.open(area / _MARK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(area)
            swept.append(area.name)
        finally:
            os.close(mark)
    return swept


def require_room(area: Path, needed_bytes: int, what: str) -> None:
    """Raise StagingError unless the disk of a staging area has this much room and some to spare."""
    free_bytes = shutil.disk_usage(area).free
    if free_bytes < needed_bytes + SPARE_BYTES:
        raise StagingError(
            f"staging {area.parent}: {what} needs up to {needed_bytes} bytes "
            f"and {SPARE_BYTES} to spare, seen {free_bytes} free",
            "make room, or set GX_STAGING_DIR to a larger disk",
        )


def _filesystem(path: Path) -> str:
    """Return the type of the filesystem that a path lies on, by the longest mount point above it."""
    real = os.path.realpath(path)
    best, kind = "", "unknown"
    with Path("/proc/self/mounts").open(encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            _, point, found, *_ = line.split(" ")
            point = point.encode().decode("unicode_escape") if "\\" in point else point
            if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
                best, kind = point, found
    return kind
