"""Prefect's automations as `make deploy` makes them: once each, fired into a loopback webhook by the right name."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import automations
import httpx
import pytest
import yaml
from estate import PROJECT, Estate, await_condition, estate, free_port
from prefect.events.schemas.automations import AutomationCore

from gxbackup.errors import InventoryError
from tests.webhook_sink import Got, listening

APPLY = """
import sys
import automations
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    automations.apply(client, automations.load())
"""


class Server:
    """A Prefect server with our automations, and what their webhook got."""

    def __init__(self, made: Estate, url: str, got: Got) -> None:
        self.estate = made
        self.url = url
        self.got = got

    def apply(self, **extra: str) -> str:
        return self.estate.run(
            sys.executable, "-c", APPLY, PYTHONPATH=f"{PROJECT}:{PROJECT / 'scripts'}", **extra
        ).stdout

    def post(self, path: str, body: Any, method: str = "POST") -> Any:
        for _ in range(5):  # SQLite on a busy machine answers 503 now and then, as Prefect's own client knows
            answer = httpx.request(method, f"{self.estate.url}{path}", json=body, timeout=60)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def held(self) -> dict[str, Any]:
        found = self.post("/automations/filter", {})
        assert len({one["name"] for one in found}) == len(found)
        return {one["name"]: one for one in found}

    def run(self, flow_name: str, tags: list[str], *states: dict[str, str]) -> None:
        """Play a run that goes through these states."""
        flow = self.post("/flows/", {"name": flow_name})
        run = self.post(
            "/flow_runs/", {"flow_id": flow["id"], "name": "one", "tags": tags, "state": {"type": "PENDING"}}
        )
        for state in states:
            self.post(f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True})

    def messages(self) -> list[str]:
        return [json.loads(body)["text"] for _, body in self.got]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with estate(tmp_path_factory.mktemp("automations")) as made, listening() as (url, got):
        made.start_server()
        running = Server(made, f"{url}/notify", got)
        running.apply(GX_NOTIFY_URL=running.url)
        yield running


def test_applied_again_each_is_there_once_and_what_an_operator_switched_off_stays_off(server: Server) -> None:
    names = {one.name for one in automations.load()}
    before = server.held()
    late = before["gx-run-late"]
    server.post(f"/automations/{late['id']}", {"enabled": False}, "PATCH")
    stranger = {key: late[key] for key in ("description", "trigger", "actions")} | {"enabled": False}
    server.post("/automations/", {"name": "an-operators-own", **stranger})
    server.post("/automations/", {"name": "gx-of-last-year", **stranger})

    said = server.apply(GX_NOTIFY_URL=server.url)

    after = server.held()
    assert set(before) == names
    assert set(after) == names | {"an-operators-own"}
    assert {after[name]["id"] for name in names} == {one["id"] for one in before.values()}
    assert not after["gx-run-late"]["enabled"]
    assert "automation gx-run-late: switched off by an operator, left off" in said
    assert "automation gx-of-last-year: no longer in deployments/automations.yaml, removed" in said


def test_a_failed_backup_is_told_once_with_what_failed_what_is_safe_and_the_page(server: Server) -> None:
    reason = "vps1 20261128_020000: 1 of 5 data types are missing: website: gone\nHINT: safe in this snapshot: ssh-keys"
    running = {"type": "RUNNING"}
    server.run("somebody-elses", ["other"], running, {"type": "FAILED", "message": "not ours"})
    server.run("backup-vps2", ["backup", "vps2"], running, {"type": "COMPLETED"})
    server.run("backup-vps1", ["backup", "vps1"], running, {"type": "FAILED", "name": "Failed", "message": reason})
    server.run("backup-vps3", ["backup", "vps3"], {"type": "CANCELLED", "message": "limit reached"})

    await_condition("both messages", lambda: len(server.got) >= 2, 60)

    failed, skipped = sorted(server.messages())
    assert failed.startswith("backup-vps1 Failed\n")
    assert "website: gone" in failed
    assert "safe in this snapshot: ssh-keys" in failed
    assert "docs/runbooks/alert-BackupJobFailed.md" in failed
    assert skipped.startswith("backup-vps3 was cancelled\nlimit reached")
    server.run("verify-backups", ["proof"], running, {"type": "CRASHED", "name": "Crashed", "message": "gone"})
    await_condition("the third message", lambda: len(server.got) >= 3, 60)
    assert [text.partition("\n")[0] for text in server.messages()].count("verify-backups Crashed") == 1
    assert len(server.got) == 3


def test_a_webhook_that_is_away_or_not_set_changes_nothing_for_runs(server: Server) -> None:
    server.apply(GX_NOTIFY_URL=f"http://127.0.0.1:{free_port()}")
    server.run("backup-vps1", ["backup"], {"type": "RUNNING"}, {"type": "FAILED", "message": "again"})

    said = server.apply()

    assert "GX_NOTIFY_URL is not set" in said
    assert server.held()["gx-run-failed"]["actions"] == [{"type": "do-nothing"}]


def test_the_window_of_heartbeats_is_at_least_three_of_them() -> None:
    wanted = {one.name: one for one in automations.load()}["gx-run-without-heartbeat"]
    unit = (PROJECT / "deployments" / "systemd" / "gx-backup-worker@.service").read_text()
    beat_seconds = int(unit.partition("PREFECT_FLOWS_HEARTBEAT_FREQUENCY=")[2].split()[0])

    assert wanted.trigger["within"] >= 3 * beat_seconds


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"notify": None}, "expected either notify or crash"),
        ({"name": "other"}, "name"),
        ({"trigger": {"type": "event", "posture": "Sometimes"}}, "trigger"),
        ({"triger": {}}, "triger: unknown key"),
    ],
)
def test_a_slip_of_the_pen_is_an_error(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    document = yaml.safe_load(automations.FILE.read_text())
    document["automations"][0] |= change
    (tmp_path / "automations.yaml").write_text(yaml.safe_dump(document))

    with pytest.raises(InventoryError, match=message):
        understood(tmp_path / "automations.yaml")


def understood(path: Path) -> list[AutomationCore]:
    return [automations._core(one, None, enabled=True) for one in automations.load(path)]
