"""What lies on a disk that is not mounted, or outside behind a link, is not in the tree: that is told."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.backup_vps1 import backup_vps1
from gxbackup.errors import IncompleteBackupError
from tests.flows.conftest import Place, manifest_of, restore


@contextmanager
def mounted(disk: Path, point: Path, *, kind: str = "bind") -> Iterator[None]:
    disk.mkdir(exist_ok=True)
    point.mkdir(exist_ok=True)
    words = ["--bind", disk] if kind == "bind" else ["-t", kind, kind]
    subprocess.run(["mount", *words, point], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", point], check=True)


def edit_source(place: Place, data_type: str, **settings: Any) -> None:
    document = yaml.safe_load(place.inventory_file.read_text())
    document["servers"]["vps1"]["data_types"][data_type]["source"].update(settings)
    place.inventory_file.write_text(yaml.safe_dump(document))
    place.play("vps1")


def gaps(place: Place) -> dict[str, str]:
    return {gap.data_type: gap.reason for gap in manifest_of(place.snapshots()[-1]).missing}


def test_a_disk_inside_that_is_not_mounted_any_more_is_missing_until_it_is_given_up(
    place: Place, tmp_path: Path
) -> None:
    uploads = place.site / "uploads"
    with mounted(tmp_path / "disk", uploads):
        (uploads / "passport.jpg").write_bytes(b"irreplaceable")
        good = backup_vps1()
    (uploads / "new.jpg").write_bytes(b"written where the disk should be")

    for _ in range(2):  # a copy without it is not what the next one is held against
        with pytest.raises(IncompleteBackupError, match="1 of 2 data types are missing: website"):
            backup_vps1()

    assert gaps(place) == {
        "website": f"website: {uploads}: expected a disk mounted there, as in the last good copy, seen none; "
        "given up on purpose? name it in source.retired_mounts"
    }
    restore(mode="scratch", target=str(tmp_path / "look"))
    assert (tmp_path / "look" / "uploads" / "passport.jpg").read_bytes() == b"irreplaceable"
    restore(mode="scratch", snapshot=good, target=str(tmp_path / "named"))

    edit_source(place, "website", retired_mounts=[str(uploads)])
    backup_vps1()
    edit_source(place, "website", retired_mounts=[])
    backup_vps1()
    assert gaps(place) == {}


def test_a_tree_whose_own_disk_is_not_mounted_any_more_is_missing(place: Place, tmp_path: Path) -> None:
    www = place.site.parent
    with mounted(tmp_path / "disk", www):
        place.site.mkdir()
        (place.site / "index.html").write_text("the site")
        backup_vps1()

    with pytest.raises(IncompleteBackupError, match="website: .*expected a disk mounted there"):
        backup_vps1()
    with mounted(tmp_path / "disk", www):
        backup_vps1()

    assert gaps(place) == {}


def test_an_optional_path_whose_disk_is_not_mounted_any_more_is_missing(place: Place, tmp_path: Path) -> None:
    document = {"root": str(place.root), "paths": ["etc"], "optional_paths": ["k3s/server/token"]}
    edit_source(place, "system-config", **document, restores="overlay")
    with mounted(tmp_path / "disk", place.root / "k3s"):
        (place.root / "k3s" / "server").mkdir()
        (place.root / "k3s" / "server" / "token").write_text("K10")
        backup_vps1(only=["system-config"])

    with pytest.raises(IncompleteBackupError, match=f"{place.root}/k3s: expected a disk mounted there"):
        backup_vps1(only=["system-config"])


def test_memory_that_is_not_mounted_any_more_and_a_folder_that_is_gone_are_no_fault(
    place: Place, tmp_path: Path
) -> None:
    memory, old = place.site / "memory", place.site / "old"
    with mounted(tmp_path, memory, kind="tmpfs"), mounted(tmp_path / "disk", old):
        (old / "file").write_bytes(b"x")
        backup_vps1()
    old.rmdir()

    backup_vps1()

    assert gaps(place) == {}


def test_what_a_link_leads_to_outside_of_the_tree_is_told_by_backup_and_plan(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "uploads").mkdir()
    (place.site / "uploads").symlink_to(tmp_path / "uploads")
    pages: list[str] = []
    monkeypatch.setattr("flows.recipes.publish", lambda _key, page, _title: pages.append(page))

    backup_vps1()
    restore()

    line = f"{place.site}/uploads leads to {tmp_path}/uploads"
    assert f"## Only the link is kept of\n\n- {line}\n" in pages[0]
    assert f"- only the link is kept: {line}\n" in caplog.text
