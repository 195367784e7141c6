"""What an upload has here, what of it lies there, and the links that a local remote allows. Starts no program."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gxbackup.errors import IntegrityError, RemoteError

# rclone's own name for a file on its way: NAME, eight digits of what it is, and this.
_PARTIAL = re.compile(r"(.*)\.[0-9a-f]{8}\.partial")


class Originals:
    """The local files of an upload, and what is known of them where they are gone."""

    def __init__(self, local_dir: Path, expected: Mapping[str, tuple[int, str]]) -> None:
        self._local_dir = local_dir
        self._expected = expected

    def size_bytes(self, name: str) -> int:
        """Return the size that a file has, here or as expected; IntegrityError where nothing tells."""
        return self._expected[name][0] if name in self._expected else self.require(name)

    def sha256(self, name: str) -> str:
        """Return the sha256 that a file has, as expected or read here."""
        if name in self._expected:
            return self._expected[name][1]
        with (self._local_dir / name).open("rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def require(self, name: str) -> int:
        """Return the size of a local file; IntegrityError where it is gone, not a file, or not of the expected size."""
        try:
            seen = (self._local_dir / name).lstat()
        except OSError as error:
            raise IntegrityError(f"{name}: not on the remote, and not to be sent: {error}") from None
        if not stat.S_ISREG(seen.st_mode):
            raise IntegrityError(
                f"{self._local_dir / name}: expected a regular file, seen {stat.filemode(seen.st_mode)}"
            )
        if name in self._expected and seen.st_size != self._expected[name][0]:
            raise IntegrityError(
                f"{self._local_dir / name}: expected {self._expected[name][0]} bytes, seen {seen.st_size}"
            )
        return seen.st_size

    def move_to(self, target_dir: Path, names: Sequence[str]) -> list[str]:
        """
        Move files to a folder of the same filesystem, never over another; return those that must be copied instead.

        Raises: IntegrityError where a name appeared there in the meantime.
        """
        for number, name in enumerate(names):
            source, target = self._local_dir / name, target_dir / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                # Unlike a rename, a link never replaces what is there.
                os.link(source, target)
            except FileExistsError:
                raise IntegrityError(f"{target}: expected nothing there, seen a file: who else writes here?") from None
            except OSError:
                return list(names[number:])
            source.unlink()
        return []


def link_from(source_dir: Path, names: Sequence[str], to: Path) -> list[str]:
    """Give files of a folder of the same filesystem a second name; return those that must be copied instead."""
    for number, name in enumerate(names):
        source, target = source_dir / name, to / name
        try:
            if not stat.S_ISREG(source.lstat().st_mode):
                return list(names[number:])
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, target)
        except OSError:
            return list(names[number:])
    return []


def sizes_on_disk(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """Return path → size in bytes of all that lies beside these names in a local folder, as a listing would."""
    parents = {(folder / name).parent for name in names}
    beside = (entry for parent in parents if parent.is_dir() for entry in parent.iterdir() if not entry.is_dir())
    return {str(entry.relative_to(folder)): entry.lstat().st_size for entry in beside}


def hashes_on_disk(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Read every byte of these files of a local folder; return name → sha256, without those that are not there."""
    found: dict[str, str] = {}
    for name in names:
        try:
            if stat.S_ISREG((folder / name).lstat().st_mode):
                with (folder / name).open("rb", buffering=0) as file:
                    found[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise RemoteError(f"{folder / name}: cannot be read back: {error.strerror}", "see dmesg") from None
    return found


def left_by_cut_uploads(names: Iterable[str], listed: Iterable[str]) -> list[str]:
    """Return what rclone left of these names when it was killed."""
    ours = set(names)
    return [path for path in listed if (partial := _PARTIAL.fullmatch(path)) and partial[1] in ours]
