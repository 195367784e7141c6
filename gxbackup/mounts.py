"""The mount points of this host. Mounts nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

# Filesystems that hold no data: what lies in them is made up by the kernel as it is read.
PSEUDO = frozenset(
    {
        "autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs",
        "fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "rpc_pipefs", "securityfs", "selinuxfs", "sysfs",
        "tracefs",
    }
)  # fmt: skip

# What lies in these is gone with a reboot, or comes and goes with a container: nobody misses one.
PASSING = PSEUDO | {"overlay", "ramfs", "tmpfs"}


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


def disks(paths: Iterable[Path], is_left_out: Callable[[Path], bool] = lambda _point: False) -> list[Path]:
    """Return the mount points of disks that these (real) paths lie on, or that lie inside them; never `/`."""
    wanted, there = list(paths), points()
    inside = [point for point in below(wanted) if not is_left_out(point)]
    found = dict.fromkeys([*(holding(path) for path in wanted), *inside])
    return [point for point in found if point != point.parent and there.get(point) not in PASSING]


def gone(before: Iterable[Path], paths: Iterable[Path]) -> list[Path]:
    """Return those of the `disks` of before that are folders without a disk now, as far as these paths have to do."""
    wanted, there = list(paths), points()
    return [
        point
        for point in before
        if point not in there
        and os.path.lexists(point)
        and any(path == point or path in point.parents or point in path.parents for path in wanted)
    ]
