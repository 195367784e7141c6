"""
What restores left on this host for a person to remove: trees that were exchanged, and copies of overwritten files.

Only listed: whether one is still needed, nothing here can know, so nothing here deletes.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from gxbackup.errors import RestoreError
from gxbackup.model import Frozen

_NOTED = "exchanged.jsonl"
_MADE_AT = re.compile(r"(\d{8}T\d{6})\.\d+Z\Z")


class KeptCopy(Frozen):
    """A safety copy that still lies on this host."""

    path: str
    made_at: datetime
    size_bytes: int


def find(roots: Iterable[Path], safety_dir: Path) -> list[KeptCopy]:
    """
    Return the safety copies beside these roots and the targets noted (`.NAME.before-…`), and in the directory of safety
    copies, oldest first.

    Reads names and sizes; what cannot be read counts as nothing.
    """
    everywhere = dict.fromkeys(Path(os.path.realpath(root)) for root in [*roots, *_noted(safety_dir)])
    places = [place for root in everywhere for place in _beside(root)]
    places += safety_dir.glob("overlay-*")
    found = [
        KeptCopy(path=str(place), made_at=made_at, size_bytes=sum(_allocated(place)))
        for place in dict.fromkeys(places)
        if (made_at := _made_at(place.name)) and os.path.isdir(place) and not place.is_symlink()  # noqa: PTH112
    ]
    return sorted(found, key=lambda copy: (copy.made_at, copy.path))


def note(target: Path, safety_dir: Path) -> None:
    """
    Remember where a restore will leave a safety copy beside its target, for one that no inventory names.

    Raises: RestoreError where it cannot be written.
    """
    if target in _noted(safety_dir):
        return
    try:
        with (safety_dir / _NOTED).open("a", encoding="utf-8", errors="surrogateescape") as noted:
            # After a line that was left half written, this one has a line of its own.
            noted.write(f"\n{json.dumps(str(target))}\n")
    except OSError as error:
        raise RestoreError(
            f"{safety_dir}: expected to note a safety copy, seen {error.strerror}",
            f"{target} is as it was; make it writable, with some room, then start again",
        ) from None


def _noted(safety_dir: Path) -> list[Path]:
    try:
        lines = (safety_dir / _NOTED).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    noted = []
    for line in lines:
        with suppress(ValueError):  # a line that a killed restore or a full disk left half written
            noted.append(Path(str(json.loads(line))))
    return noted


def _made_at(name: str) -> datetime | None:
    if stamp := _MADE_AT.search(name):
        with suppress(ValueError):  # a name that looks like ours, and is not
            return datetime.strptime(stamp[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    return None


def _beside(root: Path) -> Iterator[Path]:
    return root.parent.glob(f".{glob.escape(root.name)}.before-*")


def _allocated(place: Path) -> Iterator[int]:
    """Yield the size on disk of each file in a tree, hard links once."""
    seen: set[tuple[int, int]] = set()
    for folder, _, names in os.walk(place):
        for name in names:
            try:
                file = os.lstat(os.path.join(folder, name))  # noqa: PTH118 - names of any bytes, many of them
            except OSError:  # removed meanwhile, as it should be
                continue
            if (file.st_dev, file.st_ino) not in seen:
                seen.add((file.st_dev, file.st_ino))
                yield file.st_blocks * 512
