"""
One entry of a tree put over another with all its attributes: a copy beside the place, then a rename over it.

Decides nothing: `overlay` says what goes where. Paths may hold any bytes (surrogateescape).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

COPY_BYTES = 1024**2


def alike(source: Path, destination: Path) -> bool:
    """Tell whether two entries are equal in kind, content, owner, mode, ACLs and attributes; times do not count."""
    here, there = source.lstat(), destination.lstat()
    if (here.st_mode, here.st_uid, here.st_gid) != (there.st_mode, there.st_uid, there.st_gid):
        return False
    if _attributes(source) != _attributes(destination):
        return False
    if stat.S_ISREG(here.st_mode):
        return here.st_size == there.st_size and _same_content(source, destination)
    if stat.S_ISLNK(here.st_mode):
        return source.readlink() == destination.readlink()
    return here.st_rdev == there.st_rdev


def put(source: Path, root: Path, paths: Sequence[str], temporary: str, merged: Collection[str] = ()) -> None:
    """
    Put paths of a source tree over a root, parents first; hard links among them become hard links again.

    `temporary` is the file name under which each copy grows beside its place. To `merged` paths the lines are added
    that they lack. Deletes nothing. Raises OSError; then a part is done.
    """
    folders: list[str] = []
    first_names: dict[int, Path] = {}
    for path in paths:
        here, there = source / path, root / path
        seen = here.lstat()
        if stat.S_ISDIR(seen.st_mode):
            there.mkdir(mode=0o700, exist_ok=True)
            folders.append(path)
            continue
        growing = there.with_name(temporary)
        growing.unlink(missing_ok=True)
        if path in merged:
            lines = missing_lines(here, there)
            _copy(there, growing)
            with growing.open("ab") as file:
                file.write(lines)
        elif seen.st_nlink > 1 and seen.st_ino in first_names:
            os.link(first_names[seen.st_ino], growing, follow_symlinks=False)
        else:
            _copy(here, growing)
            first_names[seen.st_ino] = there
        growing.rename(there)
        # A rename between two names of one inode does nothing, and leaves the first.
        growing.unlink(missing_ok=True)
    for path in reversed(folders):
        _copy_attributes(source / path, root / path)


def missing_lines(source: Path, destination: Path) -> bytes:
    """Return the lines that `source` has and `destination` lacks, ready to be appended to it."""
    own = destination.read_bytes()
    held = {line.strip() for line in own.splitlines()}
    lines = [line for line in source.read_bytes().splitlines() if line.strip() and line.strip() not in held]
    if not lines:
        return b""
    return (b"" if not own or own.endswith(b"\n") else b"\n") + b"\n".join(lines) + b"\n"


def _copy(source: Path, destination: Path) -> None:
    """Copy anything but a directory to a new name, with all its attributes and holes."""
    seen = source.lstat()
    if stat.S_ISREG(seen.st_mode):
        _copy_content(source, destination)
    elif stat.S_ISLNK(seen.st_mode):
        destination.symlink_to(source.readlink())
    else:
        os.mknod(destination, stat.S_IFMT(seen.st_mode) | 0o600, seen.st_rdev)
    _copy_attributes(source, destination)


def _copy_attributes(source: Path, destination: Path) -> None:
    """Give an entry the owner, mode, ACLs, extended attributes and times of another of its kind."""
    seen = source.lstat()
    os.chown(destination, seen.st_uid, seen.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(seen.st_mode):
        destination.chmod(stat.S_IMODE(seen.st_mode))
    wanted = _attributes(source)
    for name in _attributes(destination).keys() - wanted.keys():
        os.removexattr(destination, name, follow_symlinks=False)
    for name, value in wanted.items():
        os.setxattr(destination, name, value, follow_symlinks=False)
    os.utime(destination, ns=(seen.st_atime_ns, seen.st_mtime_ns), follow_symlinks=False)


def _attributes(path: Path) -> dict[str, bytes]:
    """Return all extended attributes, the ACLs among them; none where the filesystem knows none."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    found: dict[str, bytes] = {}
    for name in names:
        with suppress(OSError):  # removed since
            found[name] = os.getxattr(path, name, follow_symlinks=False)
    return found


def _same_content(source: Path, destination: Path) -> bool:
    with source.open("rb") as one, destination.open("rb") as other:
        while True:
            piece = one.read(COPY_BYTES)
            if piece != other.read(COPY_BYTES):
                return False
            if not piece:
                return True


def _copy_content(source: Path, destination: Path) -> None:
    writing = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with source.open("rb") as reading:
            size_bytes = os.fstat(reading.fileno()).st_size
            begin = 0
            while begin < size_bytes:
                try:
                    begin = os.lseek(reading.fileno(), begin, os.SEEK_DATA)
                except OSError as error:
                    if error.errno == errno.ENXIO:  # nothing but a hole is left
                        break
                    raise
                end = os.lseek(reading.fileno(), begin, os.SEEK_HOLE)
                os.lseek(reading.fileno(), begin, os.SEEK_SET)
                os.lseek(writing, begin, os.SEEK_SET)
                while begin < end and (
                    count := os.sendfile(writing, reading.fileno(), None, min(end - begin, COPY_BYTES))
                ):
                    begin += count
                if begin < end:  # it was cut meanwhile
                    size_bytes = begin
            os.ftruncate(writing, size_bytes)
    finally:
        os.close(writing)
