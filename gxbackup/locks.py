"""
One run at a time for each server: our own lock, held by the kernel, so that no crash can leave it behind.

Covers Prefect runs, command-line runs, prunes and restores on one host alike. Another host never writes a server's
folder: only the host that `runs_on` names may sign for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gxbackup import clock
from gxbackup.errors import LockedError, SetupError

LOCK_DIR = Path("/run/lock/gx-backup")
SECONDS_BETWEEN_TRIES = 1.0


@contextmanager
def locked(
    remote: str, name: str, what: str, *, wait_seconds: float = 0, tell: Callable[[str], None] | None = None
) -> Iterator[None]:
    """
    Hold the lock of a server (or a target) of one remote for the length of the block.

    It does not depend on the staging directory, so that a shell without the worker's settings sees it too. `tell` gets
    one line where it has to wait.

    Raises: LockedError where another run still holds it after `wait_seconds` (at once by default), saying which and
    since when. SetupError where the lock directory could be another user's.
    """
    handle = _opened(remote, name)
    try:
        _take(handle, name, wait_seconds, tell)
        os.ftruncate(handle, 0)
        held = {"what": what, "pid": os.getpid(), "since": clock.now().isoformat(timespec="seconds")}
        os.pwrite(handle, json.dumps(held).encode(), 0)
        yield
    finally:
        os.close(handle)


def _opened(remote: str, name: str) -> int:
    key = hashlib.sha256(remote.encode()).hexdigest()[:12]
    hint = "backups and restores run as root"
    try:
        LOCK_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Anybody may make a folder in /run/lock: one of theirs would let them hold up, or let in, any run.
        seen = LOCK_DIR.lstat()
        if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid() or seen.st_mode & 0o077:
            raise SetupError(
                f"lock directory {LOCK_DIR}: expected a directory of mode 0700 that is ours, "
                f"seen mode {seen.st_mode & 0o7777:04o}, owner {seen.st_uid}",
                hint,
                f"find out who made it; while no run is on: rm -r {LOCK_DIR}",
            )
        return os.open(LOCK_DIR / f"{name}-{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise SetupError(f"lock directory {LOCK_DIR}: {error.strerror}", hint) from None


def _take(handle: int, name: str, wait_seconds: float, tell: Callable[[str], None] | None) -> None:
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise LockedError(
                    f"{name}: another run is at work: {_holder(handle)}",
                    "nothing was touched; start again once it has ended",
                ) from None
            if tell is not None:
                tell(f"{name}: waiting up to {wait_seconds / 60:.0f} min for another run's end: {_holder(handle)}")
                tell = None
            time.sleep(SECONDS_BETWEEN_TRIES)
        else:
            return


def _holder(handle: int) -> str:
    try:
        held = json.loads(os.pread(handle, 4096, 0))
        return f"{held['what']} (process {held['pid']}) since {held['since']}"
    except (ValueError, KeyError, TypeError):
        return "it has just begun"
