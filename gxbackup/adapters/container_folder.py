"""
A folder of a running pod as its containers see it, whatever they have there: an emptyDir, or the container's own files.

It is reached through a process of the pod, as /proc/PID/root; one of a sidecar may see another folder, or none. An open
folder stays the one it is: no process that ends, or whose number another one gets, can change it for another's.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from gxbackup.adapters import freezer
from gxbackup.errors import SourceMissingError


@contextmanager
def container_folder(pod_uid: str, folder: str, holds: str, label: str) -> Iterator[Path]:
    """
    Give a folder that a pod's containers see as a path of this host, good for the length of the block.

    Where several see one of their own, it is that in which `holds` is. No symbolic link is followed to it: that would
    lead into this host's files.
    Raises: SourceMissingError (retryable) where no process of the pod sees such a folder, or two see different ones;
    SetupError where the pod has no control group on this host.
    """
    with ExitStack() as stack:
        seen: dict[tuple[int, int], int] = {}
        looked: set[str] = set()
        group = freezer.control_group(pod_uid, label)
        for process in sorted(freezer.processes(group)):
            try:
                opened = _open(group, process, folder)
            except OSError as error:  # a pause container, a sidecar, or a process that has ended
                looked.add(f"{_program(process)}: {error.strerror}")
                continue
            stack.callback(os.close, opened)
            there = os.fstat(opened)
            seen.setdefault((there.st_dev, there.st_ino), opened)
        filled = [opened for opened in seen.values() if _has(opened, holds)]
        chosen = filled if len(seen) > 1 else [*seen.values()]
        if len(chosen) != 1:
            what = (
                f"{len(chosen)} in {len(seen)} such folders"
                if seen
                else f"none: {'; '.join(sorted(looked)) or 'no process'}"
            )
            raise SourceMissingError(
                f"{label}: expected one {folder} with {holds} that its containers see, seen {what}",
                "does it run? a container that does not start is not seen",
                retryable=True,
            )
        yield Path(f"/proc/{os.getpid()}/fd/{chosen[0]}")


def _open(group: Path, process: int, folder: str) -> int:
    """Open a folder as a process of a control group sees it. Raises: OSError."""
    with ExitStack() as stack:

        def step(name: str, at: int | None = None, flags: int = os.O_NOFOLLOW) -> int:
            opened = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | flags, dir_fd=at)
            stack.callback(os.close, opened)
            return opened

        # Opened first, then asked for: it is the process that has this number now, and stays so.
        at = step(f"/proc/{process}")
        if process not in freezer.processes(group):
            raise ProcessLookupError(errno.ESRCH, "ended")
        at = step("root", at, flags=0)
        for part in Path(folder.lstrip("/")).parts:
            at = step(part, at)
        return os.dup(at)


def _has(opened: int, name: str) -> bool:
    with suppress(OSError):
        os.stat(name, dir_fd=opened, follow_symlinks=False)
        return True
    return False


def _program(process: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process}/comm").read_text().strip()
    return str(process)
