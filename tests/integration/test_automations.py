"""Prefect's automations as `make deploy` makes them: once each, fired into a loopback webhook by the right name."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import automations
import httpx
import notify_blocks
import pytest
import yaml
from estate import PROJECT, Estate, await_condition, estate, free_port
from prefect.events.schemas.automations import AutomationCore

from gxbackup.errors import InventoryError, SetupError
from tests.mail_sink import receiving
from tests.webhook_sink import Got, listening

APPLY = """
import sys
import automations
from prefect.client.orchestration import get_client
within = dict(word.split("=") for word in sys.argv[1:])
wanted = automations.load()
for name, seconds in within.items():
    [one] = [one for one in wanted if one.name == name]
    one.trigger["within"] = int(seconds)
with get_client(sync_client=True) as client:
    automations.apply(client, wanted)
"""

# A process that is a backup's run, beats, and would wait for ever.
BEATING = """
import signal
from prefect import flow, tags

@flow(name="backup-killed")
def backup() -> None:
    signal.pause()

with tags("backup"):
    backup()
"""

# The shortest that Prefect takes for an event that does not come is ten seconds.
SHORT = (
    "gx-run-stuck=20", "gx-backup-absent=10", "gx-backup-absent-six-hours=10", "gx-health-absent=10",
    "gx-run-without-heartbeat=10",
)  # fmt: skip


class Server:
    """A Prefect server with our automations, and what their webhook got."""

    def __init__(self, made: Estate, url: str, got: Got) -> None:
        self.estate = made
        self.url = url
        self.got = got

    def apply(self, *within: str, **extra: str) -> str:
        return self.estate.run(
            sys.executable, "-c", APPLY, *within, PYTHONPATH=f"{PROJECT}:{PROJECT / 'scripts'}", **extra
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

    def run(self, flow_name: str, tags: list[str], *states: dict[str, str], **parameters: Any) -> None:
        """Play a run that goes through these states."""
        flow = self.post("/flows/", {"name": flow_name})
        wanted = {"name": "one", "tags": tags, "parameters": parameters, "state": {"type": "PENDING"}}
        run = self.post("/flow_runs/", {"flow_id": flow["id"], **wanted})
        for state in states:
            self.post(f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True})

    def leave_waiting(self, flow_name: str) -> None:
        """Schedule a run for now in a pool that has no worker."""
        flow = self.post("/flows/", {"name": flow_name})
        self.post("/work_pools/", {"name": "nobody", "type": "process"})
        wanted = {"name": flow_name, "flow_id": flow["id"], "work_pool_name": "nobody", "tags": ["backup"]}
        deployment = self.post("/deployments/", wanted)
        self.post(f"/deployments/{deployment['id']}/create_flow_run", {"state": {"type": "SCHEDULED"}})

    def beaten(self) -> bool:
        """Whether a heartbeat came in."""
        asked = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}}}
        return bool(self.post("/events/filter", asked)["events"])

    def told(self, subject: str) -> list[str]:
        return [text for text in self.messages() if text.partition("\n")[0] == subject]

    def messages(self) -> list[str]:
        return [json.loads(body)["text"] for _, body in self.got]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with estate(tmp_path_factory.mktemp("automations")) as made, listening() as (url, got):
        made.start_server(PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS="1")
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
    assert "docs/runbooks/gx-backup-skipped.md" in skipped
    server.run("verify-backups", ["proof"], running, {"type": "CRASHED", "name": "Crashed", "message": "gone"})
    await_condition("the third message", lambda: len(server.got) >= 3, 60)
    assert [text.partition("\n")[0] for text in server.messages()].count("verify-backups Crashed") == 1
    assert len(server.got) == 3


SAFE = "is still safe"
UNSEEN = ("limit reached\nThis look was not made, and", SAFE, "docs/runbooks/gx-backup-skipped.md")
FIRED = {
    "backup-crashed Crashed": ("worker gone", SAFE, "docs/runbooks/alert-BackupJobFailed.md"),
    "backup-waiting is late": ("No worker took the run", SAFE, "docs/runbooks/gx-run-late.md"),
    "backup-stuck has been running for twelve hours": (SAFE, "docs/runbooks/gx-run-stuck.md"),
    "backup-once has not succeeded for 26 hours": (SAFE, "docs/runbooks/alert-BackupJobFailed.md"),
    "backup-twice has not succeeded for 8 hours": (SAFE, "docs/runbooks/alert-BackupJobFailed.md"),
    "backup-killed Crashed": ("no heartbeat for two minutes", SAFE, "docs/runbooks/alert-BackupJobFailed.md"),
    "nobody looks at the backups": (SAFE, "docs/runbooks/alert-BackupHealthUnknown.md"),
    "verify-integrity was cancelled": UNSEEN,
    "check-backup-health was cancelled": UNSEEN,
    "backup-vps4 was cancelled": ("limit reached\nThe run that was on, or the next one, takes what is due.\nWhat was",),
    "backup-vps5 was cancelled": ("reached\nNo other run", "`python -m flows.backup_vps5 --only orderer-ledger`\nWhat"),
}


@pytest.fixture(scope="module")
def all_fired(server: Server) -> Server:
    """Play everything that goes wrong at once, with short windows, and wait for what is told of it."""
    late = server.held()["gx-run-late"]
    server.post(f"/automations/{late['id']}", {"enabled": True}, "PATCH")
    server.apply(*SHORT, GX_NOTIFY_URL=server.url)
    running = {"type": "RUNNING"}
    killed = server.estate.start("killed", sys.executable, "-c", BEATING)
    server.leave_waiting("backup-waiting")
    server.run("backup-crashed", ["backup"], running, {"type": "CRASHED", "name": "Crashed", "message": "worker gone"})
    server.run("backup-stuck", ["backup"], running)
    server.run("backup-once", ["backup"], running, {"type": "COMPLETED"})
    server.run("backup-twice", ["backup", "six-hourly"], running, {"type": "COMPLETED"})
    cancelled = {"type": "CANCELLED", "message": "limit reached"}
    for _ in range(2):  # as a dead run that holds the place does to each that follows
        server.run("verify-integrity", ["proof"], cancelled)
        server.run("check-backup-health", ["watch"], cancelled)
    server.run("backup-vps4", ["backup"], cancelled, without=["orderer-ledger"])
    server.run("backup-vps5", ["backup"], cancelled, only=["orderer-ledger"])
    await_condition("a heartbeat", server.beaten, 60, died=lambda: killed.poll() is not None)
    killed.kill()  # and no worker is there that would see it end
    killed.wait(30)
    await_condition("every message", lambda: all(server.told(subject) for subject in FIRED), 120)
    return server


@pytest.mark.parametrize("subject", FIRED)
def test_what_goes_wrong_is_told_by_name_with_what_is_safe_and_its_page(all_fired: Server, subject: str) -> None:
    told = all_fired.told(subject)

    assert all(words in told[0] for words in FIRED[subject])
    # Only a look that is absent is told again, each time that its window is over.
    assert len(told) == 1 or subject == "nobody looks at the backups"


def test_a_health_that_stays_failing_is_told_once_and_so_is_its_end(server: Server) -> None:
    running = {"type": "RUNNING"}
    failed = {"type": "FAILED", "name": "Failed", "message": "Backups: 1 failing: vps1 website"}
    for _ in range(3):
        server.run("check-backup-health", ["watch"], running, failed)
    server.run("check-backup-health", ["watch"], running, {"type": "COMPLETED"})
    server.run("check-backup-health", ["watch"], running, {"type": "COMPLETED"})

    await_condition("its end", lambda: bool(server.told("the backups are well again")), 60)

    [told] = server.told("the backups need you")
    assert "1 failing: vps1 website" in told
    assert "docs/runbooks/check-backup-health.md" in told
    server.run("backup-vps4", ["backup"], running, {"type": "FAILED", "message": "after all that"})
    await_condition("what came later", lambda: bool(server.told("backup-vps4 Failed")), 60)
    assert len(server.told("the backups are well again")) == 1
    assert len(server.told("the backups need you")) == 1


def test_mail_and_slack_stand_beside_the_webhook_once_each_and_a_mail_arrives(server: Server) -> None:
    slack = "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
    with receiving() as (port, mails):
        mail = f"mailto://127.0.0.1:{port}?from=gx@example.org&to=ops@example.org&format=text"
        for _ in range(2):
            said = server.apply(GX_NOTIFY_URL=f"{server.url} {mail} {slack}")
        stored = server.post("/block_documents/filter", {})
        # Slack's own address is not on this machine: only what is stored for it is looked at.
        server.apply(GX_NOTIFY_URL=f"{server.url} {mail}")
        server.run("backup-vps5", ["backup"], {"type": "RUNNING"}, {"type": "FAILED", "message": "disk full"})
        await_condition("the mail", lambda: any("backup-vps5 Failed" in mail for mail in mails), 60)
        await_condition("the message", lambda: bool(server.told("backup-vps5 Failed")), 60)

    kinds = {block["name"]: block["block_type"]["slug"] for block in stored if block["name"].startswith("gx-notify")}
    [told] = [mail for mail in mails if "backup-vps5 Failed" in mail]
    assert kinds == {
        "gx-notify": "custom-webhook",
        "gx-notify-mail": "slack-webhook",
        "gx-notify-slack": "slack-webhook",
    }
    assert "TIiajkdnlazkcOXrIdevi7FQ" not in said + json.dumps(stored)
    assert "To: ops@example.org" in told
    assert "disk full" in told


@pytest.mark.parametrize(
    ("addresses", "message"),
    [("ftp://user:hidden@host", "seen 'ftp'"), ("https://a.example https://b.example", "one address of a kind")],
)
def test_an_address_that_nothing_can_be_sent_to_is_an_error_without_its_secret(addresses: str, message: str) -> None:
    with pytest.raises(SetupError, match=message) as refused:
        notify_blocks.store(addresses)

    assert "hidden" not in str(refused.value)


def test_a_webhook_that_is_away_or_not_set_changes_nothing_for_runs(server: Server) -> None:
    server.apply(GX_NOTIFY_URL=f"http://127.0.0.1:{free_port()}")
    server.run("backup-vps1", ["backup"], {"type": "RUNNING"}, {"type": "FAILED", "message": "again"})

    said = server.apply()

    assert "GX_NOTIFY_URL is not set" in said
    assert server.held()["gx-run-failed"]["actions"] == [{"type": "do-nothing"}]


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
    return [automations._core(one, (), enabled=True) for one in automations.load(path)]
