"""Google Drive keeps two files of one name: that harms the one snapshot they lie in, and nothing beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from site_tree import describe

from flows.backup_vps1 import backup_vps1
from gxbackup import catalog, clock, layout, pruning, retention, signing
from gxbackup.errors import IntegrityError, RestoreRefusedError
from gxbackup.model import Artifact, Catalog, Manifest, Part
from tasks import host
from tests.conformance import drive_emulator
from tests.conformance.drive_emulator import Emulator
from tests.conformance.drive_store import FOLDER, Entry
from tests.flows.conftest import Place, restore

ROOT = ("gx-backups", "vps1-website")
ARTIFACT = layout.artifact_path("files", "website", "website.tar")
LOGIN = '{"access_token":"old","refresh_token":"good","expiry":"2020-01-01T00:00:00Z"}'


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with drive_emulator.running(tmp_path_factory.mktemp("drive")) as running:
        yield running


@pytest.fixture
def on_drive(place: Place, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Keep this place's snapshots on an emulated Google Drive."""
    emulator.drive.reset()
    reach(emulator, place, monkeypatch)
    place.create(lambda document: document["remote"].update(path="drive:gx-backups"))
    return emulator


def reach(emulator: Emulator, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this place's rclone know the emulated Google Drive as `drive:`."""
    for name, value in emulator.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")  # Prefect's own server is no part of Google
    (place.root / "rclone.conf").write_text(
        f"[drive]\ntype = drive\nclient_id = gx\nclient_secret = hidden\nscope = drive\ntoken = {LOGIN}\n"
    )


def doubled(emulator: Emulator, *path: str, body: bytes = b"another") -> Entry:
    """Put one more file of a name that is there beside it."""
    (there,) = emulator.drive.find(*ROOT, *path)
    return emulator.drive.add({"name": path[-1], "parents": [there.parent]}, body)


def stored(place: Place, moment: datetime, tmp_path: Path) -> str:
    """Put a snapshot of a website on the remote as a run of that moment would, and return its id."""
    body, snapshot = moment.isoformat().encode(), layout.snapshot_id(moment)
    digest = hashlib.sha256(body).hexdigest()
    artifact = Artifact(
        data_type="website", kind="directory", path=ARTIFACT, keep_days=30, sealed_size_bytes=len(body),
        sealed_sha256=digest, plain_size_bytes=1, plain_sha256=digest,
        parts=(Part(path=ARTIFACT, size_bytes=len(body), sha256=digest),),
    )  # fmt: skip
    manifest = Manifest(
        snapshot=snapshot, server="vps1", host="vps1", started_at=moment, finished_at=moment, complete=True,
        artifacts=(artifact,),
    )  # fmt: skip
    area = tmp_path / snapshot
    (area / ARTIFACT).parent.mkdir(parents=True)
    (area / ARTIFACT).write_bytes(body)
    host.remote().upload(area, [ARTIFACT], f"vps1-website/{snapshot}")
    catalog.publish(host.remote(), manifest, "page", signing.load_key(place.signing_key("vps1")), "vps1-website", area)
    return snapshot


def load(tmp_path: Path) -> Catalog:
    return catalog.load(host.remote(), host.inventory(), "vps1", tmp_path)


@pytest.mark.parametrize("name", ["RECOVER.md", "manifest.json"])
def test_one_in_an_older_snapshot_stops_neither_a_restore_of_another_nor_a_backup(
    place: Place, on_drive: Emulator, tmp_path: Path, name: str
) -> None:
    older = backup_vps1()
    (place.site / "index.html").write_text("newer")
    newer = backup_vps1()
    doubled(on_drive, older, *name.split("/"))

    restore(mode="scratch", target=str(tmp_path / "look"))

    assert describe(tmp_path / "look") == describe(place.site)
    why = rf"two files of one name: {older}/{name} \(`rclone dedupe`"
    with pytest.raises(RestoreRefusedError, match=f"{older}: refused: it is not trusted: {why}"):
        restore(mode="scratch", snapshot=older, target=str(tmp_path / "other"))
    with pytest.raises(IntegrityError, match=why) as red:
        backup_vps1()

    assert "removed before its time" not in str(red.value)
    found = load(tmp_path)
    assert [bad.snapshot for bad in found.rejected] == [older]
    assert (found.snapshots[0].snapshot, len(found.snapshots)) == (newer, 2)
    assert len(on_drive.drive.find(*ROOT, older, *name.split("/"))) == 2


def test_one_outside_of_snapshots_is_a_strangers_and_a_backup_is_green(
    place: Place, on_drive: Emulator, tmp_path: Path
) -> None:
    first = backup_vps1()
    (folder,) = on_drive.drive.find(*ROOT)
    for _ in range(2):
        on_drive.drive.add({"name": "notes.txt", "parents": [folder.id]}, b"x")
        on_drive.drive.add({"name": "empty", "parents": [folder.id], "mimeType": FOLDER})

    second = backup_vps1()

    found = load(tmp_path)
    assert ([held.snapshot for held in found.snapshots], found.rejected) == ([first, second], ())
    assert found.strangers == ("notes.txt",)
    assert len(on_drive.drive.find(*ROOT, "notes.txt")) == 2


def test_two_snapshot_folders_of_one_name_are_one_that_is_not_trusted(
    place: Place, on_drive: Emulator, tmp_path: Path
) -> None:
    first, second = backup_vps1(), backup_vps1()
    (folder,) = on_drive.drive.find(*ROOT)
    on_drive.drive.add({"name": first, "parents": [folder.id], "mimeType": FOLDER})

    found = load(tmp_path)

    assert [(bad.snapshot, first in bad.reason) for bad in found.rejected] == [(first, True)]
    assert [held.snapshot for held in found.snapshots] == [second]


def test_a_prune_deletes_nothing_of_such_a_snapshot_nor_of_such_a_leftover_nor_the_files_themselves(
    place: Place, on_drive: Emulator, tmp_path: Path
) -> None:
    remote, inventory, now = host.remote(), host.inventory(), clock.now()
    made = [stored(place, now - timedelta(days=age), tmp_path) for age in (80, 79, 78, 77, 3, 2, 1)]
    doubled(on_drive, made[0], "RECOVER.md")
    doubled(on_drive, made[2], *ARTIFACT.split("/"))
    remote.delete_file(f"vps1-website/{made[2]}/manifest.json")
    (folder,) = on_drive.drive.find(*ROOT)
    for _ in range(2):
        on_drive.drive.add({"name": "notes.txt", "parents": [folder.id]}, b"x")
    found = load(tmp_path)
    sha256 = retention.plan(found, inventory, now).sha256
    plan = retention.plan(found, inventory, now, confirm_sha256=sha256)
    going = [held for held in found.snapshots if held.snapshot in (made[1], made[3])]

    pruning.execute(plan, remote, relist=lambda: load(tmp_path))

    assert len(plan.deletions) == sum(len(held.files) for held in going) == 8
    left = load(tmp_path)
    assert [held.snapshot for held in left.snapshots] == made[4:]
    assert left.rejected == found.rejected
    assert [bad.snapshot for bad in left.rejected] == [made[0], made[2]]
    assert (left.leftovers, left.strangers) == ((), ("notes.txt",))
    doubles = ((made[0], "RECOVER.md"), (made[2], *ARTIFACT.split("/")), ("notes.txt",))
    assert [len(on_drive.drive.find(*ROOT, *path)) for path in doubles] == [2, 2, 2]


@pytest.mark.parametrize("listings", [1, 4, 60])
def test_one_that_an_upload_made_of_the_same_bytes_is_one_file_whenever_it_shows(
    place: Place, on_drive: Emulator, tmp_path: Path, listings: int
) -> None:
    on_drive.drive.fail("POST", "uploadType=multipart", status=503, reason="backendError", done=True, unlisted=listings)

    snapshot = backup_vps1()
    for _ in range(60):
        for entry in on_drive.drive.entries.values():
            entry.is_listed()

    twins = on_drive.drive.find(*ROOT, snapshot, *ARTIFACT.split("/"))
    assert len({twin.body for twin in twins}) == 1
    assert len(twins) == (1 if listings == 1 else 2)
    assert load(tmp_path).rejected == ()
    restore(mode="scratch", target=str(tmp_path / "look"))
    assert describe(tmp_path / "look") == describe(place.site)
    backup_vps1()


@pytest.mark.parametrize("made_before", [0, 1, 2, 4])
def test_a_folder_of_which_the_answer_was_lost_is_made_once(
    place: Place, on_drive: Emulator, tmp_path: Path, made_before: int
) -> None:
    on_drive.drive.fail("POST", r"^/drive/v3/files\?", times=made_before, change={})
    on_drive.drive.fail("POST", r"^/drive/v3/files\?", status=503, reason="backendError", done=True)

    backup_vps1()

    assert all(fault.times == 0 for fault in on_drive.drive.faults)
    found = load(tmp_path)
    assert (found.rejected, [held.manifest.complete for held in found.snapshots]) == ((), [True])
    backup_vps1()
