"""
What may go wrong beside the backups themselves: CronJobs, room, workers, the clock. Pure: judges what others saw.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import Field

from gxbackup.health import GRACE, Finding
from gxbackup.keep_rules import spell_age
from gxbackup.model import Frozen

RUNBOOK = "check-backup-health"
REMOTE_FULL_PAGE = "alert-BackupRemoteAlmostFull"
CRONJOB_OVERDUE = "alert-BackupCronJobOverdue"
REMOTE_ALMOST_FULL = 0.85
REMOTE_FULL = 0.95
CLOCK_TOLD = timedelta(minutes=1)
CLOCK_WRONG = timedelta(minutes=5)


class CronJobSeen(Frozen):
    """A CronJob as the cluster tells of it."""

    namespace: str
    name: str
    schedule: str
    time_zone: str | None = Field(default=None, description="of its schedule; None: that of the cluster's controller")
    suspended: bool
    created_at: datetime
    last_success: datetime | None

    def subject(self) -> str:
        """Name it for people."""
        return f"CronJob {self.namespace}/{self.name}"


class Room(Frozen):
    """What is free somewhere; None for what is not told."""

    total_bytes: int | None
    free_bytes: int | None


class Login(Frozen):
    """How a remote lets us in by a token."""

    remote: str
    kind: str = Field(description="of rclone's backends: drive, dropbox, …")
    renews: bool = Field(description="whether rclone can get the next token by itself")
    expires_at: datetime | None = Field(description="when this one ends; None: not told")
    has_own_client: bool = Field(description="whether the client id is the operator's own, not rclone's shared one")


class Surroundings(Frozen):
    """All that was seen beside the catalogs; None for what was not looked at, or could not be."""

    staging: Room | None = None
    remote: Room | None = None
    cronjobs: tuple[CronJobSeen, ...] = ()
    pools: dict[str, str] = Field(default_factory=dict, description="work pool → its status as Prefect tells it")
    clock_offset_seconds: float | None = Field(default=None, description="this host's clock minus the other one's")


def cronjob_findings(seen: CronJobSeen, now: datetime, controller_zone: str = "UTC") -> list[Finding]:
    """
    Tell what is wrong with a CronJob: suspended, or without success since the last time it was due.

    Its schedule is read in its own time zone; where it names none, in that of the cluster's controller.
    """
    if seen.suspended:
        return [_failing(seen.subject(), "is suspended", CRONJOB_OVERDUE)]
    zone = seen.time_zone or controller_zone
    try:
        due = _last_time(seen.schedule, zone, now - GRACE)
    except (CronSimError, StopIteration):
        return [_failing(seen.subject(), f"its schedule cannot be read: {seen.schedule!r}", RUNBOOK)]
    except (KeyError, ValueError, OSError):  # what zoneinfo raises, by how a name is wrong
        return [_failing(seen.subject(), f"its time zone is not known here: {zone!r}", RUNBOOK)]
    if seen.created_at > due or (seen.last_success is not None and seen.last_success >= due):
        return []
    last = f"last success {seen.last_success:%Y-%m-%d %H:%M} UTC" if seen.last_success else "no success is known"
    message = f"was due at {due:%Y-%m-%d %H:%M} UTC ({seen.schedule} in {zone}); {last}"
    return [_failing(seen.subject(), message, CRONJOB_OVERDUE)]


def staging_findings(room: Room, largest_bytes: int) -> list[Finding]:
    """Tell where staging has no room for the largest sealed artifact there is, or barely."""
    if room.free_bytes is None or room.free_bytes >= 2 * largest_bytes:
        return []
    message = f"{room.free_bytes} bytes free, and the largest artifact has {largest_bytes}"
    level = "failing" if room.free_bytes < largest_bytes else "warning"
    return [Finding(level=level, subject="staging", message=message, runbook="alert-BackupStagingAlmostFull")]


def remote_findings(room: Room, last_day_bytes: int) -> list[Finding]:
    """Tell where the remote is almost full; one that does not tell its room says nothing."""
    if room.free_bytes is None:
        return []
    used = 1 - room.free_bytes / room.total_bytes if room.total_bytes else 0.0
    if used < REMOTE_ALMOST_FULL and room.free_bytes > last_day_bytes:
        return []
    days = f", {room.free_bytes / last_day_bytes:.1f} days at the last day's {last_day_bytes}" if last_day_bytes else ""
    level = "failing" if used >= REMOTE_FULL or room.free_bytes <= last_day_bytes else "warning"
    message = f"{used:.0%} full: {room.free_bytes} bytes free{days}"
    return [Finding(level=level, subject="remote", message=message, runbook=REMOTE_FULL_PAGE)]


def login_findings(login: Login, now: datetime) -> list[Finding]:
    """Tell where the remote's token cannot be renewed, or stands on a client id that is not the operator's."""
    subject = f"login of {login.remote}"
    if not login.renews:
        ends = f"ends at {login.expires_at:%Y-%m-%d %H:%M} UTC" if login.expires_at else "may end at any time"
        if login.expires_at is not None and login.expires_at <= now:
            ends = f"ended at {login.expires_at:%Y-%m-%d %H:%M} UTC"
        return [_failing(subject, f"its token {ends} and cannot be renewed", RUNBOOK)]
    if login.kind == "drive" and not login.has_own_client:
        message = "stands on rclone's shared client id, which stops working during 2026"
        return [Finding(level="warning", subject=subject, message=message, runbook=RUNBOOK)]
    return []


def pool_findings(pools: Mapping[str, str]) -> list[Finding]:
    """Tell which work pools have no worker that answers, or are paused."""
    found = []
    for pool, status in pools.items():
        if status == "PAUSED":
            message = "paused: its runs wait until somebody resumes it"
            found.append(Finding(level="warning", subject=f"pool {pool}", message=message, runbook=RUNBOOK))
        elif status != "READY":
            found.append(_failing(f"pool {pool}", f"no worker is online there ({status.lower()})", RUNBOOK))
    return found


def clock_findings(offset_seconds: float) -> list[Finding]:
    """Tell where this host's clock and another one differ: snapshots are named and kept by the clock."""
    offset = timedelta(seconds=abs(offset_seconds))
    if offset <= CLOCK_TOLD:
        return []
    level = "failing" if offset > CLOCK_WRONG else "warning"
    message = f"differs by {spell_age(offset)} from the Prefect server's"
    return [Finding(level=level, subject="clock", message=message, runbook=RUNBOOK)]


def unchecked(subject: str, error: Exception, runbook: str = RUNBOOK) -> Finding:
    """Make a finding of a check that could not be made: what nobody looked at is not well."""
    first_line = str(error).partition("\n")[0]
    return _failing(subject, f"could not be checked: {first_line or type(error).__name__}", runbook)


def _last_time(schedule: str, zone: str, before: datetime) -> datetime:
    """Return when a schedule was due last, in UTC, by the rules of Kubernetes."""
    if len(schedule.split()) != 5:
        raise CronSimError("Wrong number of fields")
    # With seconds, CronSim leaves out Debian's rules for the days that clocks change: Kubernetes runs nothing for an
    # hour that is skipped, and twice for one that comes twice.
    return next(CronSim(f"0 {schedule}", before.astimezone(ZoneInfo(zone)), reverse=True)).astimezone(UTC)


def _failing(subject: str, message: str, runbook: str) -> Finding:
    return Finding(level="failing", subject=subject, message=message, runbook=runbook)
