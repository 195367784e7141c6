"""
What rclone answers, as our values: listings, what a remote can do, its room. Starts no program.

A listing is whole or it is an error: rclone prints an opening bracket and then fails, ends with 0 after an incomplete
search, and knows a missing folder by status 3 on one remote and by an empty list on the next.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gxbackup.adapters.rclone_command import Answer
from gxbackup.adapters.rclone_errors import FOLDER_MISSING, complaints, failure
from gxbackup.errors import IntegrityError, RemoteError

_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class RemoteFile:
    """A file that the remote lists."""

    path: str
    """Relative to the folder that was listed."""
    size_bytes: int
    """-1 where the remote does not know it (a Google document: not ours)."""
    sha256: str | None = None


@dataclass(frozen=True)
class Features:
    """What a remote can do."""

    hashes: frozenset[str]
    """Those that it keeps, or computes."""
    keeps_sha256: bool
    """Tells sha256 without reading the file (Google Drive); a local folder reads it, webdav and crypt have none."""
    is_local: bool
    local_root: Path | None
    """The root folder on this host's disk, where it lies there in clear."""
    keeps_duplicates: bool = False
    """Two of one name may lie in a folder (Google Drive)."""


@dataclass(frozen=True)
class Quota:
    """Room on a remote, as far as it tells."""

    total_bytes: int | None = None
    used_bytes: int | None = None
    free_bytes: int | None = None


class SameNameError(IntegrityError):
    """A whole listing in which several entries have one path; whoever can do without those has all the others."""

    files: tuple[RemoteFile, ...] = ()
    """All that was listed, by path: of several files with one path, each."""
    twice: tuple[str, ...] = ()
    """The paths that several files or folders have, sorted."""


def contained(path: str) -> str:
    """Return a relative path as it is; IntegrityError where it could name anything outside its folder."""
    steps = path.split("/")
    if "" in steps or "." in steps or ".." in steps or "\\" in path or _CONTROL.search(path):
        raise IntegrityError(
            f"path on the remote: expected names joined by single slashes, seen {path!r}",
            "no step may be empty, `.` or `..`; no backslash, no control character",
        )
    return path


def entries(what: str, answer: Answer) -> list[dict[str, Any]]:
    """
    Return all that `lsjson` listed; nothing where the listed folder itself is missing.

    Files of one path, size and sha256 stand once, where the hash was asked for: Google Drive keeps two where it stored
    an upload, failed to say so, and listed it late.

    Raises: RemoteError where the listing is not whole, SameNameError where two entries have one path.
    """
    said = complaints(answer.log)
    if answer.returncode == FOLDER_MISSING:
        if answer.stdout.strip() in (b"", b"[") and not any(line.about for line in said):
            return []
        raise RemoteError(f"{failure(what, FOLDER_MISSING, answer.log).message}; it changed while it was listed")
    if said:
        raise RemoteError(f"{what}: expected a whole listing, seen one with: {said[0].text}")
    try:
        listed = _without_twins(json.loads(answer.stdout))
    except ValueError:
        raise RemoteError(f"{what}: expected a listing in JSON, seen {answer.stdout[:80]!r}") from None
    twice = sorted(path for path, count in Counter(entry["Path"] for entry in listed).items() if count > 1)
    if twice:
        error = SameNameError(
            f"{what}: expected one entry for each name, seen several for {', '.join(map(repr, twice[:3]))}",
            "Google Drive keeps two files of one name; `rclone dedupe --dedupe-mode list` shows them",
        )
        error.files, error.twice = tuple(files(listed)), tuple(twice)
        raise error
    return listed


def _without_twins(listed: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    seen: set[tuple[str, int, str]] = set()
    kept = []
    for entry in listed:
        if sha256 := (entry.get("Hashes") or {}).get("sha256"):
            twin = (entry["Path"], entry["Size"], sha256)
            if twin in seen:
                continue
            seen.add(twin)
        kept.append(entry)
    return kept


def files(listed: Iterable[dict[str, Any]]) -> list[RemoteFile]:
    """Return the files of a listing, by path."""
    found = [
        RemoteFile(entry["Path"], int(entry["Size"]), (entry.get("Hashes") or {}).get("sha256") or None)
        for entry in listed
        if not entry["IsDir"]
    ]
    return sorted(found, key=lambda file: file.path)


def features(answer: Answer) -> Features:
    """Read the answer of `backend features`."""
    told = json.loads(answer.stdout)
    hashes, can = frozenset(told["Hashes"]), told["Features"]
    is_local = bool(can.get("IsLocal"))
    return Features(
        hashes=hashes,
        keeps_sha256="sha256" in hashes and not can.get("SlowHash"),
        is_local=is_local,
        local_root=Path(told["Root"]) if is_local else None,
        keeps_duplicates=bool(can.get("DuplicateFiles")),
    )


def sums(answer: Answer) -> dict[str, str]:
    """Read the answer of `hashsum`: name → digest."""
    pairs = (line.partition("  ") for line in answer.stdout.decode().splitlines())
    return {name: digest for digest, _, name in pairs}
