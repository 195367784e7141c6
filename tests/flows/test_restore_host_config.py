"""Files of a host's configuration, put back one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.backup_vps1 import backup_vps1
from flows.restore_host_config import restore_host_config
from gxbackup.errors import RestoreRefusedError
from tests.flows.conftest import Place


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
