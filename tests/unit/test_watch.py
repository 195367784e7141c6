"""What is found wrong beside the backups: CronJobs, room, workers, the clock, the login."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gxbackup import watch
from gxbackup.adapters import rclone_login
from gxbackup.errors import RemoteError, SetupError
from gxbackup.health import Finding
from gxbackup.watch import CronJobSeen, Login, Room

GIB = 1024**3
NOON = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


def cronjob(
    last_success: datetime | None, schedule: str = "0 2 * * *", suspended: bool = False, created_days_ago: float = 90
) -> CronJobSeen:
    return CronJobSeen(
        namespace="backend-mainnet", name="postgres-backup", schedule=schedule, suspended=suspended,
        created_at=NOON - timedelta(days=created_days_ago), last_success=last_success,
    )  # fmt: skip


def levels(findings: list[Finding]) -> list[str]:
    return [finding.level for finding in findings]


def test_a_cronjob_that_succeeded_since_it_was_due_is_well() -> None:
    assert watch.cronjob_findings(cronjob(NOON.replace(hour=2, minute=4)), NOON) == []


def test_a_cronjob_that_missed_its_time_is_failing_once_two_hours_have_passed() -> None:
    yesterday = cronjob(NOON.replace(hour=2, minute=4) - timedelta(days=1))

    assert watch.cronjob_findings(yesterday, NOON.replace(hour=3, minute=59)) == []
    (finding,) = watch.cronjob_findings(yesterday, NOON.replace(hour=4, minute=1))

    assert (finding.level, finding.runbook) == ("failing", "alert-BackupCronJobOverdue")
    assert finding.subject == "CronJob backend-mainnet/postgres-backup"
    assert "was due at 2026-11-28 02:00 UTC" in finding.message
    assert "last success 2026-11-27 02:04 UTC" in finding.message


def test_a_suspended_cronjob_is_failing_however_fresh() -> None:
    assert levels(watch.cronjob_findings(cronjob(NOON, suspended=True), NOON)) == ["failing"]


def test_a_new_cronjob_is_given_its_first_time() -> None:
    assert watch.cronjob_findings(cronjob(None, created_days_ago=0.1), NOON) == []
    assert levels(watch.cronjob_findings(cronjob(None, created_days_ago=2), NOON)) == ["failing"]


def test_a_schedule_that_nobody_understands_is_a_finding() -> None:
    assert "cannot be read: '@every 1h'" in watch.cronjob_findings(cronjob(NOON, schedule="@every 1h"), NOON)[0].message


@pytest.mark.parametrize(("free", "expected"), [(3, []), (2, []), (1.5, ["warning"]), (0.5, ["failing"])])
def test_staging_has_room_for_the_largest_artifact(free: float, expected: list[str]) -> None:
    assert levels(watch.staging_findings(Room(total_bytes=9 * GIB, free_bytes=int(free * GIB)), GIB)) == expected


@pytest.mark.parametrize(
    ("total", "free", "expected"),
    [
        (100, 50, []),
        (100, 14, ["warning"]),
        (100, 4, ["failing"]),
        (10_000, 1, ["failing"]),
        (None, 50, []),
        (None, 1, ["failing"]),
        (None, None, []),
    ],
)
def test_the_remote_has_room_for_another_day(total: int | None, free: int | None, expected: list[str]) -> None:
    room = Room(total_bytes=total and total * GIB, free_bytes=free and free * GIB)

    assert levels(watch.remote_findings(room, 2 * GIB)) == expected


@pytest.mark.parametrize(
    ("renews", "own", "kind", "expected"),
    [(True, True, "drive", []), (True, False, "drive", ["warning"]), (True, False, "dropbox", []),
     (False, True, "drive", ["failing"])],
)  # fmt: skip
def test_a_login_that_will_end_is_told(renews: bool, own: bool, kind: str, expected: list[str]) -> None:
    login = Login(remote="gdrive-backup", kind=kind, renews=renews, expires_at=NOON, has_own_client=own)

    assert levels(watch.login_findings(login, NOON)) == expected


def test_a_login_is_read_from_rclones_own_configuration_through_a_crypt_and_gives_no_secret_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = {"access_token": "hidden", "refresh_token": "1//hidden", "expiry": "2026-11-28T11:00:00.123456789+01:00"}
    (tmp_path / "rclone.conf").write_text(
        f"[gdrive-backup]\ntype = drive\nscope = drive.file\ntoken = {json.dumps(token)}\n"
        "[sealed]\ntype = crypt\nremote = gdrive-backup:gx\n"
        '[once]\ntype = drive\nclient_id = ours\ntoken = {"access_token": "hidden"}\n'
        "[robot]\ntype = drive\nservice_account_file = /etc/robot.json\n"
        "[torn]\ntype = drive\ntoken = {hidden\n"
    )
    monkeypatch.setenv("RCLONE_CONFIG", str(tmp_path / "rclone.conf"))

    seen = rclone_login.look("sealed:gx-backups")

    assert seen is not None
    assert (seen.remote, seen.kind, seen.renews, seen.has_own_client) == ("gdrive-backup", "drive", True, False)
    assert seen.expires_at is not None
    assert seen.expires_at.astimezone(UTC).hour == 10
    assert "hidden" not in repr(seen)
    once = rclone_login.look("once:gx")
    assert once is not None
    assert (once.renews, once.has_own_client) == (False, True)
    assert [rclone_login.look(path) for path in ("robot:gx", "/srv/backups", "unknown:x")] == [None, None, None]
    with pytest.raises(SetupError, match="rclone remote torn: its token cannot be read") as torn:
        rclone_login.look("torn:gx")
    assert "hidden" not in str(torn.value)


def test_a_pool_without_a_worker_is_failing_and_a_paused_one_is_told() -> None:
    found = watch.pool_findings({"vps1": "READY", "vps2": "NOT_READY", "vps3": "PAUSED", "vps4": "NOT THERE"})

    assert [(finding.subject, finding.level) for finding in found] == [
        ("pool vps2", "failing"),
        ("pool vps3", "warning"),
        ("pool vps4", "failing"),
    ]


@pytest.mark.parametrize(("seconds", "expected"), [(-59, []), (61, ["warning"]), (-301, ["failing"])])
def test_a_clock_that_differs_is_told(seconds: float, expected: list[str]) -> None:
    assert levels(watch.clock_findings(seconds)) == expected


def test_a_check_that_could_not_be_made_says_why_in_one_line() -> None:
    told = watch.unchecked("remote", RemoteError("gdrive-backup: no answer", "is there a network?"))

    assert (told.level, told.message) == ("failing", "could not be checked: gdrive-backup: no answer")
    assert watch.unchecked("remote", ValueError()).message == "could not be checked: ValueError"
