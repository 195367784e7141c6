"""The hourly look: green where all is well, red with the right name where it is not, and blind to nothing."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flows.backup_vps1 import backup_vps1
from flows.check_backup_health import check_backup_health
from flows.drill_disaster_recovery import drill_disaster_recovery
from flows.prune_snapshots import prune_snapshots
from flows.verify_backups import verify_backups
from gxbackup import clock
from gxbackup.errors import IntegrityError, SetupError, UnprovenError
from tasks import survey
from tests.flows.conftest import Place, behind_a_login
from tests.webhook_sink import listening


def one_server(document: dict[str, Any]) -> None:
    document["servers"] = {"vps1": document["servers"]["vps1"]}
    document["watch"] = {}


def figures(place: Place) -> dict[str, dict[str, float]]:
    """Return what node_exporter would read: metric → its labels' values, the last name first → value."""
    text = (place.metrics / "gx-backup-health.prom").read_text()
    return {
        family.name: {
            " ".join(sample.labels[name] for name in sorted(sample.labels, reverse=True)): sample.value
            for sample in family.samples
        }
        for family in text_string_to_metric_families(text)
    }


def test_all_is_well_after_a_backup_and_every_promise_has_its_figures(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.create(one_server)
    snapshot = backup_vps1()

    check_backup_health()

    assert "# All backups are well" in caplog.text
    assert f"| 🟢 well | vps1 website | {snapshot} |" in caplog.text
    seen = figures(place)
    assert set(seen["backup_last_success_timestamp"]) == {"vps1 website", "vps1 system-config"}
    made = datetime.strptime(snapshot, "%Y%m%d_%H%M%S").replace(tzinfo=UTC).timestamp()
    assert seen["backup_last_success_timestamp"]["vps1 website"] == made
    assert seen["backup_rpo_seconds"]["vps1 website"] == 86400
    assert seen["backup_failing_checks"] == {"none": 0}
    assert seen["backup_plain_size_bytes"]["vps1 website"] > 1000
    assert seen["backup_rehearsal_last_success_timestamp"]["vps1 website"] == 0


def test_somebody_outside_is_told_of_a_good_look_and_costs_it_nothing_when_away(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with listening() as (url, got):
        monkeypatch.setenv("GX_DEADMAN_URL", f"{url}/ping/secret-{{flow}}")
        with pytest.raises(UnprovenError):
            check_backup_health()
        assert got == []

        place.create(one_server)
        backup_vps1()
        check_backup_health()
        verify_backups()
        drill_disaster_recovery()
        assert [path.removeprefix("/ping/secret-") for path, _ in got] == [
            "backup-vps1", "check-backup-health", "verify-backups", "drill-disaster-recovery",
        ]  # fmt: skip

    check_backup_health()

    assert "GX_DEADMAN_URL: not reached: ConnectError" in caplog.text
    assert "secret-" not in caplog.text


def test_a_promise_that_was_never_kept_is_red_and_has_a_series(place: Place) -> None:
    with pytest.raises(UnprovenError, match="vps1 website; vps1 system-config; vps2 ") as failure:
        check_backup_health()

    assert "HINT: vps1 website: docs/runbooks/alert-BackupNeverSucceeded.md" in str(failure.value)
    assert "; peers of fabric; orderers of fabric" in str(failure.value)  # no cluster tells who runs
    seen = figures(place)
    assert seen["backup_last_success_timestamp"]["vps5 ssh-keys"] == 0
    assert seen["backup_failing_checks"]["alert-BackupNeverSucceeded"] > 10


def test_backups_that_stopped_40_days_ago_are_red_by_name_and_nothing_of_them_is_pruned(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.create(one_server)
    backup_vps1()
    held = place.files()
    later = clock.now() + timedelta(days=40)
    monkeypatch.setattr(clock, "now", lambda: later)

    with pytest.raises(UnprovenError, match=r"Backups: 2 failing.*vps1 website; vps1 system-config") as failure:
        check_backup_health()

    assert "docs/runbooks/alert-BackupJobFailed.md" in str(failure.value)
    prune_snapshots("vps1", dry_run=False)
    assert place.files() == held


def test_a_check_that_cannot_be_made_is_a_finding_and_costs_no_other(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def watched(document: dict[str, Any]) -> None:
        one_server(document)
        document["watch"] = {"cronjobs": [{"namespace": "backend-mainnet", "name": "postgres-backup"}]}

    monkeypatch.setenv("KUBECONFIG", str(place.root / "no-such-kubeconfig"))
    place.create(watched)
    backup_vps1()

    with pytest.raises(UnprovenError, match="1 failing: CronJob backend-mainnet/postgres-backup"):
        check_backup_health()

    assert "could not be checked: kubeconfig" in caplog.text
    assert "| 🟢 well | vps1 website |" in caplog.text
    errors = [record for record in caplog.records if record.levelname == "ERROR" and record.module == "proofs"]
    assert len(errors) == 1


def test_a_server_that_cannot_be_listed_keeps_its_figures_so_that_its_alerts_go_on(place: Place) -> None:
    login = behind_a_login(place, one_server)
    backup_vps1()
    check_backup_health()
    before = figures(place)
    of_promises = {name: series for name, series in before.items() if "vps1 website" in series}
    login.rename(place.root / "ended")

    for _ in range(2):
        with pytest.raises(UnprovenError, match=r"1 failing: vps1\n"):
            check_backup_health()

    seen = figures(place)
    assert {name: seen[name] for name in of_promises} == of_promises
    assert seen["backup_failing_checks"] == {"check-backup-health": 1}
    assert set(seen) >= set(before)
    assert seen["backup_health_timestamp"][""] >= before["backup_health_timestamp"][""]
    (place.root / "ended").rename(login)
    newer = backup_vps1()
    check_backup_health()
    made = datetime.strptime(newer, "%Y%m%d_%H%M%S").replace(tzinfo=UTC).timestamp()
    assert figures(place)["backup_last_success_timestamp"]["vps1 website"] == made


def test_a_data_type_that_was_taken_out_of_the_inventory_is_told_and_not_forgotten(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    def without_website(document: dict[str, Any]) -> None:
        one_server(document)
        del document["servers"]["vps1"]["data_types"]["website"]

    place.create(one_server)
    backup_vps1()
    place.create(without_website)
    check_backup_health()

    assert "# Backups: 1 to look at this week" in caplog.text
    assert "| vps1 website | the inventory promises it no more" in caplog.text


def test_a_server_that_was_taken_out_of_the_inventory_is_told(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    def another(document: dict[str, Any]) -> None:
        one_server(document)
        document["servers"] = {"vps9": {**document["servers"]["vps1"], "remote_dir": "vps9"}}

    place.create(one_server)
    newest = backup_vps1()
    (place.remote / "somebody" / "else").mkdir(parents=True)
    place.create(another)
    with pytest.raises(UnprovenError, match="vps9"):
        check_backup_health()

    assert "| folder vps1-website | no server of the inventory has this folder: nobody backs it up" in caplog.text
    assert f"prunes it; newest: {newest}" in caplog.text
    assert "somebody" not in caplog.text


def test_a_copy_that_a_fast_clock_named_is_red_and_backups_go_on_once_it_is_out_of_the_way(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.create(one_server)
    backup_vps1()
    fast = clock.now() + timedelta(days=365)
    with monkeypatch.context() as patch:
        patch.setattr(clock, "now", lambda: fast)
        patch.setattr(survey, "prefect_server_time", lambda: fast)  # it runs on the same host
        ahead = backup_vps1()
    with pytest.raises(SetupError, match="expected later than the newest snapshot"):
        backup_vps1()

    with pytest.raises(UnprovenError, match=r"vps1 website; vps1 system-config\nHINT: .*check-backup-health.md"):
        check_backup_health()

    # As docs/runbooks/broken-chain.md has it.
    (folder,) = [one for one in place.snapshots() if one.name == ahead]
    folder.rename(place.root / ahead)
    with pytest.raises(IntegrityError, match=f"{ahead}: this host wrote it last"):
        backup_vps1()
    backup_vps1()
    check_backup_health()


def test_a_snapshot_by_a_stranger_is_red(place: Place) -> None:
    place.create(one_server)
    backup_vps1()
    backup_vps1()
    (place.snapshots()[1] / "manifest.json.sig").write_bytes(b"c3RyYW5nZXI=\n")

    with pytest.raises(UnprovenError, match=r"1 failing: vps1\n.*docs/runbooks/broken-chain.md"):
        check_backup_health()


def test_metrics_that_a_full_disk_refuses_cost_no_look_and_are_told(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.create(one_server)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place.metrics], check=True)
    try:
        backup_vps1()
        before = (place.metrics / "gx-backup-run-vps1.prom").read_bytes()
        with (place.metrics / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(1024))

        check_backup_health()

        assert "metrics health: cannot be published: [Errno 28] No space left on device" in caplog.text
        assert (place.metrics / "gx-backup-run-vps1.prom").read_bytes() == before
        assert {file.name for file in place.metrics.iterdir()} == {"filler", "gx-backup-run-vps1.prom"}
    finally:
        subprocess.run(["umount", place.metrics], check=True)
