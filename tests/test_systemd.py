"""The systemd units: understood by systemd, and with settings that Prefect knows."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from prefect.settings import Settings
from prefect.settings.legacy import _get_valid_setting_names

from tests.systemd_units import DEPLOYMENTS, unit, unit_settings

UNITS = {"gx-backup-server.service": "server.env.example", "gx-backup-worker@.service": "worker.env.example"}
PROJECT = DEPLOYMENTS.parent


@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_no_fault(tmp_path: Path, name: str) -> None:
    copy = tmp_path / name.replace("@", "@vps1")
    copy.write_text((DEPLOYMENTS / "systemd" / name).read_text().replace("/opt/gx-backup", str(PROJECT)))

    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", UNITS)
def test_systemd_would_name_a_fault(tmp_path: Path, name: str) -> None:
    copy = tmp_path / name.replace("@", "@vps1")
    text = (DEPLOYMENTS / "systemd" / name).read_text().replace("/opt/gx-backup", str(PROJECT))
    copy.write_text(text.replace("NoNewPrivileges=yes", "NoNewPrivilege=yes"))

    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)

    assert "NoNewPrivilege" in done.stderr


@pytest.mark.parametrize("name", UNITS)
def test_every_setting_is_one_that_prefect_knows(name: str) -> None:
    written = unit_settings(name, UNITS[name], Path("/"))

    assert written
    assert written.keys() <= _get_valid_setting_names(Settings)


def test_the_server_listens_where_its_host_alone_hears_it_and_asks_for_a_login() -> None:
    settings = unit_settings("gx-backup-server.service", "server.env.example", Path("/"))

    assert settings["PREFECT_SERVER_API_HOST"] == "127.0.0.1"
    assert settings["PREFECT_SERVER_API_AUTH_STRING"]
    assert settings["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


def test_the_worker_may_read_the_host_freeze_a_pod_and_a_restore_may_write_it() -> None:
    service = unit("gx-backup-worker@.service")

    hindering = {
        "ProtectSystem",
        "ProtectHome",
        "PrivateTmp",
        "ProtectControlGroups",
        "ProtectProc",
        "RestrictSUIDSGID",
        "CapabilityBoundingSet",
        "DynamicUser",
    }

    assert service["User"] == ["root"]
    assert not hindering & service.keys()
