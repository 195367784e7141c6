"""
What a file tree amounts to, counted alike from a tar stream and from a disk, so that the two can be compared.

Flat memory: names and attributes go into sums of digests that do not depend on the order. Reads no file.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from gxbackup.model import Evidence

FILE, DIRECTORY, SYMLINK, HARD_LINK, CHARACTER, BLOCK, FIFO = b"f", b"d", b"l", b"h", b"c", b"b", b"p"
COUNTS = {FILE: "files", DIRECTORY: "directories", SYMLINK: "symlinks", HARD_LINK: "hard_links",
          CHARACTER: "devices", BLOCK: "devices", FIFO: "fifos"}  # fmt: skip
RISKS = ("devices", "fifos", "setuid", "outward_links")
KEYS = (
    *dict.fromkeys(COUNTS.values()),
    "setuid", "outward_links", "bytes", "names_sha256", "attributes_sha256",
)  # fmt: skip
_HARD_LINK_DIGEST = int.from_bytes(sha256(b"hard link").digest(), "big")
_MODULUS = 1 << 256


class Member(NamedTuple):
    """One name of a tree. Sizes are real sizes (holes count), 0 for all but files; times are whole seconds."""

    name: bytes  # relative to the tree's root, without a leading `./`; the root itself is `.`
    kind: bytes
    mode: int
    uid: int
    gid: int
    size_bytes: int
    mtime: int
    target: bytes = b""  # of a link; `major,minor` of a device
    has_capability: bool = False


@dataclass(slots=True)
class _Counts:
    files: int = 0
    directories: int = 0
    symlinks: int = 0
    hard_links: int = 0
    devices: int = 0
    fifos: int = 0
    setuid: int = 0
    outward_links: int = 0
    bytes: int = 0


class Tally:
    """
    Counts members and folds their names and attributes.

    A group of n hard links is one file (symlink, device) and n-1 hard links whichever name comes first: the name sum
    knows only "directory or not", and the attribute sum knows no names. `setuid` counts the files that lend
    rights when they run: setuid, setgid, or file capabilities.
    """

    def __init__(self) -> None:
        self.counts = _Counts()
        self._names = 0
        self._attributes = 0

    def add(self, member: Member) -> None:
        """Count one member."""
        name, kind, mode, uid, gid, size_bytes, mtime, target, has_capability = member
        counts = self.counts
        if kind == FILE:
            counts.files += 1
            counts.bytes += size_bytes
            if mode & 0o6000 or has_capability:
                counts.setuid += 1
        elif kind == DIRECTORY:
            counts.directories += 1
            name += b"/"
        elif kind == SYMLINK:
            counts.symlinks += 1
            if leads_out(name, target):
                counts.outward_links += 1
        elif kind == HARD_LINK:
            counts.hard_links += 1
        elif kind == FIFO:
            counts.fifos += 1
        else:
            counts.devices += 1
        self._names += int.from_bytes(sha256(name).digest(), "big")
        if kind == HARD_LINK:
            self._attributes += _HARD_LINK_DIGEST
        else:
            text = b"%b %o %d %d %d %d %b" % (kind, mode, uid, gid, size_bytes, mtime, target)
            self._attributes += int.from_bytes(sha256(text).digest(), "big")

    def members(self) -> int:
        """Return how many members were counted."""
        counts = self.counts
        return counts.files + counts.directories + counts.symlinks + counts.hard_links + counts.devices + counts.fifos

    def evidence(self) -> Evidence:
        """Return the counts and both sums, under the names in `KEYS`."""
        counts: Evidence = {key: getattr(self.counts, key) for key in KEYS if not key.endswith("_sha256")}
        return {
            **counts,
            "names_sha256": f"{self._names % _MODULUS:064x}",
            "attributes_sha256": f"{self._attributes % _MODULUS:064x}",
        }


def leads_out(name: bytes, target: bytes) -> bool:
    """Tell whether a symlink at this name is absolute or, read as text, climbs over the root of its tree."""
    if target.startswith(b"/"):
        return True
    if b".." not in target:
        return False
    depth = name.count(b"/")
    for step in target.split(b"/"):
        if step == b"..":
            depth -= 1
        elif step not in (b"", b"."):
            depth += 1
        if depth < 0:
            return True
    return False


def relative(name: bytes, kind: bytes) -> bytes:
    """Spell a member's name as `Member` has it: no leading `./`, no `/` behind a directory; `..` and `/` stay."""
    if name[:2] == b"./":
        name = name[2:]
    if kind == DIRECTORY and name[:1] != b"/":
        name = name.rstrip(b"/")
    return name or b"."


def shown(name: bytes) -> str:
    """Spell a name of any bytes for people and manifests: on one line, the rest escaped."""
    text = name.decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
