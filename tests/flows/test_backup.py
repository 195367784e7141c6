"""Backups as the operator starts them: what is safe is safe, what is missing is said, and nothing is ever worse off."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import flow

from flows.backup_vps1 import backup_vps1
from flows.recipes import back_up
from gxbackup.errors import BackupError, IncompleteBackupError, InventoryError, LockedError, SealingError, SetupError
from gxbackup.locks import locked
from tests.flows.conftest import Place, manifest_of


def test_a_backup_leaves_a_proven_signed_snapshot_and_an_empty_staging(place: Place) -> None:
    snapshot = backup_vps1()

    (folder,) = place.snapshots()
    manifest = manifest_of(folder)
    assert folder.name == snapshot
    assert manifest.complete
    assert manifest.data_types() == ("website", "system-config")
    assert manifest.artifacts[0].evidence["files"] == 412
    assert sorted(path.name for path in folder.iterdir()) == [
        "RECOVER.md",
        "files",
        "manifest.json",
        "manifest.json.sig",
    ]
    assert place.staged() == []


def test_each_manifest_names_the_one_before_it(place: Place) -> None:
    backup_vps1()
    backup_vps1()

    first, second = place.snapshots()
    previous = manifest_of(second).previous
    assert previous is not None
    assert previous.snapshot == first.name
    assert manifest_of(first).sha256() == previous.sha256


@flow
def backup_often() -> str:
    return back_up("vps1", rpo_hours=24)


def test_what_has_not_changed_is_referred_to_and_only_what_has_is_sent(place: Place) -> None:
    first = backup_vps1()
    (place.site / "added.html").write_text("new\n")

    backup_often()

    second = place.snapshots()[-1]
    assert {artifact.data_type: artifact.held_in for artifact in manifest_of(second).artifacts} == {
        "website": None,
        "system-config": first,
    }
    assert [path.name for path in (second / "files").iterdir()] == ["website"]


def test_an_earlier_copy_that_the_remote_damaged_is_not_referred_to_but_sent_anew(place: Place) -> None:
    backup_vps1()
    (sealed,) = place.snapshots()[0].rglob("website.tar.zst.age")
    content = bytearray(sealed.read_bytes())
    content[len(content) // 2] ^= 1
    sealed.write_bytes(content)

    backup_often()

    (website, config) = manifest_of(place.snapshots()[-1]).artifacts
    assert website.held_in is None
    assert config.held_in is not None


def test_what_was_sealed_to_other_recipients_is_sealed_anew(place: Place) -> None:
    backup_vps1()
    document = yaml.safe_load(place.inventory_file.read_text())
    document["recipients"]["rehearsal"] = place._age_key("another")
    place.inventory_file.write_text(yaml.safe_dump(document))
    place.play("vps1")

    backup_often()

    assert [artifact.held_in for artifact in manifest_of(place.snapshots()[-1]).artifacts] == [None, None]


def test_a_missing_path_costs_no_other_data_type_its_backup_and_ends_red(place: Place) -> None:
    shutil.rmtree(place.site)

    with pytest.raises(
        IncompleteBackupError, match="1 of 2 data types are missing: website: .*gxcoin.money"
    ) as failure:
        backup_vps1()

    assert "HINT: safe in this snapshot: system-config" in str(failure.value)
    manifest = manifest_of(place.snapshots()[0])
    assert not manifest.complete
    assert [gap.data_type for gap in manifest.missing] == ["website"]
    assert manifest.data_types() == ("system-config",)
    assert place.staged() == []


def test_an_empty_source_is_an_error_not_a_small_backup(place: Place) -> None:
    shutil.rmtree(place.etc)
    place.etc.mkdir()

    with pytest.raises(IncompleteBackupError, match="system-config"):
        backup_vps1()

    assert manifest_of(place.snapshots()[0]).data_types() == ("website",)


def test_where_nothing_could_be_saved_there_is_no_snapshot(place: Place) -> None:
    shutil.rmtree(place.site)
    shutil.rmtree(place.etc)

    with pytest.raises(IncompleteBackupError, match="2 of 2 data types are missing") as failure:
        backup_vps1()

    assert "safe in this snapshot: nothing" in str(failure.value)
    assert place.snapshots() == []


def test_only_takes_just_what_it_names(place: Place) -> None:
    backup_vps1(only=["system-config"])

    assert manifest_of(place.snapshots()[0]).data_types() == ("system-config",)


def test_only_with_an_unknown_name_touches_nothing(place: Place) -> None:
    with pytest.raises(InventoryError, match="data type 'websit': not protected on vps1"):
        backup_vps1(only=["websit"])

    assert place.files() == {}
    assert place.staged() == []


def test_large_artifacts_are_stored_in_parts(place: Place) -> None:
    place.create(lambda document: document["remote"].update(part_size_bytes=1024**2))

    backup_vps1()

    parts = sorted(path.name for path in (place.snapshots()[0] / "files" / "website").iterdir())
    assert parts[0] == "website.tar.zst.age.000"
    assert len(parts) > 2


def test_a_sealed_file_that_is_proven_on_the_remote_makes_room_for_the_next(
    place: Place, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import recipes

    place.remote = small_disk  # another filesystem: what is sent there is copied
    place.create()
    collect, seen = recipes.collect, {}

    def look(server: str, data_type: str, *others: Any) -> Any:
        seen[data_type] = [file.name for file in place.staging.rglob("*.age*")]
        return collect(server, data_type, *others)

    monkeypatch.setattr(recipes, "collect", look)

    backup_vps1()

    assert seen == {"website": [], "system-config": []}


def test_the_second_run_at_once_ends_at_once_and_nothing_is_mixed(place: Place) -> None:
    backup_vps1()
    before = place.files()

    with (
        locked(str(place.remote), "vps1", "backup of vps1"),
        pytest.raises(LockedError, match="another run is at work"),
    ):
        backup_vps1()

    assert place.files() == before


def test_a_key_of_another_host_stops_it_before_anything_is_read(place: Place) -> None:
    place.play("vps3")

    with pytest.raises(SetupError, match="expected a key of host vps1, seen the key of vps3"):
        backup_vps1()

    assert place.files() == {}


def test_recipients_that_are_not_set_stop_it(place: Place) -> None:
    place.create(lambda document: document["recipients"].update(recovery=None))

    with pytest.raises(InventoryError, match=r"recipients\.recovery: expected an age recipient"):
        backup_vps1()

    assert place.files() == {}


def test_a_wrong_recipient_stops_it_before_anything_is_read(place: Place) -> None:
    wrong = "age1" + "q" * 58
    place.create(lambda document: document["recipients"].update(recovery=wrong))

    with pytest.raises(SealingError, match="age refuses them"):
        backup_vps1()

    assert place.files() == {}


def test_a_wrong_rclone_remote_name_is_said_and_not_retried(place: Place) -> None:
    place.create(lambda document: document["remote"].update(path="gdrive-bakcup:gx-backups"))

    with pytest.raises(BackupError, match="gdrive-bakcup") as failure:
        backup_vps1()

    assert not failure.value.retryable
    assert place.staged() == []
