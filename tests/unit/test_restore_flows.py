"""Every data type that is to be restored names a restore that is deployed: a misspelt or missing name is an error."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gxbackup import schedules
from gxbackup.errors import InventoryError
from gxbackup.inventory import Inventory

PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("data_type", "flow", "seen"),
    [
        ("ssh-keys", "restore-host-confg", "'restore-host-confg'"),
        ("website", None, "none"),
        ("k3s-config", "backup-vps1", "'backup-vps1'"),
    ],
)
def test_what_no_flow_would_restore_is_a_broken_promise(data_type: str, flow: str | None, seen: str) -> None:
    written = yaml.safe_load((PROJECT / "deployments" / "inventory.yaml").read_text())
    written["servers"]["vps1"]["data_types"][data_type]["restore_flow"] = flow
    deployed = schedules.load(PROJECT / "prefect.yaml")

    with pytest.raises(InventoryError, match=rf"\.vps1\.data_types\.{data_type}\.restore_flow: .* seen {seen}\n"):
        schedules.check(Inventory.model_validate(written), deployed)
