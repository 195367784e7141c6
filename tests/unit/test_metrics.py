"""Figures as Prometheus reads them: whole files, names that stay, a series for what never happened."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from gxbackup import health, metrics
from gxbackup.errors import SetupError
from gxbackup.health import Finding, Level
from gxbackup.metrics import Unread
from gxbackup.proofs import Proofs, Rehearsal
from gxbackup.watch import REMOTE_FULL_PAGE, CronJobSeen, Room, Surroundings, remote_findings
from tests.unit.catalogs import SERVER, Promised, Shelf, daily, day, inventory

SEEN = Surroundings(
    staging=Room(total_bytes=100, free_bytes=40),
    remote=Room(total_bytes=None, free_bytes=None),
    cronjobs=(
        CronJobSeen(
            namespace="backend-mainnet", name="redis-backup", schedule="30 2 * * *", suspended=False,
            created_at=day(0), last_success=None,
        ),
    ),
    clock_offset_seconds=-1.5,
)  # fmt: skip


def registry() -> CollectorRegistry:
    found = health.conditions(
        [daily(Shelf(), 0, 5).catalog()], inventory(website=Promised(), ssh_keys=Promised(rpo_hours=168)), {}, day(9)
    )
    findings = [finding for one in found for finding in one.findings]
    return metrics.of_health(found, findings, SEEN, day(9))


def test_every_promise_has_its_series_and_the_names_are_the_published_ones() -> None:
    text = generate_latest(registry()).decode()

    for line in (
        f'backup_last_success_timestamp{{data_type="ssh-keys",server="{SERVER}"}} 0.0',
        f'backup_age_seconds{{data_type="ssh-keys",server="{SERVER}"}} +Inf',
        f'backup_age_seconds{{data_type="website",server="{SERVER}"}} 345600.0',
        f'backup_overdue_after_seconds{{data_type="website",server="{SERVER}"}} 93600.0',
        f'backup_held_bytes{{data_type="website",server="{SERVER}"}} 600.0',
        'backup_failing_checks{runbook="alert-BackupJobFailed"} 1.0',
        'backup_cronjob_last_success_timestamp{cronjob="redis-backup",namespace="backend-mainnet"} 0.0',
        "backup_staging_free_bytes 40.0",
        "backup_clock_offset_seconds -1.5",
    ):
        assert line in text.splitlines(), line
    assert "backup_remote" not in text


def test_what_could_not_be_read_keeps_its_last_figures_and_nothing_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GX_TEXTFILE_DIR", str(tmp_path))
    monkeypatch.delenv("GX_PUSHGATEWAY_URL", raising=False)
    assert metrics.published("health") == []
    promised = inventory(website=Promised(), ssh_keys=Promised(rpo_hours=168))
    held = [daily(Shelf(), 0, 5).catalog()]
    failed = Rehearsal(snapshot=held[0].snapshots[-1].snapshot, at=day(5), rto_seconds=3, failure="one row too few")
    proofs = {SERVER: Proofs(server=SERVER, last={"website": failed})}
    full = Surroundings(remote=Room(total_bytes=100, free_bytes=1), staging=Room(total_bytes=100, free_bytes=1))
    told = [
        *remote_findings(Room(total_bytes=100, free_bytes=1), 10),
        Finding(level="failing", subject="vps1", message="rotten", runbook="broken-chain"),
    ]
    metrics.publish(metrics.of_health(health.conditions(held, promised, proofs, day(6)), told, full, day(6)), "health")

    unread = Unread(
        published=metrics.published("health"),
        promises={(SERVER, "ssh-keys")},
        proofs={(SERVER, "website")},
        runbooks={REMOTE_FULL_PAGE},
    )
    [website, _] = health.conditions(held, promised, {}, day(9))
    emptied = Surroundings(staging=Room(total_bytes=100, free_bytes=90))
    text = generate_latest(metrics.of_health([website], [], emptied, day(9), unread)).decode().splitlines()

    for line in (
        f'backup_last_success_timestamp{{data_type="ssh-keys",server="{SERVER}"}} 0.0',
        f'backup_overdue_after_seconds{{data_type="ssh-keys",server="{SERVER}"}} 612000.0',
        f'backup_age_seconds{{data_type="website",server="{SERVER}"}} 345600.0',
        f'backup_rehearsal_success{{data_type="website",server="{SERVER}"}} 0.0',
        f'backup_failing_checks{{runbook="{REMOTE_FULL_PAGE}"}} 1.0',
        "backup_remote_free_bytes 1.0",
        "backup_staging_free_bytes 90.0",
    ):
        assert line in text, line
    assert not [line for line in text if "broken-chain" in line]


@pytest.mark.parametrize(
    ("levels", "figure"), [([], 0), (["warning"], 1), (["failing"], 2)], ids=["usual", "half", "emptied"]
)
def test_what_is_emptied_is_told_apart_from_what_is_half(levels: list[Level], figure: int) -> None:
    [website] = health.conditions([daily(Shelf(), 0, 5).catalog()], inventory(website=Promised()), {}, day(5))
    odd = tuple(Finding(level=one, subject="", message="", runbook=health.SIZE_ANOMALY) for one in levels)

    figures = metrics.of_health([website.model_copy(update={"findings": odd})], odd, SEEN, day(5))

    assert figures.get_sample_value("backup_size_anomaly", {"server": SERVER, "data_type": "website"}) == figure


def test_what_is_emptied_is_told_also_where_its_sizes_have_no_history() -> None:
    [website] = health.conditions([daily(Shelf(), 0, 5).catalog()], inventory(website=Promised()), {}, day(5))
    odd = (Finding(level="failing", subject="", message="", runbook=health.SIZE_ANOMALY),)
    new = website.model_copy(update={"findings": odd, "usual_size_bytes": None})

    figures = metrics.of_health([new], odd, SEEN, day(5))

    assert figures.get_sample_value("backup_size_anomaly", {"server": SERVER, "data_type": "website"}) == 2


def test_promtool_finds_nothing_wrong_with_them() -> None:
    run = metrics.of_run("vps1", None, succeeded=False, dropped=2, freed_bytes=10, now=day(1))
    for figures in (registry(), run):
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=generate_latest(figures), capture_output=True, check=False
        )

        assert (done.returncode, done.stderr.decode()) == (0, "")


def test_a_file_is_replaced_whole_and_readable_by_the_collector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GX_TEXTFILE_DIR", str(tmp_path))
    monkeypatch.delenv("GX_PUSHGATEWAY_URL", raising=False)

    file = metrics.publish(registry(), "health")
    metrics.publish(registry(), "health")

    assert file == tmp_path / "gx-backup-health.prom"
    assert file.stat().st_mode & 0o777 == 0o644
    lines = file.read_text().splitlines()
    assert [line for line in lines if not line.startswith("# UNIT")] == generate_latest(
        registry()
    ).decode().splitlines()
    told = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# UNIT")}
    families = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert told == {name: name.rsplit("_", 1)[1] for name in families if name.endswith(("_seconds", "_bytes"))}
    assert told["backup_age_seconds"] == "seconds"
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=file.read_bytes(), capture_output=True, check=False
    )
    assert (checked.returncode, checked.stderr.decode()) == (0, "")
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]


def test_a_folder_that_is_gone_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GX_TEXTFILE_DIR", str(tmp_path / "gone"))

    with pytest.raises(SetupError, match="metrics health: cannot be published"):
        metrics.publish(registry(), "health")

    assert list(tmp_path.iterdir()) == []
