"""
File trees and the tars they come from: unpack one safely, count one, and say how two differ.

Where a tree goes, and how it takes the place of another, is `exchange`'s and `overlay`'s business.
"""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gxbackup import tally as tallies
from gxbackup.adapters import process
from gxbackup.errors import IntegrityError, RestoreError, RestoreRefusedError
from gxbackup.model import Evidence
from gxbackup.tally import Member, Tally, relative, shown
from gxbackup.tar_messages import TarMessages
from gxbackup.tarstream import TarScanner

PIPE_BYTES = 1024**2
# Records of 128 KiB: tar reads and writes so much at once, by itself 10 KiB.
BLOCKS_AT_ONCE = 256
LISTED = 50
_KINDS = {
    stat.S_IFREG: tallies.FILE,
    stat.S_IFDIR: tallies.DIRECTORY,
    stat.S_IFLNK: tallies.SYMLINK,
    stat.S_IFCHR: tallies.CHARACTER,
    stat.S_IFBLK: tallies.BLOCK,
    stat.S_IFIFO: tallies.FIFO,
}


def extract(
    chunks: Iterable[memoryview | bytes], into: Path, allowed: Evidence, *, incremental: bool = False
) -> Evidence:
    """
    Unpack a plain tar stream into an empty directory, with owners, modes, times, ACLs, attributes and holes.

    With `incremental` it is a level of GNU tar's incremental ones, unpacked upon those before it: what it does not list
    any more goes. Reads the chunks to their end. `allowed` is the evidence of the signed manifest: no more devices,
    fifos, setuid files and outward links come out than it counts. Returns what the stream held. On failure a part of
    the tree is left in `into`.

    Raises: RestoreRefusedError before anything dangerous reaches tar; IntegrityError where the stream is cut or no tar;
    RestoreError on any word of complaint from tar, or with `incremental` where it fails.
    """
    if into.is_symlink() or not into.is_dir() or (any(into.iterdir()) and not incremental):
        raise RestoreRefusedError(f"{into}: expected an empty directory to unpack into")
    scanner = TarScanner(allowed)
    argv: list[str | Path] = [
        "tar", "--extract", "--file=-", "--directory", into, "--preserve-permissions", "--same-owner",
        "--numeric-owner", "--acls", "--xattrs", "--xattrs-include=*", "--delay-directory-restore",
        "--quoting-style=escape", "--warning=no-timestamp", f"--blocking-factor={BLOCKS_AT_ONCE}",
        *(["--listed-incremental=/dev/null"] if incremental else []),
    ]  # fmt: skip
    with process.start(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as tar:
        assert tar.stdin
        assert tar.stderr
        fcntl.fcntl(tar.stdin, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        messages = TarMessages(tar.stderr)
        messages.start()
        reads_on = True
        try:
            for chunk in chunks:
                view = memoryview(chunk)
                scanner.feed(view)
                reads_on = reads_on and hand_on(tar.stdin, view)
                if not reads_on and not scanner.ended:
                    break
            evidence = scanner.finish() if reads_on or scanner.ended else {}
            tar.stdin.close()
            tar.wait()
        finally:
            process.end(tar)
            messages.join()
        status = tar.returncode
    # A level goes onto other nodes too, whose filesystem may lack an attribute of no weight; its tree is compared.
    if status != 0 or (messages.counts and not incremental):
        hint = "make room, or choose a target on a larger disk" if "No space" in messages.complaint() else ""
        raise RestoreError(
            f"{into}: tar ended with status {status}: {messages.complaint()}",
            *([hint] if hint else ["restores run as root, onto a filesystem with owners, ACLs and attributes"]),
        )
    return evidence


def tally(tree: Path) -> Evidence:
    """Count a tree on disk: the same evidence as the scanner takes from the tar that it came from."""
    counted = Tally()
    for member in walk(tree):
        counted.add(member)
    return counted.evidence()


def compare(expected: Evidence, seen: Evidence) -> None:
    """Raise IntegrityError that names each kind of evidence in which two trees differ."""
    missing = [key for key in tallies.KEYS if key not in expected]
    if missing:
        raise IntegrityError(f"evidence: expected {', '.join(missing)} in the manifest, seen none")
    differing = [
        f"{key}: expected {expected[key]}, seen {seen.get(key)}"
        for key in tallies.KEYS
        if expected[key] != seen.get(key)
    ]
    if differing:
        raise IntegrityError(f"the tree differs from its evidence: {'; '.join(differing)}")


def walk(tree: Path) -> Iterator[Member]:
    """
    Yield what lies in a tree, the root first; sockets are left out, as tar leaves them out.

    The second and later names of one inode come as hard links to the first; only such inodes are kept in memory.
    """
    linked: dict[tuple[int, int], bytes] = {}
    root = os.fsencode(tree)
    folders = [b""]
    yield _member(root, b".", os.lstat(root), linked)
    while folders:
        folder = folders.pop()
        try:
            listed = os.scandir(root + b"/" + folder)
        except FileNotFoundError:  # a live tree, here and below
            if not folder:
                raise
            continue
        with listed as entries:
            for entry in entries:
                try:
                    seen = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISSOCK(seen.st_mode):
                    continue
                name = folder + b"/" + entry.name if folder else entry.name
                if stat.S_ISDIR(seen.st_mode):
                    folders.append(name)
                yield _member(entry.path, name, seen, linked)


@dataclass(frozen=True)
class TreeDifference:
    """What putting a tree in the place of another would do; each list holds the first names only."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    added_count: int
    changed_count: int
    removed_count: int
    same_count: int


class Comparison:
    """
    Holds a tree, one member after the other, against a target; reads no contents.

    Compared are kind, mode, owner, size, time in whole seconds, and where links lead.
    """

    def __init__(self, target: Path, listed: int = LISTED) -> None:
        self._target = os.fsencode(target)
        self._listed = listed
        self._seen: set[int] = set()
        self._names: dict[str, list[str]] = {"added": [], "changed": [], "removed": []}
        self._counts = {"added": 0, "changed": 0, "removed": 0, "same": 0}

    def note(self, member: Member) -> None:
        """Hold one member against the target."""
        self._seen.add(hash(member.name))
        path = self._target + b"/" + member.name
        try:
            seen = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            self._count("added", member.name)
            return
        self._count("same" if _alike(member, path, seen) else "changed", member.name)

    def finish(self) -> TreeDifference:
        """Look for what the target alone holds, and return the difference."""
        if os.path.lexists(self._target):
            for member in walk(Path(os.fsdecode(self._target))):
                if hash(member.name) not in self._seen:
                    self._count("removed", member.name)
        names, counts = self._names, self._counts
        return TreeDifference(
            added=tuple(sorted(names["added"])),
            changed=tuple(sorted(names["changed"])),
            removed=tuple(sorted(names["removed"])),
            added_count=counts["added"],
            changed_count=counts["changed"],
            removed_count=counts["removed"],
            same_count=counts["same"],
        )

    def _count(self, what: str, name: bytes) -> None:
        self._counts[what] += 1
        if what != "same" and len(self._names[what]) < self._listed:
            self._names[what].append(shown(name))


def difference(tree: Path, target: Path, listed: int = LISTED) -> TreeDifference:
    """Say what would change if a tree on disk took the place of a target."""
    comparison = Comparison(target, listed)
    for member in walk(tree):
        comparison.note(member)
    return comparison.finish()


def preview(
    chunks: Iterable[memoryview | bytes], target: Path, allowed: Evidence, listed: int = LISTED
) -> TreeDifference:
    """
    Say what would change if the tree in a plain tar stream took the place of a target; nothing is unpacked.

    Raises: RestoreRefusedError, IntegrityError, as `extract` would.
    """
    comparison = Comparison(target, listed)
    scanner = TarScanner(allowed, comparison.note)
    for chunk in chunks:
        scanner.feed(memoryview(chunk))
    scanner.finish()
    return comparison.finish()


def _member(path: bytes, name: bytes, seen: os.stat_result, linked: dict[tuple[int, int], bytes]) -> Member:
    kind = _KINDS[stat.S_IFMT(seen.st_mode)]
    target = b""
    size_bytes = 0
    has_capability = False
    if kind != tallies.DIRECTORY and seen.st_nlink > 1:
        inode = (seen.st_dev, seen.st_ino)
        if inode in linked:
            kind, target = tallies.HARD_LINK, linked[inode]
        else:
            linked[inode] = name
    if kind == tallies.FILE:
        size_bytes = seen.st_size
        has_capability = _has_capability(path)
    elif kind == tallies.SYMLINK:
        target = os.readlink(path)  # noqa: PTH115 - a name of any bytes
    elif kind in (tallies.CHARACTER, tallies.BLOCK):
        target = b"%d,%d" % (os.major(seen.st_rdev), os.minor(seen.st_rdev))
    return Member(
        name, kind, stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid, size_bytes,
        seen.st_mtime_ns // 10**9, target, has_capability,
    )  # fmt: skip


def _alike(member: Member, path: bytes, seen: os.stat_result) -> bool:
    if stat.S_ISSOCK(seen.st_mode):
        return False
    if member.kind == tallies.HARD_LINK:
        other = path[: -len(member.name)] + relative(member.target, member.kind)
        return os.path.lexists(other) and os.path.samestat(seen, os.lstat(other))
    return _member(path, member.name, seen, {}) == member


def _has_capability(path: bytes) -> bool:
    try:
        os.getxattr(path, b"security.capability", follow_symlinks=False)
    except OSError:
        return False
    return True


def hand_on(pipe: IO[bytes], view: memoryview) -> bool:
    """Write all; False where tar reads no more: it failed, or has seen the end and leaves the padding behind it."""
    try:
        while view:
            view = view[pipe.write(view) :]
    except BrokenPipeError:
        return False
    return True
