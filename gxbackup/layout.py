"""
The only speller of snapshot ids, remote paths and artifact file names. Knows no remote and reads no file.

Source: design, "Formats": one folder `YYYYMMDD_HHMMSS` (UTC) per snapshot, as the strategy has it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from gxbackup.errors import IntegrityError

MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
RECOVER_PAGE = "RECOVER.md"
PACKED_SUFFIX = ".zst"
SEALED_SUFFIX = f"{PACKED_SUFFIX}.age"

# An id names a second: of runs within one second each takes the next, so that it may be so far ahead of its clock.
NAMED_AHEAD = timedelta(seconds=2)
_SNAPSHOT_ID = re.compile(r"\d{8}_\d{6}")


def snapshot_id(moment: datetime) -> str:
    """Spell the id of a snapshot begun at this aware moment: `20261122_020000`."""
    return moment.astimezone(UTC).strftime("%Y%m%d_%H%M%S")


def is_snapshot_id(name: str) -> bool:
    """Tell whether a folder name is a snapshot id that names a real moment."""
    if not _SNAPSHOT_ID.fullmatch(name):
        return False
    try:
        snapshot_time(name)
    except IntegrityError:
        return False
    return True


def snapshot_time(snapshot: str) -> datetime:
    """Return the aware UTC moment that a snapshot id names; IntegrityError if it names none."""
    try:
        return datetime.strptime(snapshot, "%Y%m%d_%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        raise IntegrityError(
            f"snapshot id: expected YYYYMMDD_HHMMSS, seen {snapshot!r}",
            "list what there is with the flow list-snapshots",
        ) from None


def artifact_path(folder: str, data_type: str, name: str) -> str:
    """Spell an artifact's path in its snapshot: `files/website/website.tar.zst.age`."""
    return f"{folder}/{data_type}/{name}{SEALED_SUFFIX}"


def part_path(path: str, number: int) -> str:
    """Spell the path of part `number` (from 0) of an artifact stored in parts."""
    return f"{path}.{number:03d}"


def in_snapshot(remote_dir: str, snapshot: str, path: str = "") -> str:
    """Spell a path below the remote's root: `vps1-website/20261122_020000/manifest.json`."""
    return f"{remote_dir}/{snapshot}/{path}" if path else f"{remote_dir}/{snapshot}"
