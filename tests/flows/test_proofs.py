"""Verification, rehearsals and the drill: rot is named, proofs are recorded, nothing else is touched."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from site_tree import describe

from flows.backup_vps1 import backup_vps1
from flows.check_backup_health import check_backup_health
from flows.drill_disaster_recovery import drill_disaster_recovery
from flows.rehearse_restores import rehearse_restores
from flows.verify_backups import verify_backups
from flows.verify_integrity import verify_integrity
from gxbackup import clock, proof_records
from gxbackup.errors import InventoryError, UnprovenError
from gxbackup.proofs import Proofs
from tasks import host
from tasks.prune import prune
from tests.flows.conftest import Place, behind_a_login
from tests.flows.test_health import figures, one_server
from tests.webhook_sink import listening

SITE = "files/website/website.tar.zst.age"


@pytest.fixture
def backed_up(place: Place) -> Place:
    place.create(one_server)
    backup_vps1()
    return place


def proofs() -> Proofs:
    return proof_records.load(host.remote(), host.inventory(), "vps1")


def rot(file: Path) -> None:
    """Flip a byte and keep size and times, as a disk would."""
    body = bytearray(file.read_bytes())
    body[len(body) // 2] ^= 1
    file.write_bytes(body)


def test_the_last_days_snapshots_are_verified_and_one_rotten_artifact_is_named(
    backed_up: Place, caplog: pytest.LogCaptureFixture
) -> None:
    verify_backups()

    assert "# Backups of the last day: all is as it was sent" in caplog.text
    assert f"vps1: 5 files of the last day's snapshots: {backed_up.snapshots()[0].name}" in caplog.text

    rot(backed_up.snapshots()[0] / SITE)

    with pytest.raises(UnprovenError, match=r"1 failing: vps1 website\n.*docs/runbooks/alert-BackupIntegrityFailed"):
        verify_backups()

    assert f"{backed_up.snapshots()[0].name}/{SITE}: expected sha256" in caplog.text


def test_a_day_without_a_snapshot_is_no_quiet_day(backed_up: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    tomorrow = clock.now() + timedelta(hours=27)
    monkeypatch.setattr(clock, "now", lambda: tomorrow)

    with pytest.raises(UnprovenError, match="1 failing: vps1\nHINT: vps1: docs/runbooks/alert-BackupJobFailed.md"):
        verify_backups()


def test_integrity_opens_what_is_held_once_and_records_it(backed_up: Place, caplog: pytest.LogCaptureFixture) -> None:
    before = backed_up.files()

    verify_integrity()
    caplog.clear()
    verify_integrity()

    assert len(proofs().opened) == 2
    assert "vps1 website: 1 of 1 artifacts held were opened since they were made" in caplog.text
    assert "members vetted" not in caplog.text
    assert {name: body for name, body in backed_up.files().items() if not name.startswith("_proofs/")} == before
    assert backed_up.staged() == []


def test_a_remote_that_holds_nothing_is_not_verified(backed_up: Place) -> None:
    for snapshot in backed_up.snapshots():
        shutil.rmtree(snapshot)

    with pytest.raises(UnprovenError, match="1 failing: vps1\nHINT: vps1: docs/runbooks/alert-BackupNeverSucceeded.md"):
        verify_integrity()


def test_a_rotten_artifact_costs_no_other_its_look(backed_up: Place) -> None:
    rot(backed_up.snapshots()[0] / SITE)

    with pytest.raises(UnprovenError, match="vps1 website"):
        verify_integrity()

    assert [name.rsplit("/", 1)[1] for name in proofs().opened] == ["system-config.tar.zst.age"]


def test_a_rehearsal_restores_everything_to_scratch_and_records_how_long_it_took(
    backed_up: Place, caplog: pytest.LogCaptureFixture
) -> None:
    before = describe(backed_up.site)

    rehearse_restores()

    assert "# Rehearsal: all restored, evidence equal" in caplog.text
    assert describe(backed_up.site) == before
    assert backed_up.staged() == []
    snapshot = backed_up.snapshots()[0].name
    assert proofs().rehearsed() == {"website": snapshot, "system-config": snapshot}
    assert all(one.rto_seconds > 0 for one in proofs().good.values())
    assert prune.fn("vps1", backed_up.staging, dry_run=True).question.rules.rehearsed == proofs().rehearsed()
    check_backup_health()
    assert figures(backed_up)["backup_rto_seconds"]["vps1 website"] == proofs().good["website"].rto_seconds
    assert figures(backed_up)["backup_rehearsal_success"]["vps1 website"] == 1


def test_one_data_type_that_cannot_be_restored_stops_no_other_and_makes_the_next_look_red(backed_up: Place) -> None:
    rot(backed_up.snapshots()[0] / SITE)

    with pytest.raises(UnprovenError, match=r"1 failing: vps1 website\n.*alert-RestoreRehearsalFailed"):
        rehearse_restores()

    assert set(proofs().rehearsed()) == {"system-config"}
    assert "expected" in (proofs().last["website"].failure or "")
    with pytest.raises(UnprovenError, match="vps1 website"):
        check_backup_health()
    assert figures(backed_up)["backup_rehearsal_success"]["vps1 website"] == 0

    backup_vps1(only=["website"])
    rehearse_restores(data_types=["website"])

    assert set(proofs().rehearsed()) == {"system-config", "website"}


def test_the_drill_goes_in_the_order_of_need_and_tells_what_would_be_lost(
    backed_up: Place, caplog: pytest.LogCaptureFixture
) -> None:
    drill_disaster_recovery()

    text = caplog.text
    assert "# Disaster recovery drill: all restored, evidence equal" in text
    snapshot = backed_up.snapshots()[0].name
    assert text.index(f"| 1 | vps1 system-config | {snapshot} | 0 h | 24 h |") < text.index("| 2 | vps1 website |")
    assert "Beside the promises: 0 too old, 0 too slow." in text


def test_what_comes_back_later_than_promised_is_told_and_costs_no_proof(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    def hasty(document: dict[str, Any]) -> None:
        one_server(document)
        document["servers"]["vps1"]["data_types"]["website"]["rto_hours"] = 0.00001

    place.create(hasty)
    backup_vps1()

    drill_disaster_recovery()

    assert "Beside the promises: 0 too old, 1 too slow." in caplog.text
    assert "| 🟡 warning | 2 | vps1 website |" in caplog.text
    assert set(proofs().rehearsed()) == {"website", "system-config"}
    check_backup_health()
    assert "s, promised 1e-05 h | docs/runbooks/alert-RestoreTooSlow.md |" in caplog.text


def test_the_drill_of_an_empty_remote_says_that_everything_is_lost(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.create(one_server)

    with pytest.raises(UnprovenError, match="2 failing: vps1 system-config; vps1 website"):
        drill_disaster_recovery()

    assert "| none | everything | 24 h | never |" in caplog.text


def test_a_rehearsal_of_a_data_type_that_nobody_promised_is_refused_and_one_of_some_is_no_sign_of_life(
    backed_up: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening() as (url, got):
        monkeypatch.setenv("GX_DEADMAN_URL", f"{url}/ping/{{flow}}")
        for words in (["web-site"], ["website", "web-site"]):
            with pytest.raises(InventoryError, match="data_types"):
                rehearse_restores(data_types=words)
        assert proofs().last == {}

        rehearse_restores(data_types=["website"])
        assert got == []
        rehearse_restores()
        assert [path for path, _ in got] == ["/ping/rehearse-restores"]


def test_a_look_that_could_not_be_made_is_no_look_and_ends_no_alert(place: Place) -> None:
    login = behind_a_login(place, one_server)
    backup_vps1()
    site = place.snapshots()[0] / SITE
    whole = site.read_bytes()
    rot(site)
    with pytest.raises(UnprovenError, match="alert-BackupIntegrityFailed"):
        verify_integrity()
    told = (place.metrics / "gx-backup-verify-integrity.prom").read_text()
    assert 'backup_integrity_failures{flow="verify-integrity"} 1.0' in told
    login.rename(place.root / "ended")

    with pytest.raises(UnprovenError, match="1 failing: vps1\n"):
        verify_integrity()

    assert (place.metrics / "gx-backup-verify-integrity.prom").read_text() == told
    (place.root / "ended").rename(login)
    site.write_bytes(whole)
    verify_integrity()
    seen = (place.metrics / "gx-backup-verify-integrity.prom").read_text()
    assert 'backup_integrity_failures{flow="verify-integrity"} 0.0' in seen
