"""The proofs as their runbooks read: health, verification, rehearsals, the drill. No flow is defined here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect import runtime
from prefect.logging import get_run_logger

from flows.recipes import tell
from gxbackup import clock, health, ledger_watch, verifying, watch
from gxbackup.errors import UnprovenError
from gxbackup.health import Condition, Finding
from gxbackup.inventory import WatchedCronJob
from gxbackup.model import Catalog
from gxbackup.proofs import Proofs
from gxbackup.staging import staging_area
from gxbackup.watch import Surroundings
from tasks import deadman, host, metrics
from tasks.catalogs import list_catalog
from tasks.policy import speak_plainly
from tasks.proof_pages import health_page, verdict, verification_page
from tasks.proofs import look_at_past, read_proofs, record_proofs
from tasks.surroundings import (
    look_at_clock,
    look_at_cronjob,
    look_at_folders,
    look_at_ledgers,
    look_at_login,
    look_at_pools,
    look_at_remote,
    look_at_staging,
)
from tasks.verify_held import open_held, verify_hashes

DAY_HOURS = 24


def check_health() -> None:
    """
    Hold every promise against what the remote holds, look around, and tell the worst first; fail where it is failing.

    A check that cannot be made is a finding, and costs no other check.

    Raises: UnprovenError naming what is failing.
    """
    speak_plainly()
    found: list[Finding] = []
    with staging_area("health") as area:
        catalogs = _catalogs(area, found)
        proofs: dict[str, Proofs] = {}
        for catalog in catalogs:
            with checking(f"{catalog.server} proofs", found):
                proofs[catalog.server] = read_proofs(catalog.server)
            with checking(f"{catalog.server} past", found):
                found += health.past_findings(catalog, look_at_past(catalog))
            found += health.unpromised_findings(catalog, host.inventory(), clock.now())
    conditions = health.conditions(catalogs, host.inventory(), proofs, clock.now())
    found += [finding for condition in conditions for finding in condition.findings]
    if catalogs:  # else the remote cannot be listed, which is told
        with checking("folders of the remote", found):
            found += health.unowned_findings(look_at_folders())
    with checking("sets", found):
        found += health.set_findings(catalogs, host.inventory(), clock.now())
    for watched in ledger_watch.watched(host.inventory()):
        with checking(f"{watched.role}s of {watched.namespace}", found):
            running = look_at_ledgers(watched)
            found += ledger_watch.unread_findings(running, catalogs, host.inventory(), clock.now())
    seen = _look_around(conditions, found)
    found = health.worst_first(found)
    tell("backup-health", health_page(conditions, found, seen, clock.now()))
    metrics.of_health(conditions, proofs, found, seen)
    end(found)
    deadman.ping(deadman.HEALTH)


def verify_day() -> None:
    """
    Prove that every snapshot of the last day is on the remote, complete, with equal hashes; fail where one is not.

    What is kept for a week or less is also opened before it goes: the weekly look may not see it.

    Raises: UnprovenError naming what is not.
    """
    speak_plainly()
    found: list[Finding] = []
    lines: list[str] = []
    with staging_area("verify") as area:
        for catalog in _catalogs(area, found):
            recent = verifying.of_the_last_day(catalog, clock.now())
            found += verifying.day_findings(catalog, host.inventory(), clock.now())
            with checking(f"{catalog.server} hashes", found):
                found += verify_hashes(catalog, recent)
            with checking(f"{catalog.server} past", found):
                found += health.past_findings(catalog, look_at_past(catalog))
            with checking(f"{catalog.server} opened", found):
                lines += _open_sample(catalog, area, found, daily=True)
            files = sum(len(held.files) for held in recent)
            names = ", ".join(held.snapshot for held in recent) or "none"
            lines.append(f"{catalog.server}: {files} files of the last day's snapshots: {names}")
    metrics.of_verification("verify-backups", found)
    tell("verify-backups", verification_page("Backups of the last day", found, lines))
    end(found)
    deadman.ping("verify-backups")


def verify_all() -> None:
    """
    Hold the remote's hash of everything held against its manifest, and open a rotating sample; fail on rot.

    One rotten artifact costs no other its look. What was opened is recorded, so that the next look opens others.

    Raises: UnprovenError naming what is rotten.
    """
    speak_plainly()
    found: list[Finding] = []
    lines: list[str] = []
    with staging_area("integrity") as area:
        for catalog in _catalogs(area, found):
            found += verifying.empty_findings(catalog)
            with checking(f"{catalog.server} hashes", found):
                found += verify_hashes(catalog, [*catalog.snapshots])
            with checking(f"{catalog.server} past", found):
                found += health.past_findings(catalog, look_at_past(catalog))
            with checking(f"{catalog.server} sample", found):
                lines += _open_sample(catalog, area, found)
    metrics.of_verification("verify-integrity", found)
    tell("verify-integrity", verification_page("Everything that is held", found, lines))
    end(found)
    deadman.ping("verify-integrity")


def _open_sample(catalog: Catalog, area: Path, found: list[Finding], *, daily: bool = False) -> list[str]:
    """Open what is due to be opened, record what could be, and say so line by line."""
    proofs = read_proofs(catalog.server)
    due = verifying.to_open(catalog, proofs, host.inventory(), clock.now(), daily=daily)
    if daily and not due:
        return []
    lines: list[str] = []
    opened: list[str] = []
    for one in verifying.not_told_yet(due, found):
        with checking(f"{catalog.server} {one.artifact.data_type}", found, verifying.RUNBOOK):
            lines.append(f"{catalog.server} {one.name()}: {open_held(catalog, one, area)}")
            opened.append(one.name())
    record_proofs(catalog, opened, {}, area)
    known = proofs.with_opened(opened, clock.now())
    for data_type, (done, held) in verifying.counts(catalog, known).items():
        lines.append(f"{catalog.server} {data_type}: {done} of {held} artifacts held were opened since they were made")
    return lines


def _catalogs(area: Path, found: list[Finding]) -> list[Catalog]:
    catalogs = []
    for server in host.inventory().servers:
        with checking(server, found):
            catalogs.append(list_catalog(server, area))
    return catalogs


def _look_around(conditions: tuple[Condition, ...], found: list[Finding]) -> Surroundings:
    """Look at all that is no data type; `found` grows by what is wrong."""
    staging = remote = offset = None
    cronjobs = []
    pools: dict[str, str] = {}
    now = clock.now()
    with checking("staging", found):
        staging = look_at_staging()
        found += watch.staging_findings(staging, max((one.size_bytes for one in conditions), default=0))
    with checking("remote", found):
        remote = look_at_remote()
        newest = [one for one in conditions if one.age_hours is not None and one.age_hours <= DAY_HOURS]
        found += watch.remote_findings(remote, sum(one.size_bytes for one in newest))
    with checking("login of the remote", found):
        if (login := look_at_login()) is not None:
            found += watch.login_findings(login, now)
    for wanted in host.inventory().watch.cronjobs:
        with checking(_cronjob_subject(wanted), found):
            cronjobs.append(look_at_cronjob(wanted.namespace, wanted.name))
            found += watch.cronjob_findings(cronjobs[-1], now, host.inventory().watch.time_zone)
    if runtime.deployment.id is not None:
        with checking("workers", found):
            pools = look_at_pools()
            found += watch.pool_findings(pools)
        with checking("clock", found):
            offset = look_at_clock()
            found += watch.clock_findings(offset)
    return Surroundings(
        staging=staging, remote=remote, cronjobs=tuple(cronjobs), pools=pools, clock_offset_seconds=offset
    )


def _cronjob_subject(wanted: WatchedCronJob) -> str:
    return f"CronJob {wanted.namespace}/{wanted.name}"


@contextmanager
def checking(subject: str, found: list[Finding], runbook: str = watch.RUNBOOK) -> Iterator[None]:
    """Turn whatever goes wrong in a check into a finding: what nobody looked at is not well."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - it hides nothing: the finding is failing
        found.append(watch.unchecked(subject, error, runbook))


def end(found: list[Finding]) -> None:
    """Say every failing finding in the log, one line each, and fail where there is one."""
    failing = [finding for finding in found if finding.level == "failing"]
    for finding in failing:
        get_run_logger().error("%s: %s (docs/runbooks/%s.md)", finding.subject, finding.message, finding.runbook)
    if failing:
        raise UnprovenError(
            f"{verdict(found)}: {'; '.join(dict.fromkeys(finding.subject for finding in failing))}",
            *(f"{finding.subject}: docs/runbooks/{finding.runbook}.md" for finding in failing[:5]),
        )
