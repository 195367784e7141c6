"""Restores as the operator starts them: all of it back, or everything as it was."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from estate import await_condition
from site_tree import describe

from flows.backup_vps1 import backup_vps1
from flows.backup_vps3 import backup_vps3
from flows.prune_snapshots import prune_snapshots
from flows.restore_compose_config import restore_compose_config
from gxbackup import locks
from gxbackup.errors import RestoreRefusedError, SealingError, SetupError
from gxbackup.locks import locked
from tasks import approval
from tests.flows.conftest import Place, beside, restore


def test_a_destroyed_website_comes_back_equal_in_every_byte_and_attribute(place: Place) -> None:
    before = describe(place.site)
    backup_vps1()
    shutil.rmtree(place.site)

    restore(mode="in-place", approve=True)

    assert describe(place.site) == before
    assert beside(place) == []
    assert place.staged() == []


def test_a_destroyed_compose_folder_comes_back_equal(place: Place) -> None:
    folder = place.root / "fabric"
    folder.mkdir()
    (folder / "docker-compose.yaml").write_text("services: {ca: {image: fabric-ca}}\n")
    (folder / ".env").write_text("CA_PASSWORD=x\n")
    (folder / ".env").chmod(0o600)

    def move(document: dict[str, Any]) -> None:
        compose = document["servers"]["vps3"]["data_types"]["compose-config"]
        compose["source"]["root"] = str(folder)
        document["servers"]["vps3"]["data_types"] = {"compose-config": compose}

    place.create(move)
    place.play("vps3")
    before = describe(folder)
    backup_vps3()
    shutil.rmtree(folder)

    restore_compose_config(mode="in-place", approve=True)

    assert describe(folder) == before


def test_what_was_there_stays_beside_the_restored_tree(place: Place) -> None:
    before = describe(place.site)
    backup_vps1()
    (place.site / "index.html").write_text("hacked")
    (place.site / "shell.php").write_text("<?php")
    harmed = describe(place.site)

    restore(mode="in-place", approve=True)

    assert describe(place.site) == before
    (kept,) = beside(place)
    assert kept.startswith(".gxcoin.money.before-")
    assert describe(place.site.parent / kept) == harmed


def test_safety_copies_are_told_until_a_person_removes_them(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    backup_vps1()
    restore(mode="in-place", approve=True)
    (kept,) = beside(place)
    elsewhere = place.root / "elsewhere ünïcödé"
    elsewhere.mkdir()
    restore(mode="in-place", target=str(elsewhere), approve=True)
    (kept_elsewhere,) = place.root.glob(f".{elsewhere.name}.before-*")
    overwritten = place.staging.parent / "safety" / "overlay-20261101T020000.000000Z"
    overwritten.mkdir()
    (overwritten / "before.tar").write_bytes(bytes(1024**2))

    prune_snapshots(server="vps1")

    assert f"- `{place.site.parent / kept}`: 0 days old, " in caplog.text
    assert f"- `{kept_elsewhere}`: 0 days old, " in caplog.text
    assert f"- `{overwritten}`: " in caplog.text
    assert "days old, 1.0 MiB" in caplog.text
    assert beside(place) == [kept]
    assert overwritten.exists()


def test_plan_is_the_default_and_touches_nothing(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    backup_vps1()
    (place.site / "private" / ".env").write_text("changed since")
    (place.site / "added-since.txt").write_text("new")
    before = describe(place.site)

    restore()

    assert describe(place.site) == before
    assert beside(place) == []
    assert "changed: private/.env" in caplog.text
    assert "removed: added-since.txt" in caplog.text


def test_an_unchanged_site_with_hard_links_shows_no_change_in_plan_and_in_place(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    backup_vps1()

    restore()
    restore(mode="in-place", approve=True)

    assert caplog.text.count("- 0 added\n- 0 changed\n- 0 removed") >= 2
    assert "changed: " not in caplog.text


def test_plan_refuses_what_in_place_would_refuse(place: Place, tmp_path: Path) -> None:
    backup_vps1()
    (place.site / "uploads").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place.site / "uploads"], check=True)
    try:
        for mode in ("plan", "in-place"):
            with pytest.raises(RestoreRefusedError, match="has mount points inside"):
                restore(mode=mode, approve=True)
    finally:
        subprocess.run(["umount", place.site / "uploads"], check=True)
    with pytest.raises(RestoreRefusedError, match="expected a folder to put it in") as refused:
        restore(target=str(tmp_path / "no such" / "site"))
    assert f"on a new machine: mkdir -p '{tmp_path}/no such'" in str(refused.value)


def test_a_disk_that_is_not_mounted_any_more_is_told_before_anything_is_put_in_its_place(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    disk = place.site.parent
    subprocess.run(["mount", "--bind", disk, disk], check=True)
    try:
        backup_vps1()
        restore()
        assert "not mounted" not in caplog.text
    finally:
        subprocess.run(["umount", disk], check=True)

    restore()
    assert caplog.text.count(f"- its disk is not mounted: it lay on one at {disk}; ") == 1
    restore(mode="in-place", approve=True)
    assert caplog.text.count(f"- its disk is not mounted: it lay on one at {disk}; ") > 1
    restore(target=str(disk / "elsewhere"))
    assert "is not mounted" not in caplog.text.rpartition("elsewhere")[2]


def test_an_approved_restore_waits_for_the_end_of_a_running_backup(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup_vps1()
    (place.site / "index.html").write_text("hacked")
    backup = ExitStack()
    backup.enter_context(locked(str(place.remote), "vps1", "backup of vps1"))
    monkeypatch.setattr(locks, "SECONDS_BETWEEN_TRIES", 0.05)
    threading.Thread(target=lambda: (until(lambda: "waiting up to 30 min" in caplog.text), backup.close())).start()

    restore(mode="in-place", approve=True)

    assert "vps1: waiting up to 30 min for another run's end: backup of vps1" in caplog.text
    assert (place.site / "index.html").read_text() != "hacked"


def until(ready: Callable[[], bool]) -> None:
    await_condition("the restore to wait", ready, 120)


def test_a_restore_that_nobody_approves_in_time_says_so_and_touches_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup_vps1()
    (place.site / "index.html").write_text("hacked")
    monkeypatch.setattr(approval, "_WAIT_SECONDS", 1)
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "of-this-test")

    with pytest.raises(RestoreRefusedError, match="not approved: expected an answer within .* h, seen none"):
        restore(mode="in-place")

    assert (place.site / "index.html").read_text() == "hacked"
    assert beside(place) == []


def test_scratch_unpacks_into_a_new_folder_and_compares(place: Place, tmp_path: Path) -> None:
    backup_vps1()

    restore(mode="scratch", target=str(tmp_path / "look"))

    assert describe(tmp_path / "look") == describe(place.site)


def test_scratch_refuses_a_folder_with_something_in_it(place: Place, tmp_path: Path) -> None:
    backup_vps1()
    (tmp_path / "mine").write_text("mine")

    with pytest.raises(RestoreRefusedError, match="expected nothing or an empty folder"):
        restore(mode="scratch", target=str(tmp_path))

    assert (tmp_path / "mine").read_text() == "mine"


def test_in_place_without_approval_touches_nothing(place: Place) -> None:
    backup_vps1()
    before = describe(place.site)

    with pytest.raises(RestoreRefusedError, match="nobody approved"):
        restore(mode="in-place")

    assert describe(place.site) == before
    assert beside(place) == []


def test_a_wrong_identity_is_said_before_the_target_is_touched(place: Place) -> None:
    backup_vps1()
    stranger = place.root / "keys" / "stranger.txt"
    subprocess.run(["age-keygen", "-o", stranger], check=True, stderr=subprocess.DEVNULL)
    stranger.chmod(0o600)
    place.play("vps1", GX_IDENTITY_FILE=str(stranger))
    before = describe(place.site)

    with pytest.raises(SealingError, match="other recipients than this identity"):
        restore(mode="in-place", approve=True)

    assert describe(place.site) == before
    assert beside(place) == []


def test_a_mistyped_identity_is_said_before_anything_is_asked_of_the_remote(place: Place) -> None:
    mistyped = place.root / "keys" / "mistyped.txt"
    mistyped.touch(mode=0o600)
    mistyped.write_text("AGE-SECRET-KEY-1MISTYPED\n")
    shutil.rmtree(place.remote)
    place.play("vps1", GX_IDENTITY_FILE=str(mistyped))

    with pytest.raises(SetupError, match=f"age identity {mistyped}: expected a line AGE-SECRET-KEY-1…"):
        restore(mode="in-place", approve=True)


def test_the_rehearsal_identity_restores_too(place: Place, tmp_path: Path) -> None:
    backup_vps1()
    place.play("vps1", GX_IDENTITY_FILE=str(place.root / "keys" / "rehearsal.txt"))

    restore(mode="scratch", target=str(tmp_path / "look"))

    assert describe(tmp_path / "look") == describe(place.site)


def test_no_identity_is_said_clearly(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    backup_vps1()
    monkeypatch.delenv("GX_IDENTITY_FILE")

    with pytest.raises(SetupError, match="GX_IDENTITY_FILE is not set"):
        restore()


def test_pruning_by_hand_says_what_it_would_do_and_does_nothing_by_default(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    backup_vps1()
    before = place.files()

    prune_snapshots(server="vps1")

    assert place.files() == before
    assert "newest good copy" in caplog.text


def test_in_place_on_another_known_host_is_refused(place: Place) -> None:
    backup_vps1()
    place.play("vps3")
    before = describe(place.site)

    with pytest.raises(RestoreRefusedError, match="vps1 lives on vps1, and this host is vps3"):
        restore(mode="in-place", approve=True)

    assert describe(place.site) == before
