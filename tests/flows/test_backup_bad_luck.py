"""Backups that meet a remote, a disk, a clock or a past that is not as it should be."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.backup_vps1 import backup_vps1
from gxbackup import catalog, clock, layout, retention
from gxbackup.errors import (
    BackupError,
    IncompleteBackupError,
    IntegrityError,
    InventoryError,
    RemoteError,
    RestoreRefusedError,
    SetupError,
)
from tasks import host
from tests import small_disks as disks
from tests.flows.conftest import Place, manifest_of, restore


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_an_unreachable_remote_is_said_and_leaves_nothing(
    place: Place, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.root / "rclone.conf").write_text(
        f"[away]\ntype = webdav\nurl = http://127.0.0.1:{closed_port}\nvendor = other\n"
    )
    place.create(lambda document: document["remote"].update(path="away:gx-backups", call_timeout_seconds=20))
    without_waiting(monkeypatch)

    with pytest.raises(RemoteError, match="away:gx-backups") as failure:
        backup_vps1()

    assert failure.value.retryable
    assert place.staged() == []


def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry at once, so that the test need not wait as a host would."""
    from flows import recipes

    for name in ("survey", "upload", "verify", "commit"):
        quick = getattr(recipes, name).with_options(retry_delay_seconds=0, retry_jitter_factor=None)
        monkeypatch.setattr(recipes, name, quick)


def test_no_room_in_staging_is_known_before_the_work(place: Place, small_disk: Path) -> None:
    place.staging = small_disk
    place.play("vps1")

    with pytest.raises(IncompleteBackupError, match=r"needs up to \d+ bytes and \d+ to spare"):
        backup_vps1()

    assert place.files() == {}
    assert place.staged() == []


def test_a_remote_that_is_full_keeps_what_it_had(
    place: Place, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_waiting(monkeypatch)
    place.remote = small_disk
    place.create()
    backup_vps1(only=["system-config"])
    before = place.files()
    disks.leave_free(small_disk, 2 * 1024**2)

    with pytest.raises(BackupError, match=r"space|room|full"):
        backup_vps1(only=["website"])

    after = place.files()
    assert {name: after[name] for name in before} == before
    assert place.staged() == []


def test_a_clock_behind_the_newest_snapshot_stops_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    backup_vps1()
    before = place.files()
    monkeypatch.setattr(clock, "now", lambda: datetime.now(UTC) - timedelta(minutes=4))

    with pytest.raises(SetupError, match="clock: expected later than the newest snapshot"):
        backup_vps1()

    assert place.files() == before


def test_a_snapshot_that_a_fast_clock_named_is_moved_out_and_runs_are_green_again(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    backup_vps1()
    monkeypatch.setattr("tasks.survey.prefect_server_time", lambda: None)  # away at that moment
    monkeypatch.setattr(clock, "now", lambda: datetime.now(UTC) + timedelta(days=400))
    ahead = backup_vps1()
    monkeypatch.setattr(clock, "now", lambda: datetime.now(UTC))

    with pytest.raises(SetupError, match="clock: expected later than the newest snapshot") as stopped:
        backup_vps1()
    assert f"one that was fast named vps1-website/{ahead}: docs/runbooks/broken-chain.md" in str(stopped.value)
    (place.remote / "vps1-website" / ahead).rename(tmp_path / ahead)
    with pytest.raises(IntegrityError, match=f"{ahead}: this host wrote it last, and the remote no longer holds it"):
        backup_vps1()
    backup_vps1()


def test_three_backups_within_one_second_are_named_one_after_the_other_and_pruned(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = datetime.now(UTC).replace(microsecond=0)
    monkeypatch.setattr(clock, "now", lambda: began)

    for _ in range(3):
        backup_vps1()

    named = [layout.snapshot_id(began + timedelta(seconds=number)) for number in range(3)]
    assert sorted({Path(name).parts[1] for name in place.files()}) == named


def test_a_clock_an_hour_ahead_of_the_prefect_server_stops_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    backup_vps1()
    before = place.files()
    monkeypatch.setattr(clock, "now", lambda: datetime.now(UTC) + timedelta(hours=1))

    with pytest.raises(SetupError, match="clock: expected within 5 minutes of the Prefect server"):
        backup_vps1()

    assert place.files() == before
    assert place.staged() == []


def change(folder: Path) -> None:
    file = folder / "manifest.json"
    file.write_text(file.read_text().replace('"keep_days": 30', '"keep_days": 31'))


def sign_as_a_stranger(folder: Path) -> None:
    (folder / "manifest.json.sig").write_text("QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\n")


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def lose_the_signature(folder: Path) -> None:
    (folder / "manifest.json.sig").unlink()


@pytest.mark.parametrize("harm", [change, sign_as_a_stranger, remove, lose_the_signature])
def test_a_past_that_was_tampered_with_is_red_but_todays_backup_is_kept(place: Place, harm: Any) -> None:
    backup_vps1()
    backup_vps1()
    harm(place.snapshots()[0])

    with pytest.raises(IntegrityError, match="the past does not fit together"):
        backup_vps1()

    assert manifest_of(place.snapshots()[-1]).complete


def test_a_remote_that_was_rolled_back_shows(place: Place) -> None:
    backup_vps1()
    backup_vps1()
    shutil.rmtree(place.snapshots()[-1])

    with pytest.raises(IntegrityError, match="this host wrote it last, and the remote no longer holds it"):
        backup_vps1()


def test_a_newest_manifest_that_is_lost_stays_red_and_what_it_was_of_is_not_swept(place: Place, tmp_path: Path) -> None:
    backup_vps1()
    backup_vps1()
    lost = place.snapshots()[-1]
    (lost / "manifest.json").unlink()

    with pytest.raises(IntegrityError, match=f"{lost.name}: this host wrote it last"):
        backup_vps1()
    for _ in range(2):
        with pytest.raises(IntegrityError, match=f"{lost.name}: removed before its time"):
            backup_vps1()

    held = catalog.load(host.remote(), host.inventory(), "vps1", tmp_path)
    plan = retention.plan(held, host.inventory(), clock.now() + timedelta(days=3))
    assert not [path for path in plan.deletions if lost.name in path]


def test_what_the_remote_damaged_is_missing_and_does_not_stay_there(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import recipes

    without_waiting(monkeypatch)
    send = recipes.upload

    def damaging_upload(data_type: str, remote_dir: str, snapshot: str, *others: Any) -> None:
        send(data_type, remote_dir, snapshot, *others)
        if data_type == "website":
            file = place.remote / remote_dir / snapshot / "files" / "website" / "website.tar.zst.age"
            body = bytearray(file.read_bytes())
            body[1000] ^= 1
            file.write_bytes(body)

    monkeypatch.setattr(recipes, "upload", damaging_upload)

    with pytest.raises(IncompleteBackupError, match=r"website: .*expected sha256"):
        backup_vps1()

    (folder,) = place.snapshots()
    assert manifest_of(folder).data_types() == ("system-config",)
    assert not (folder / "files" / "website" / "website.tar.zst.age").exists()


def test_a_server_that_takes_no_report_costs_no_backup(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    from tasks import report

    def refuse(**_: Any) -> None:
        raise httpx.ConnectError("away")

    monkeypatch.setattr(report, "create_markdown_artifact", refuse)

    backup_vps1()

    assert manifest_of(place.snapshots()[0]).complete


def test_no_secret_reaches_log_manifest_or_report(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    backup_vps1()

    key = (place.signing_key("vps1")).read_text().splitlines()[1]
    told = caplog.text + json.dumps({name: body.decode("latin-1") for name, body in place.files().items()})
    assert key not in told
    assert "not-a-real-one" not in told


def test_a_full_staging_disk_in_mid_stream_leaves_nothing(
    place: Place, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gxbackup import staging

    (place.site / "noise.bin").write_bytes(random.Random(1).randbytes(40 * 1024**2))
    place.staging = small_disk
    place.play("vps1")
    monkeypatch.setattr(staging, "SPARE_BYTES", -(2**40))  # the estimate was wrong: the disk fills while it is written

    with pytest.raises(IncompleteBackupError, match="no room left while writing"):
        backup_vps1(only=["website"])

    assert place.files() == {}
    assert place.staged() == []


def test_a_held_artifact_that_is_gone_before_its_time_makes_the_next_backup_red(place: Place) -> None:
    backup_vps1()
    (place.snapshots()[0] / "files" / "website" / "website.tar.zst.age").unlink()

    with pytest.raises(IntegrityError, match=r"website\.tar\.zst\.age is gone from the remote before its time"):
        backup_vps1()

    assert manifest_of(place.snapshots()[-1]).complete


def test_a_held_artifact_that_was_cut_is_told_with_its_sizes_by_backup_and_restore(place: Place) -> None:
    cut = backup_vps1()
    file = place.snapshots()[0] / "files" / "website" / "website.tar.zst.age"
    expected_bytes = file.stat().st_size
    os.truncate(file, 100)
    what = rf"website\.tar\.zst\.age is damaged on the remote: expected {expected_bytes} bytes, seen 100 bytes"

    with pytest.raises(RestoreRefusedError, match=f"website {cut}: refused: files/website/{what}"):
        restore(snapshot=cut)
    with pytest.raises(IntegrityError, match=f"{cut}: files/website/{what}"):
        backup_vps1()

    assert manifest_of(place.snapshots()[-1]).complete


def test_a_remote_without_a_colon_is_no_folder_beside_the_program(place: Place) -> None:
    place.create(lambda document: document["remote"].update(path="gdrive-backup"))

    with pytest.raises(InventoryError, match=r"remote\.path: expected `remote:folder`"):
        backup_vps1()
