"""
Folders on a remote that keeps two of one name, as Google Drive does: made one by one before anything is sent.

Left to itself rclone asks again for a folder whose answer it missed, and has two: what it sends into one of them is not
found in the other.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import PurePosixPath

from gxbackup.adapters.rclone_command import Rclone
from gxbackup.adapters.rclone_errors import redacted
from gxbackup.errors import RemoteError

# One try of rclone's: a second looks first for what the first one made.
_ONE_TRY = ("--low-level-retries", "1")
_SECONDS_BETWEEN_TRIES = (0.2, 1.0, 3.0, 10.0)


def make_missing(rclone: Rclone, at: str, names: Iterable[str], listed: Iterable[str]) -> None:
    """
    Make the folders that these names need below a folder that holds what is listed, and those above it.

    Raises: as `Rclone.call`.
    """
    there = {folder for path in listed for folder in PurePosixPath(path).parents}
    for folder in dict.fromkeys(PurePosixPath(name).parent for name in names):
        if folder not in there:
            _make(rclone, at if folder == folder.parent else f"{at}/{folder}")


def _make(rclone: Rclone, at: str) -> None:
    for seconds in (*_SECONDS_BETWEEN_TRIES, None):
        try:
            rclone.call(f"make folder {redacted(at)}", "mkdir", *_ONE_TRY, at)
        except RemoteError as error:
            if seconds is None or not error.retryable:
                raise
            time.sleep(seconds)
        else:
            return
