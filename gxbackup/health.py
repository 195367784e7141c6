"""
What is wrong with the backups now: what the inventory promises, held against what the remote holds.

Pure: no I/O, no clock, no listing; whoever looked hands in what was seen. `findings` of other things than data types
are in `watch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field

from gxbackup import freshness, layout, sizes
from gxbackup.fabric import heights, sets
from gxbackup.inventory import DataType, Inventory
from gxbackup.keep_rules import spell_age
from gxbackup.model import Artifact, Catalog, Frozen, HeldSnapshot
from gxbackup.proofs import Proofs, Rehearsal

# What a run takes, and its retry: a daily data type is late after 26 h.
GRACE = timedelta(hours=2)
# Hosts' clocks differ by less, or their runs refuse: a copy that is named further ahead looks fresh until that time.
AHEAD_AT_MOST = timedelta(minutes=10)
# Rehearsals are weekly: one that was missed is told, two are a fault.
REHEARSED_WITHIN = timedelta(days=8)

TOO_SLOW = "alert-RestoreTooSlow"
SIZE_ANOMALY = "alert-BackupSizeAnomaly"
EXPIRING = "alert-BackupCertificateExpiring"
FABRIC_SET = "fabric-set"
CLAIM_UNREAD = "restore-fabric-crypto"
BY_HAND = "check-backup-health"
LINES_TOLD = 6

Level = Literal["failing", "warning"]
Rule = Callable[[list[heights.Copy]], list[str]]
_WORST_FIRST: dict[Level, int] = {"failing": 0, "warning": 1}


class Finding(Frozen):
    """One thing that is wrong: a person acts today (failing), or this week (warning)."""

    level: Level
    subject: str = Field(description="what it is about: vps1 website, pool vps3, CronJob backend-mainnet/redis-backup")
    message: str
    runbook: str = Field(description="stem of its page in docs/runbooks")


class Condition(Frozen):
    """How one promise is kept now."""

    server: str
    data_type: str
    rpo_hours: float
    rto_hours: float
    restored_by: str | None
    newest: str | None = Field(description="snapshot of the newest good copy")
    age_hours: float | None
    copies: int
    held_bytes: int = Field(description="of its files on the remote")
    artifacts: int = Field(description="of the newest good copy, as the sizes and seconds are")
    size_bytes: int
    plain_size_bytes: int
    usual_size_bytes: int | None = Field(description="median of its own plain sizes before; none: no history yet")
    run_seconds: float = Field(description="how long the whole run of that snapshot took")
    rehearsal: Rehearsal | None
    proven: Rehearsal | None = Field(description="the newest rehearsal that succeeded")
    unproven_since: datetime | None = Field(description="that one, else the first snapshot; none: nothing to rehearse")
    findings: tuple[Finding, ...]

    def level(self) -> Level | None:
        """Return the worst that was found; None where all is well."""
        return min((finding.level for finding in self.findings), key=_WORST_FIRST.__getitem__, default=None)


def conditions(
    catalogs: Iterable[Catalog], inventory: Inventory, proofs: Mapping[str, Proofs], now: datetime
) -> tuple[Condition, ...]:
    """Return the condition of every promise whose server's catalog could be read, in the inventory's order."""
    return tuple(
        _condition(catalog, data_type, promise, proofs.get(catalog.server), now)
        for catalog in catalogs
        for data_type, promise in inventory.server(catalog.server).data_types.items()
    )


def past_findings(catalog: Catalog, faults: Sequence[str]) -> list[Finding]:
    """Tell what is wrong with a server's past: manifests that are not trusted, and chains that are broken."""
    lines = [f"{bad.snapshot} is not trusted: {bad.reason}" for bad in catalog.rejected] + [*faults]
    return [
        Finding(level="failing", subject=catalog.server, message=line, runbook="broken-chain")
        for line in dict.fromkeys(lines)
    ]


def unpromised_findings(catalog: Catalog, inventory: Inventory, now: datetime) -> list[Finding]:
    """
    Tell which data types are held and no longer in the inventory: misspelt or dropped there, nothing else misses them.

    As long as the last copy was promised: whoever gave one up on purpose is told for so long, and no longer.
    """
    held = dict.fromkeys(name for one in catalog.snapshots for name in one.manifest.data_types())
    found = []
    for name in held.keys() - inventory.server(catalog.server).data_types.keys():
        for newest in freshness.good_copies(catalog, name)[:1]:
            keep_days = max(artifact.keep_days for artifact in newest.manifest.of(name))
            if now - layout.snapshot_time(newest.snapshot) <= timedelta(days=keep_days):
                message = f"the inventory promises it no more: nobody takes it; the newest copy is {newest.snapshot}"
                subject = f"{catalog.server} {name}"
                found.append(Finding(level="warning", subject=subject, message=message, runbook=BY_HAND))
    return sorted(found, key=lambda finding: finding.subject)


def unowned_findings(folders: Mapping[str, str]) -> list[Finding]:
    """Tell which folders with snapshots, each with its newest one, are no server's of the inventory."""
    message = "no server of the inventory has this folder: nobody backs it up, looks at it or prunes it; newest: "
    return [
        Finding(level="warning", subject=f"folder {name}", message=f"{message}{newest}", runbook=BY_HAND)
        for name, newest in folders.items()
    ]


def set_findings(catalogs: Iterable[Catalog], inventory: Inventory, now: datetime) -> list[Finding]:
    """
    Tell, for each Fabric network, where the copies of all its servers do not belong together.

    Peers above orderers are failing once no set within the promise holds: such a network cannot be brought back. They
    are told alone. What can be helped is a warning, each told: CouchDB is rebuilt from blocks, and orderers of a live
    network are always some blocks apart. While a day's copies are being made, yesterday's set is what counts.
    """
    found = []
    for namespace, all_held in sets.held(catalogs, inventory).items():
        promised = timedelta(hours=max(inventory.data_type(one.server, one.data_type).rpo_hours for one in all_held))
        ledgers = [one for one in all_held if all(copy.role != heights.COUCHDB for copy in one.copies)]
        with_peers = [_with_peers(one, inventory) for one in all_held]
        subject = f"Fabric {namespace}"
        if broken := _set_finding(subject, ledgers, "failing", heights.faults, promised, now):
            found.append(broken)
            continue
        for compared, rule in ((with_peers, heights.faults), (ledgers, heights.uneven)):
            if finding := _set_finding(subject, compared, "warning", rule, promised, now):
                found.append(finding)
    return found


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Order findings for a reader who stops after the first line."""
    return sorted(findings, key=lambda finding: _WORST_FIRST[finding.level])


def _condition(catalog: Catalog, data_type: str, promise: DataType, proofs: Proofs | None, now: datetime) -> Condition:
    good = freshness.good_copies(catalog, data_type)
    newest = good[0] if good else None
    artifacts = newest.manifest.of(data_type) if newest else ()
    size = sizes.judge(good, data_type)
    rehearsal = proofs.last.get(data_type) if proofs else None
    proven = proofs.good.get(data_type) if proofs else None
    subject = f"{catalog.server} {data_type}"
    found = _age_findings(subject, catalog, data_type, newest, promise, now)
    if size.oddity is not None:
        level: Level = "failing" if size.emptied else "warning"
        found.append(Finding(level=level, subject=subject, message=size.oddity, runbook=SIZE_ANOMALY))
    found += _certificate_findings(subject, artifacts)
    found += _unread_findings(subject, artifacts)
    since = None
    if promise.restore_flow is not None and newest is not None:
        since = proven.at if proven else layout.snapshot_time(catalog.snapshots[0].snapshot)
        found += _rehearsal_findings(subject, rehearsal, proven, now - since)
        if proven is not None and proven.is_slow(promise.rto_hours):
            message = proven.slowness(promise.rto_hours)
            found.append(Finding(level="warning", subject=subject, message=message, runbook=TOO_SLOW))
    return Condition(
        server=catalog.server,
        data_type=data_type,
        rpo_hours=promise.rpo_hours,
        rto_hours=promise.rto_hours,
        restored_by=promise.restore_flow,
        newest=newest.snapshot if newest else None,
        age_hours=_hours(now - layout.snapshot_time(newest.snapshot)) if newest else None,
        copies=len(good),
        held_bytes=_held_bytes(catalog, data_type),
        artifacts=len(artifacts),
        size_bytes=sum(artifact.sealed_size_bytes for artifact in artifacts),
        plain_size_bytes=size.plain_bytes,
        usual_size_bytes=size.usual_bytes,
        run_seconds=(newest.manifest.finished_at - newest.manifest.started_at).total_seconds() if newest else 0.0,
        rehearsal=rehearsal,
        proven=proven,
        unproven_since=since,
        findings=tuple(worst_first(found)),
    )


def _with_peers(held: heights.Held, inventory: Inventory) -> heights.Held:
    """Let copies of a CouchDB say which peers use it, as the inventory does now: their manifests do not."""
    source = inventory.data_type(held.server, held.data_type).source
    if source.kind != "couchdb":
        return held
    return replace(held, copies=tuple(replace(copy, peers=source.peers) for copy in held.copies))


def _set_finding(
    subject: str, compared: Sequence[heights.Held], level: Level, rule: Rule, promised: timedelta, now: datetime
) -> Finding | None:
    by_moment = sets.sets(compared)
    known = {moment: [copy for held in one for copy in held.copies] for moment, one in by_moment.items()}
    broken = rule(next(iter(known.values()), []))
    if not broken:
        return None
    message = f"the newest copies do not belong together: {'; '.join(broken[:LINES_TOLD])}"
    message += f"; and {len(broken) - LINES_TOLD} more" if len(broken) > LINES_TOLD else ""
    whole = next((moment for moment, copies in known.items() if not rule(copies)), None)
    if whole is None:
        return Finding(level=level, subject=subject, message=f"{message}; no older set does", runbook=FABRIC_SET)
    age = now - layout.snapshot_time(whole)
    message += f"; the newest set that does is that of {whole}, {spell_age(age)} old"
    if age > promised + GRACE:
        return Finding(level=level, subject=subject, message=message, runbook=FABRIC_SET)
    moments = [layout.snapshot_time(one.snapshot) for one in next(iter(by_moment.values()))]
    if max(moments) - min(moments) > promised / 2:
        return None  # a copy of the day before is among them: today's are being made
    return Finding(level="warning", subject=subject, message=message, runbook=FABRIC_SET)


def _age_findings(
    subject: str, catalog: Catalog, data_type: str, newest: HeldSnapshot | None, promise: DataType, now: datetime
) -> list[Finding]:
    tried = [
        (held.snapshot, gap.reason)
        for held in catalog.snapshots
        for gap in held.manifest.missing
        if gap.data_type == data_type and (newest is None or held.snapshot > newest.snapshot)
    ]
    last = f"; the last try, {tried[-1][0]}: {tried[-1][1]}" if tried else ""
    if newest is None:
        why = "never backed up" if not tried else "no good copy"
        return [Finding(level="failing", subject=subject, message=f"{why}{last}", runbook="alert-BackupNeverSucceeded")]
    age = now - layout.snapshot_time(newest.snapshot)
    promised = timedelta(hours=promise.rpo_hours)
    if -age > AHEAD_AT_MOST:
        message = f"newest good copy, {newest.snapshot}, is named {spell_age(-age)} ahead of this host's clock{last}"
        return [Finding(level="failing", subject=subject, message=message, runbook=BY_HAND)]
    if age > promised + GRACE:
        message = f"newest good copy is {spell_age(age)} old, promised {spell_age(promised)}{last}"
        return [Finding(level="failing", subject=subject, message=message, runbook="alert-BackupJobFailed")]
    if tried:
        message = f"the last run did not get it: {tried[-1][1]}"
        return [Finding(level="warning", subject=subject, message=message, runbook="alert-BackupJobFailed")]
    return []


def _certificate_findings(subject: str, artifacts: Sequence[Artifact]) -> list[Finding]:
    found = []
    for artifact in artifacts:
        expiring = artifact.evidence.get("expires_soon")
        for one in expiring if isinstance(expiring, list) else []:
            message = f"a certificate in it is about to expire: {one}"
            found.append(Finding(level="warning", subject=subject, message=message, runbook=EXPIRING))
    return found


def _unread_findings(subject: str, artifacts: Sequence[Artifact]) -> list[Finding]:
    unread = [artifact.evidence.get("claims_unread") for artifact in artifacts]
    return [
        Finding(level="warning", subject=subject, message=f"nobody could look into {one}", runbook=CLAIM_UNREAD)
        for told in unread
        for one in (told if isinstance(told, list) else [])
    ]


def _rehearsal_findings(
    subject: str, rehearsal: Rehearsal | None, proven: Rehearsal | None, unproven: timedelta
) -> list[Finding]:
    if rehearsal is not None and rehearsal.failure is not None:
        message = f"the restore of {rehearsal.snapshot} to scratch failed: {rehearsal.failure}"
        return [Finding(level="failing", subject=subject, message=message, runbook="alert-RestoreRehearsalFailed")]
    if unproven > REHEARSED_WITHIN:
        message = f"not restored to scratch for {spell_age(unproven)}" if proven else "never restored to scratch"
        return [Finding(level="warning", subject=subject, message=message, runbook="alert-RestoreRehearsalOverdue")]
    return []


def _held_bytes(catalog: Catalog, data_type: str) -> int:
    return sum(
        held.files.get(part.path, 0)
        for held in catalog.snapshots
        for artifact in held.manifest.of(data_type)
        if artifact.held_in is None
        for part in artifact.parts
    )


def _hours(age: timedelta) -> float:
    return age / timedelta(hours=1)
