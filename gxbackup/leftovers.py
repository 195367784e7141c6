"""
Leftovers: snapshot folders without a manifest, and which of their files may be swept. Pure: deletes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from gxbackup import layout
from gxbackup.copies import Copy, Key
from gxbackup.keep_rules import Kept, Rules, newest_good
from gxbackup.model import Catalog

SWEPT_AFTER = timedelta(hours=48)

_PAGES = "|".join(re.escape(name) for name in (layout.MANIFEST, layout.SIGNATURE, layout.RECOVER_PAGE))
_SEALED = rf"(?:[^/]+/){{2,}}[^/]+{re.escape(layout.SEALED_SUFFIX)}(?:\.\d{{3,}})?"
# rclone uploads under NAME.xxxxxxxx.partial where the remote can rename, and leaves that behind when it is killed.
_OURS = re.compile(rf"(?:{_PAGES}|{_SEALED})(?:\.[0-9a-z]{{8}}\.partial)?")


@dataclass(frozen=True)
class Judged:
    """A leftover: the files to sweep, or why it waits; and the files in it that are not ours."""

    snapshot: str
    files: Mapping[str, int]
    sweep: tuple[str, ...]
    waits: str | None
    strangers: tuple[str, ...]


def judge(
    catalog: Catalog, copies: Mapping[Key, Copy], stay: Kept, rules: Rules, now: datetime, running: bool
) -> tuple[Judged, ...]:
    """
    Judge every leftover, oldest first.

    A folder that a manifest names had a manifest itself. A prune that was cut takes the manifest first, of expired
    copies only; so where anything in it has not expired, the manifest was lost, and the folder is not swept.
    """
    had_manifest = {held.manifest.previous.snapshot for held in catalog.snapshots if held.manifest.previous}
    had_manifest |= {snapshot for copy in copies.values() for _, (snapshot, _) in copy.needs}
    needed = {snapshot for key in stay for _, (snapshot, _) in copies[key].needs}
    judged = []
    for leftover in sorted(catalog.leftovers, key=lambda each: each.snapshot):
        ours = sorted((path for path in leftover.files if _OURS.fullmatch(path)), key=lambda path: ("/" in path, path))
        why = None
        if leftover.snapshot in rules.pinned:
            why = "pinned"
        elif running:
            why = "a run is on"
        elif now - layout.snapshot_time(leftover.snapshot) <= SWEPT_AFTER:
            why = "a run that is on, or was cut: swept once it is 48 h old"
        elif leftover.snapshot in needed:
            why = "its manifest is lost, and a kept copy needs its files"
        elif leftover.snapshot in had_manifest and not _all_expired(leftover.snapshot, ours, copies, rules):
            why = "its manifest is lost, and what it holds has not expired"
        strangers = tuple(sorted(set(leftover.files) - set(ours)))
        judged.append(Judged(leftover.snapshot, leftover.files, () if why else tuple(ours), why, strangers))
    return tuple(judged)


def _all_expired(snapshot: str, paths: list[str], copies: Mapping[Key, Copy], rules: Rules) -> bool:
    newest = newest_good(copies.values())
    moment = layout.snapshot_time(snapshot)
    for data_type in {path.split("/")[-2] for path in paths if "/" in path}:
        if data_type not in newest or newest[data_type] - moment <= _promised(data_type, copies, rules):
            return False
    return True


def _promised(data_type: str, copies: Mapping[Key, Copy], rules: Rules) -> timedelta:
    """Return how long copies of a data type are kept; of one that the inventory lost, as its manifests say at most."""
    return max(rules.promised(copy) for copy in copies.values() if copy.data_type == data_type)
