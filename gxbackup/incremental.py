"""
GNU tar's listed incrementals: a level 0 that holds all, and level 1s upon it that hold what changed since.

What tar remembers of the last level 0 lies on the host, in a private folder; lost or changed, the next is a level 0.
Restored by tar alone: level 0, then level 1, each with --listed-incremental=/dev/null.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from gxbackup import clock, layout
from gxbackup.errors import EmptyArtifactError, SourceMissingError
from gxbackup.model import Artifact, Capture, Evidence
from gxbackup.ports import StreamEnd
from gxbackup.tar_output import TarOutput

BLOCKING_FACTOR = 512
_SNAR, _NEW_SNAR, _WORK_SNAR, _NOTE = "full.snar", "full.snar.new", "level1.snar", "full.json"


class Level:
    """
    What tar writes of one level; its snapshot file is kept once all was read.

    `require_whole` raises where what tar read is not what it was when tar began.
    """

    def __init__(
        self, output: TarOutput, area: Path, capture: Capture, evidence: Evidence, shortfalls: tuple[str, ...],
        require_whole: Callable[[], None],
    ) -> None:  # fmt: skip
        self._output = output
        self._area = area
        self._capture = capture
        self._evidence = evidence
        self._shortfalls = shortfalls
        self._require_whole = require_whole

    def readinto(self, buffer: memoryview) -> int:
        """See `PlainStream`."""
        return self._output.readinto(buffer)

    def finish(self) -> StreamEnd:
        """See `PlainStream`; a level 1 may be empty."""
        is_full = self._capture.settings["level"] == 0
        try:
            end = self._output.finish()
        except EmptyArtifactError:
            if is_full:
                raise
            end = StreamEnd()  # a day on which nothing was written
        self._require_whole()
        if is_full:
            snar = self._area / _NEW_SNAR
            note = {"full_id": self._capture.settings["full_id"], "sha256": _sha256(snar)}
            (self._area / _NOTE).unlink(missing_ok=True)
            snar.rename(self._area / _SNAR)
            (self._area / _NOTE).write_text(json.dumps(note), encoding="ascii")
        return StreamEnd({**end.evidence, **self._evidence}, (*self._shortfalls, *end.shortfalls))


def base(area: Path, data_type: str, last_good: Sequence[Artifact], max_age: timedelta) -> tuple[str, Artifact] | None:
    """
    Return the snapshot of the level 0 that tar remembers here, and the artifact that tells so.

    None where the memory is gone or changed, the last good copy neither is that level 0 nor builds on it, or it is
    older than `max_age`. Each of `last_good` names in `held_in` where its files lie; none where its keys were replaced.
    """
    try:
        note = json.loads((area / _NOTE).read_text(encoding="ascii"))
        if _sha256(area / _SNAR) != note["sha256"]:
            return None
    except (OSError, ValueError, KeyError):
        return None
    for artifact in last_good:
        snapshot = artifact.base or artifact.held_in
        is_ours = artifact.data_type == data_type and artifact.settings.get("full_id") == note["full_id"]
        if is_ours and snapshot and clock.now() - layout.snapshot_time(snapshot) < max_age:
            return snapshot, artifact
    return None


def snar(area: Path, capture: Capture) -> Path:
    """
    Return the file that tar may write to: none yet for level 0, a copy of the last full one's for level 1.

    Raises: SourceMissingError (retryable) where what tar remembered when it was looked for is gone since.
    """
    if capture.settings["level"] == 0:
        (area / _NEW_SNAR).unlink(missing_ok=True)
        return area / _NEW_SNAR
    try:
        shutil.copyfile(area / _SNAR, area / _WORK_SNAR)
    except FileNotFoundError:
        raise SourceMissingError(
            f"{capture.name}: what it builds on is gone since it was looked for",
            "was its pod started anew meanwhile? the next run keeps all of it",
            retryable=True,
        ) from None
    return area / _WORK_SNAR


def remembered_at(area: Path) -> float:
    """Return when tar last remembered a level 0."""
    return (area / _SNAR).stat().st_mtime


def tar(tree: Path, snar: Path) -> list[str | Path]:
    """Return the command that writes what changed in a tree since its snapshot file was written: all, where none is."""
    return [
        "tar", "--create", "--file=-", "--format=posix",
        "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
        f"--blocking-factor={BLOCKING_FACTOR}", "--sort=name", "--quoting-style=escape", "--numeric-owner",
        "--acls", "--xattrs", "--xattrs-include=*", "--sparse", "--no-check-device",
        "--warning=no-new-directory", "--warning=no-rename-directory",
        f"--listed-incremental={snar}", f"--directory={tree}", ".",
    ]  # fmt: skip


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
