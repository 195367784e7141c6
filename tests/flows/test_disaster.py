"""The disaster: all servers are gone, and a blank machine brings every data type back from the remote alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from estate import Estate

from flows.backup_mainnet import backup_mainnet
from flows.backup_vps1 import backup_vps1
from flows.backup_vps2 import backup_vps2
from flows.backup_vps3 import backup_vps3
from flows.drill_disaster_recovery import drill_disaster_recovery
from flows.rehearse_restores import rehearse_restores
from gxbackup import drill, inventory
from gxbackup.errors import UnprovenError
from gxbackup.postgres import loading
from gxbackup.postgres.archive import beside_name
from gxbackup.postgres.loading import Room, load
from gxbackup.postgres.server import Server
from tasks import host
from tests.flows.conftest import Place
from tests.integration.couchdb_servers import programs_path
from tests.kubeconfigs import turn_to
from tests.production import production

PROJECT = Path(__file__).resolve().parents[2]
# What the report says of those whose proof is another one than equal trees.
SEEN = {
    "etcd-snapshots": "served by a scratch etcd; revision and objects equal the evidence",
    "k8s-manifests": "3 objects, as many of each kind as were captured",
    "orderer-ledger": "every block's data fits its header: gxchannel 74",
    "peer-ledger": "every block's data fits its header: gxchannel 74",
}


def test_every_data_type_comes_back_from_the_remote_alone_and_one_row_too_few_is_told(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch, production(tmp_path / "production", patch) as made:
        Estate.create(place, made.edit)
        for server, back_up in {
            "vps1": backup_vps1, "vps2": backup_vps2, "vps3": backup_vps3, "mainnet": backup_mainnet
        }.items():  # fmt: skip
            place.play("vps3" if server == "mainnet" else server)
            back_up()
    held = place.files()
    blank = tmp_path / "blank machine"
    place.play("vps1", GX_STAGING_DIR=str(blank / "staging"), GX_TEXTFILE_DIR=str(blank), GX_LOG_DIR=str(blank / "log"))
    for folder in (blank, blank / "staging", blank / "log"):
        folder.mkdir(mode=0o700)
    turn_to(blank / "no kubeconfig", monkeypatch)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{blank}/no-docker.sock")
    monkeypatch.setenv("PATH", programs_path())
    assert not (tmp_path / "production").exists()

    drill_disaster_recovery()

    (page,) = (record.getMessage() for record in caplog.records if "# Disaster recovery drill" in record.getMessage())
    assert "# Disaster recovery drill: all restored, evidence equal" in page
    assert "0 too old, 0 too slow" in page
    expected = drill.in_order(host.inventory(), dependency=True)
    assert {name for _, name in expected} == {name for _, name in promised()}
    for step, (server, name) in enumerate(expected, start=1):
        row = (
            rf"\| 🟢 well \| {step} \| {server} {name} \| \d{{8}}_\d{{6}} \| 0 h \| \d+ h \| [\d.]+ s \| \d+ h \| (.*)"
        )
        found = re.search(row, page)
        assert found, page
        assert SEEN.get(name, "") in found[1]
    assert {name: body for name, body in place.files().items() if not name.startswith("_proofs/")} == held
    assert [*(blank / "staging").iterdir()] == []

    with monkeypatch.context() as patch:
        patch.setattr(loading, "load", one_row_too_few)
        with pytest.raises(UnprovenError, match="1 failing: mainnet postgres-mainnet"):
            rehearse_restores(data_types=["postgres-mainnet"])
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert any("table public.account: expected 50, seen 49" in error for error in errors)


def one_row_too_few(server: Server, file: Path, database: str, table: str | None, room: Room) -> str:
    """Load as the product does, and lose a row on a real server."""
    script = load(server, file, database, table, room)
    if (database, table) == (beside_name("backend"), None):
        server.script(database, "DELETE FROM account WHERE id = 7;")
    return script


def promised() -> list[tuple[str, str]]:
    """Return what production's own inventory promises to bring back."""
    return drill.in_order(inventory.load(PROJECT / "deployments" / "inventory.yaml"), dependency=True)
