"""
Whether the remote still holds what manifests say, and which artifacts are to be opened next. Deletes and mends nothing.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta

from gxbackup import freshness, layout
from gxbackup.adapters.rclone import Remote
from gxbackup.health import Finding
from gxbackup.inventory import Inventory
from gxbackup.model import Artifact, Catalog, Frozen, HeldSnapshot
from gxbackup.proofs import Proofs, opened_name

DAILY_LOOK = timedelta(hours=26)
# A folder without a manifest that is older belongs to a run that was cut.
RUN_AT_MOST = timedelta(hours=6)
# Weekly, and a day's delay: what would be dropped before the next look is opened in this one.
UNTIL_THE_NEXT_LOOK = timedelta(days=8)
# What is kept for a week or less may come and go between two weekly looks: the daily one opens it.
WEEK_DAYS = 7
UNTIL_TOMORROW = timedelta(hours=26)
# Of what is not due yet, one in so many is opened all the same, another one on every day.
SAMPLE_ONE_IN = 20
RUNBOOK = "alert-BackupIntegrityFailed"


class ToOpen(Frozen):
    """One artifact to read back, unseal and open."""

    snapshot: str
    artifact: Artifact

    def name(self) -> str:
        """Spell it as `Proofs.opened` does."""
        return opened_name(self.snapshot, self.artifact.path)


def of_the_last_day(catalog: Catalog, now: datetime) -> list[HeldSnapshot]:
    """Return the snapshots that a daily look has to look at."""
    return [held for held in catalog.snapshots if now - layout.snapshot_time(held.snapshot) <= DAILY_LOOK]


def empty_findings(catalog: Catalog) -> list[Finding]:
    """Tell of a server of which nothing is held: to have found no rot there says nothing."""
    if catalog.snapshots:
        return []
    return [_failing(catalog.server, "no snapshot is held that could be verified", "alert-BackupNeverSucceeded")]


def day_findings(catalog: Catalog, inventory: Inventory, now: datetime) -> list[Finding]:
    """Tell which snapshots of the last day are not complete, and where there should be one and is none."""
    recent = of_the_last_day(catalog, now)
    found = [
        _failing(
            f"{catalog.server} {gap.data_type}", f"{held.snapshot} lacks it: {gap.reason}", "alert-BackupJobFailed"
        )
        for held in recent
        for gap in held.manifest.missing
    ]
    promised = inventory.server(catalog.server).data_types
    if not recent and any(promise.rpo_hours <= freshness.DAILY_HOURS for promise in promised.values()):
        found.append(_failing(catalog.server, "no snapshot was made in the last day", "alert-BackupJobFailed"))
    for left in catalog.leftovers:
        if DAILY_LOOK >= now - layout.snapshot_time(left.snapshot) > RUN_AT_MOST:
            message = f"{left.snapshot} has no manifest: that run was cut"
            found.append(_failing(catalog.server, message, "alert-BackupJobFailed"))
    return found


def hash_findings(remote: Remote, catalog: Catalog, snapshots: Sequence[HeldSnapshot]) -> list[Finding]:
    """
    Hold the remote's own sha256 of every stored file of these snapshots against their manifests.

    What is absent is told by `catalog.lost_artifacts`, which knows what was pruned. Raises: RemoteError.
    """
    found = []
    for held in snapshots:
        artifacts = [one for one in held.manifest.artifacts if one.held_in is None and held.holds(one)]
        folder = layout.in_snapshot(catalog.remote_dir, held.snapshot)
        stored = remote.sha256_many(folder, [part.path for artifact in artifacts for part in artifact.parts])
        for artifact in artifacts:
            for part in artifact.parts:
                if (seen := stored.get(part.path)) != part.sha256:
                    subject = f"{catalog.server} {artifact.data_type}"
                    message = f"{held.snapshot}/{part.path}: expected sha256 {part.sha256[:16]}…, seen {_shown(seen)}"
                    found.append(_failing(subject, message, RUNBOOK))
    return found


def to_open(
    catalog: Catalog, proofs: Proofs, inventory: Inventory, now: datetime, *, daily: bool = False
) -> list[ToOpen]:
    """
    Choose what a weekly look opens: the newest good copies, what would be dropped before the next look, and a sample.

    A daily look opens only what is kept for a week or less and would be dropped before tomorrow's. What was opened
    once is not opened again: so everything held is opened once before it goes. The sample depends on the day alone.
    """
    until = now + (UNTIL_TOMORROW if daily else UNTIL_THE_NEXT_LOOK)
    chosen: dict[str, ToOpen] = {}
    for data_type, promise in inventory.server(catalog.server).data_types.items():
        if daily and promise.keep_days > WEEK_DAYS:
            continue
        good = freshness.good_copies(catalog, data_type)
        rest: list[ToOpen] = []
        for rank, held in enumerate(good):
            expires = layout.snapshot_time(held.snapshot) + timedelta(days=promise.keep_days)
            for artifact in held.manifest.of(data_type):
                one = ToOpen(snapshot=artifact.held_in or held.snapshot, artifact=artifact)
                if one.name() in proofs.opened:
                    continue
                if (rank == 0 and not daily) or expires <= until:
                    chosen[one.name()] = one
                else:
                    rest.append(one)
        if daily:
            continue
        rest.sort(key=lambda one: hashlib.sha256(f"{now:%Y-%m-%d} {one.name()}".encode()).digest())
        for one in rest[: -(-len(rest) // SAMPLE_ONE_IN)]:
            chosen[one.name()] = one
    return list(chosen.values())


def not_told_yet(chosen: Sequence[ToOpen], found: Sequence[Finding]) -> list[ToOpen]:
    """Return those whose files no finding names yet: what the remote's hash tells of one file is told once."""
    named = [finding.message for finding in found if finding.runbook == RUNBOOK]
    return [one for one in chosen if not any(message.startswith(one.name()) for message in named)]


def counts(catalog: Catalog, proofs: Proofs) -> dict[str, tuple[int, int]]:
    """Return data type → how many of its held artifacts were opened, and how many there are."""
    held_names: dict[str, set[str]] = defaultdict(set)
    for held in catalog.snapshots:
        for artifact in held.manifest.artifacts:
            if artifact.held_in is None and held.holds(artifact):
                held_names[artifact.data_type].add(opened_name(held.snapshot, artifact.path))
    return {name: (len(names & proofs.opened.keys()), len(names)) for name, names in held_names.items()}


def _failing(subject: str, message: str, runbook: str) -> Finding:
    return Finding(level="failing", subject=subject, message=message, runbook=runbook)


def _shown(sha256: str | None) -> str:
    return f"{sha256[:16]}…" if sha256 else "no file"
