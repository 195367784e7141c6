"""Real file systems of a few MiB, which a test fills."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(at: Path, size_bytes: int) -> Iterator[Path]:
    """Mount an empty ext4 of this size at a folder, ours alone, within the block."""
    image = at.with_name(f"{at.name}.img")
    with image.open("wb") as file:
        file.truncate(size_bytes)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    at.mkdir()
    subprocess.run(["mount", "-o", "loop", image, at], check=True)
    try:
        shutil.rmtree(at / "lost+found")
        at.chmod(0o700)
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


def leave_free(disk: Path, free_bytes: int) -> Path:
    """Take all room of a disk but this; give the file that takes it."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - free_bytes)
    return ballast
