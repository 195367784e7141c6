"""The mount points of this host. Mounts nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

# Filesystems that hold no data: what lies in them is made up by the kernel as it is read.
PSEUDO = frozenset(
    {
        "autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs",
        "fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "rpc_pipefs", "securityfs", "selinuxfs", "sysfs",
        "tracefs",
    }
)  # fmt: skip


def points() -> dict[Path, str]:
    """Return every mount point → the type of the filesystem that one sees there."""
    found: dict[Path, str] = {}
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        point = re.sub(rb"\\(\d{3})", lambda match: bytes([int(match[1], 8)]), before.split(b" ")[4])
        found[Path(os.fsdecode(point))] = after.split(b" ")[0].decode()
    return found


def holding(path: Path) -> Path:
    """Return the mount point that a (real) path lies on."""
    there = points()
    return next(folder for folder in (path, *path.parents) if folder in there or folder == folder.parent)


def below(paths: Iterable[Path]) -> dict[Path, str]:
    """Return the mount points that lie inside these (real) paths, not the paths themselves."""
    wanted = list(paths)
    return {point: kind for point, kind in points().items() if any(path in point.parents for path in wanted)}
