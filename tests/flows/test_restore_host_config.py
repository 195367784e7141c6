"""Files of a host's configuration, put back one by one."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from flows import recipes
from flows.backup_vps1 import backup_vps1
from flows.restore_host_config import restore_host_config
from gxbackup import overlay
from gxbackup.errors import RestoreError, RestoreRefusedError
from gxbackup.overlay import OverlayPlan
from gxbackup.safety import found
from gxbackup.staging import staging_root
from tests.flows.conftest import Place
from tests.small_disks import leave_free, small_disk


def as_overlay(place: Place, root: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        types = document["servers"]["vps1"]["data_types"]
        types["system-config"].update(
            source={"kind": "directory", "root": str(root), "paths": ["etc"], "restores": "overlay"},
            restore_flow="restore-host-config",
        )

    place.create(edit)


def test_host_config_comes_back_file_by_file_and_nothing_is_deleted(place: Place) -> None:
    as_overlay(place, place.root)
    (place.etc / "nginx").mkdir()
    (place.etc / "nginx" / "site.conf").write_text("good\n")
    backup_vps1()
    (place.etc / "nginx" / "site.conf").write_text("bad\n")
    (place.etc / "hostname").write_text("another\n")
    (place.etc / "added-since").write_text("new\n")

    restore_host_config(server="vps1", mode="in-place", approve=True)

    assert (place.etc / "nginx" / "site.conf").read_text() == "good\n"
    assert (place.etc / "hostname").read_text() == "another\n"
    assert (place.etc / "added-since").read_text() == "new\n"
    assert place.staged() == []


def test_host_config_plans_first_and_takes_only_what_is_named(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    as_overlay(place, place.root)
    for name in ("one", "two"):
        (place.etc / name).write_text("good\n")
    backup_vps1()
    for name in ("one", "two"):
        (place.etc / name).write_text("bad\n")

    restore_host_config(server="vps1", only=["etc/one"])
    assert (place.etc / "one").read_text() == "bad\n"
    assert "replace etc/one" in caplog.text

    restore_host_config(server="vps1", only=["etc/one"], mode="in-place", approve=True)
    assert (place.etc / "one").read_text() == "good\n"
    assert (place.etc / "two").read_text() == "bad\n"


def test_an_older_copy_of_etc_does_not_overwrite_a_newer_one_of_what_lies_below(place: Place) -> None:
    (place.etc / "rancher" / "k3s").mkdir(parents=True)
    (place.etc / "rancher" / "k3s" / "config.yaml").write_text("old\n")

    def edit(document: dict[str, Any]) -> None:
        types = document["servers"]["vps1"]["data_types"]
        for name, path in (("system-config", "etc"), ("k3s-config", "etc/rancher/k3s")):
            types[name] = {
                **types["system-config"],
                "source": {"kind": "directory", "root": str(place.root), "paths": [path], "restores": "overlay"},
                "restore_flow": "restore-host-config",
            }

    place.create(edit)
    backup_vps1(only=["system-config"])
    (place.etc / "rancher" / "k3s" / "config.yaml").write_text("newer\n")
    backup_vps1(only=["k3s-config"])
    (place.etc / "rancher" / "k3s" / "config.yaml").write_text("broken\n")
    (place.etc / "passwd").unlink()

    restore_host_config(server="vps1", mode="in-place", approve=True, with_identity=True)

    assert (place.etc / "rancher" / "k3s" / "config.yaml").read_text() == "newer\n"
    assert (place.etc / "passwd").exists()


def test_host_config_says_which_path_or_data_type_is_unknown(place: Place) -> None:
    as_overlay(place, place.root)
    backup_vps1()

    with pytest.raises(RestoreRefusedError, match="only etc/no-such"):
        restore_host_config(server="vps1", only=["etc/no-such"])
    with pytest.raises(RestoreRefusedError, match="data type 'website': not put back by this restore"):
        restore_host_config(server="vps1", data_types=["website"])


def test_a_killed_restore_is_told_in_the_plan_and_its_recovery_loses_nothing_written_since(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    as_overlay(place, place.root)
    (place.etc / "app.conf").write_text("good\n")
    (place.etc / "authorized_keys").write_text("key of the backup\n")
    backup_vps1()
    (place.etc / "app.conf").write_text("bad\n")
    (place.etc / "authorized_keys").write_text("key of then\n")
    (tmp_path / "tree").mkdir()
    subprocess.run(["cp", "--archive", place.etc, tmp_path / "tree"], check=True)
    (tmp_path / "tree/etc/app.conf").write_text("good\n")
    (tmp_path / "tree/etc/authorized_keys").write_text("key of the backup\n")
    # Named and never finished: what a kill leaves.
    killed = overlay.apply(overlay.plan(tmp_path / "tree", place.root), staging_root().parent / "safety", "killed")
    (place.etc / "app.conf").write_text("edited since\n")
    with (place.etc / "authorized_keys").open("a") as keys:
        keys.write("key added since\n")

    restore_host_config(server="vps1")
    assert f"that did not end: 2 paths go back from {killed}; left as it is" in caplog.text
    assert (place.etc / "app.conf").read_text() == "edited since\n"

    with pytest.raises(RestoreError, match="put back first") as caught:
        restore_host_config(server="vps1", mode="in-place", approve=True)
    assert "key added since" in (place.etc / "authorized_keys").read_text()
    assert (place.etc / "app.conf").read_text() == "bad\n"
    (archive,) = found([killed])
    assert str(archive) in str(caught.value)
    assert "keys changed since: etc/authorized_keys" in str(caught.value)
    tar = subprocess.run(["tar", "-x", "-O", "-f", archive, "./etc/app.conf"], check=True, capture_output=True)
    assert tar.stdout == b"edited since\n"

    restore_host_config(server="vps1", mode="in-place", approve=True)
    assert (place.etc / "app.conf").read_text() == "good\n"


def test_an_overlay_that_was_done_and_whose_task_fails_is_put_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_overlay(place, place.root)
    (place.etc / "app.conf").write_text("good\n")
    backup_vps1()
    (place.etc / "app.conf").write_text("bad\n")

    def lost(_: str, planned: OverlayPlan, safety_dir: Path, restore: str) -> Path:
        overlay.apply(planned, safety_dir, restore)
        assert (place.etc / "app.conf").read_text() == "good\n"
        raise ConnectionError("the Prefect server is gone")

    monkeypatch.setattr(recipes, "apply_overlay", lost)
    with pytest.raises(ConnectionError):
        restore_host_config(server="vps1", mode="in-place", approve=True)

    assert (place.etc / "app.conf").read_text() == "bad\n"
    assert overlay.unended(place.root, staging_root().parent / "safety") == []


def test_a_scratch_disk_without_room_is_known_before_anything_is_downloaded(place: Place, tmp_path: Path) -> None:
    as_overlay(place, place.root)
    (place.etc / "large").write_bytes(bytes(4 * 1024**2))
    backup_vps1()

    with small_disk(tmp_path / "disk", 24 * 1024**2) as disk:
        leave_free(disk, 1024**2)
        with pytest.raises(RestoreRefusedError, match=f"{disk}/look: needs .* bytes and .* to spare"):
            restore_host_config(server="vps1", mode="scratch", target=str(disk / "look"))
