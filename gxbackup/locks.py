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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gxbackup import clock
from gxbackup.errors import LockedError, SetupError

LOCK_DIR = Path("/run/lock/gx-backup")


@contextmanager
def locked(remote: str, name: str, what: str) -> Iterator[None]:
    """
    Hold the lock of a server (or a target) of one remote for the length of the block.

    It does not depend on the staging directory, so that a shell without the worker's settings sees it too.

    Raises: LockedError at once where another run holds it, saying which and since when.
    """
    try:
        LOCK_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = hashlib.sha256(remote.encode()).hexdigest()[:12]
        handle = os.open(LOCK_DIR / f"{name}-{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise SetupError(f"lock directory {LOCK_DIR}: {error.strerror}", "backups and restores run as root") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(
                f"{name}: another run is at work: {_holder(handle)}",
                "nothing was touched; start again once it has ended",
            ) from None
        os.ftruncate(handle, 0)
        held = {"what": what, "pid": os.getpid(), "since": clock.now().isoformat(timespec="seconds")}
        os.pwrite(handle, json.dumps(held).encode(), 0)
        yield
    finally:
        os.close(handle)


def _holder(handle: int) -> str:
    try:
        held = json.loads(os.pread(handle, 4096, 0))
        return f"{held['what']} (process {held['pid']}) since {held['since']}"
    except (ValueError, KeyError, TypeError):
        return "it has just begun"
