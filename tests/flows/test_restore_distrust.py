"""What is damaged, tampered with or incomplete on the remote is told by name, and never restored."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from site_tree import describe

from flows.backup_vps1 import backup_vps1
from flows.list_snapshots import list_snapshots
from gxbackup.errors import BackupError, IntegrityError, RestoreRefusedError
from tests.flows.conftest import Place, beside, restore


def sealed(folder: Path) -> Path:
    return folder / "files" / "website" / "website.tar.zst.age"


def cut(older: Path, newest: Path) -> None:
    os.truncate(sealed(newest), sealed(newest).stat().st_size - 1)


def turn_a_bit(older: Path, newest: Path) -> None:
    body = bytearray(sealed(newest).read_bytes())
    body[len(body) // 2] ^= 1
    sealed(newest).write_bytes(body)


def swap_days(older: Path, newest: Path) -> None:
    shutil.copy(sealed(older), sealed(newest))


def lose(older: Path, newest: Path) -> None:
    sealed(newest).unlink()


@pytest.mark.parametrize("harm", [cut, turn_a_bit, swap_days, lose])
def test_a_damaged_artifact_is_never_restored_and_the_older_one_is(place: Place, harm: Any, tmp_path: Path) -> None:
    older = backup_vps1()
    newest = backup_vps1()
    harm(*place.snapshots())
    before = describe(place.site)

    with pytest.raises((IntegrityError, RestoreRefusedError)):
        restore(mode="in-place", approve=True, snapshot=newest)

    assert describe(place.site) == before
    assert beside(place) == []
    restore(mode="scratch", snapshot=older, target=str(tmp_path / "look"))
    assert describe(tmp_path / "look") == before


def test_a_damaged_artifact_names_the_next_good_snapshots(place: Place) -> None:
    oldest, older, newest, newer = (backup_vps1() for _ in range(4))
    turn_a_bit(place.snapshots()[0], place.snapshots()[2])

    with pytest.raises(IntegrityError, match="expected .* bytes with sha256") as failure:
        restore(snapshot=newest)

    again, others = failure.value.hints
    assert again == "it may have been damaged on the way: start it again"
    assert others.endswith(f": `--snapshot {older}` or `--snapshot {oldest}` or `--snapshot {newer}`")
    assert "dmesg" not in str(failure.value)


def edit_manifest(folder: Path) -> None:
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"keep_days": 30', '"keep_days": 1'))


def sign_as_another_host(folder: Path) -> None:
    from gxbackup import signing

    place_root = folder.parent.parent.parent
    key = signing.load_key(place_root / "keys" / "vps3.key")
    (folder / "manifest.json.sig").write_bytes(signing.sign(key, (folder / "manifest.json").read_bytes()))


def lose_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def cut_run(folder: Path) -> None:
    for name in ("manifest.json", "manifest.json.sig", "RECOVER.md"):
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (edit_manifest, "not signed by a trusted host"),
        (sign_as_another_host, "not signed by a trusted host"),
        (lose_manifest, "it was cut, or its manifest was lost; the RECOVER.md beside it still works"),
        (cut_run, "it has no manifest: that run was cut"),
    ],
)
def test_a_snapshot_that_is_not_to_be_trusted_is_refused_by_name_and_passed_over_by_latest(
    place: Place, harm: Any, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older = backup_vps1()
    newest = backup_vps1()
    harm(place.snapshots()[-1])

    with pytest.raises(RestoreRefusedError, match=why):
        restore(mode="scratch", snapshot=newest, target=str(tmp_path / "one"))

    restore(mode="scratch", target=str(tmp_path / "two"))
    assert f"vps1 {older}" in caplog.text
    assert describe(tmp_path / "two") == describe(place.site)


def test_an_incomplete_snapshot_is_refused_for_what_it_lacks_only(place: Place, tmp_path: Path) -> None:
    backup_vps1()
    shutil.move(place.site, tmp_path / "away")
    with pytest.raises(BackupError):
        backup_vps1()
    incomplete = place.snapshots()[-1].name

    with pytest.raises(RestoreRefusedError, match=r"website .*: refused: .*gxcoin\.money"):
        restore(mode="scratch", snapshot=incomplete, target=str(tmp_path / "one"))

    restore(mode="scratch", target=str(tmp_path / "two"))
    assert describe(tmp_path / "two") == describe(tmp_path / "away")


def test_an_unknown_snapshot_names_those_that_are_there(place: Place) -> None:
    snapshot = backup_vps1()

    with pytest.raises(RestoreRefusedError, match=r"20200101_000000: refused: there is no such snapshot") as failure:
        restore(snapshot="20200101_000000")

    assert f"good snapshots: {snapshot}" in str(failure.value)


def test_listing_tells_what_is_held_and_what_is_not_trusted(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = backup_vps1(), backup_vps1()
    edit_manifest(place.snapshots()[-1])

    list_snapshots(server="vps1")

    assert f"| {good} | complete | website, system-config |" in caplog.text
    assert f"| {bad} | **not trusted**" in caplog.text
