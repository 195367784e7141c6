"""Through a real Prefect server and a real worker: killed, cut off, twice at once, by the operator's own spelling."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from estate import BIN, PROJECT, Estate, await_condition, end, free_port
from site_tree import describe, make_website

TASKS = ("survey", "collect", "compress", "checksum", "upload", "verify", "commit", "prune")
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
STOP_AFTER = """
import os, signal, sys
from flows import recipes
from flows.backup_vps1 import backup_vps1
def stopping(task):
    def run(*words, **named):
        task(*words, **named)
        os.kill(os.getpid(), signal.SIGKILL)
    return run
setattr(recipes, sys.argv[1], stopping(getattr(recipes, sys.argv[1])))
backup_vps1()
"""

# A host whose clock is ten minutes fast; nothing but the product's own clock asks it.
FAST_CLOCK = """
from datetime import timedelta
from gxbackup import clock
right = clock.now
clock.now = lambda: right() + timedelta(minutes=10)
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    root = tmp_path_factory.mktemp("worker")
    site = root / "www" / "gxcoin.money"
    site.mkdir(parents=True)
    make_website(site)

    def edit(document: dict[str, Any]) -> None:
        website = document["servers"]["vps1"]["data_types"]["website"]
        website["source"]["root"] = str(site)
        document["servers"]["vps1"]["data_types"] = {"website": website}

    estate = Estate(root)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and never listens: no message of this module's runs can be delivered
        try:
            estate.create(edit)
            estate.start_server()
            estate.deploy(f"http://127.0.0.1:{nobody.getsockname()[1]}")
            yield estate
        finally:
            estate.stop()


@pytest.fixture
def worker(running: Estate) -> Iterator[subprocess.Popen[bytes]]:
    started = running.start_worker("vps1")
    yield started
    end(started)


def complete(estate: Estate) -> list[Path]:
    return sorted(path.parent for path in estate.remote.rglob("manifest.json"))


def staged(estate: Estate) -> list[str]:
    return [entry.name for entry in estate.staging.iterdir() if entry.name != "last-written"]


def runs(estate: Estate, name: str) -> list[dict[str, Any]]:
    """Return the runs of a deployment as the server tells them, newest first."""
    code = """
import json, sys
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.sorting import FlowRunSort
with get_client(sync_client=True) as client:
    found = client.read_flow_runs(deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[sys.argv[1]])),
                                  sort=FlowRunSort.START_TIME_DESC)
print(json.dumps([{"state": run.state_name, "message": run.state.message, "id": str(run.id)} for run in found
                  if run.state_name != "Scheduled"]))
"""
    found: list[dict[str, Any]] = json.loads(estate.run(sys.executable, "-c", code, name).stdout.splitlines()[-1])
    return found


def begin(estate: Estate, name: str) -> None:
    """Start a deployment's run and wait for nothing: the command line takes longer to start than its run."""
    found = httpx.get(f"{estate.url}/deployments/name/{name}/{name}", timeout=60).raise_for_status().json()
    httpx.post(f"{estate.url}/deployments/{found['id']}/create_flow_run", json={}, timeout=60).raise_for_status()


def on_remote(estate: Estate) -> dict[Path, tuple[int, int]]:
    """Return every file on the remote with its size and the time it was written."""
    found = {path: path.stat() for path in estate.remote.rglob("*") if path.is_file()}
    return {path: (seen.st_size, seen.st_mtime_ns) for path, seen in found.items()}


def flow_process(estate: Estate) -> int:
    """Return the process id of the flow that holds the staging directory now."""
    (area,) = [entry for entry in estate.staging.iterdir() if entry.name.startswith("run-")]
    return int(area.name.rsplit("-", 1)[1])


@contextmanager
def frozen_in_mid_stream(estate: Estate) -> Iterator[int]:
    """Wait for a run to write its sealed file, stop its tar, give the flow's process id, and let tar go on."""
    await_condition("a run in mid-stream", sealing(estate), 90)
    flow = flow_process(estate)
    tars = [int(pid) for pid in Path(f"/proc/{flow}/task/{flow}/children").read_text().split() if command(pid) == "tar"]
    assert tars
    for pid in tars:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield flow
    finally:
        for pid in tars:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def command(pid: str) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def sealing(estate: Estate) -> Callable[[], bool]:
    """Tell whether a run is writing a sealed file right now."""
    return lambda: any(file.stat().st_size > 1024**2 for file in estate.staging.rglob("*.age"))


@pytest.fixture
def slow(running: Estate) -> Iterator[None]:
    """Enough incompressible data that a run can be caught in the middle of it."""
    rng = random.Random(3)
    noise = running.root / "www" / "gxcoin.money" / "noise.bin"
    with noise.open("wb") as file:
        for _ in range(600):
            file.write(rng.randbytes(1024**2))
    yield
    noise.unlink()


def test_the_operators_spelling_backs_up_and_restores_through_the_worker(
    running: Estate, worker: subprocess.Popen[bytes]
) -> None:
    site = running.root / "www" / "gxcoin.money"
    before = describe(site)

    running.run_deployment("backup-vps1")
    shutil.rmtree(site)
    running.run_deployment("restore-website", "-p", "mode=in-place", "-p", "approve=true", "-p", 'restart_container=""')

    assert describe(site) == before
    assert staged(running) == []


def test_a_failed_backup_is_failed_in_the_ui_with_one_clear_message(
    running: Estate, worker: subprocess.Popen[bytes]
) -> None:
    site = running.root / "www" / "gxcoin.money"
    server_log = running.root / "logs" / "server.log"
    said = len(server_log.read_text())
    site.rename(site.with_name("away"))
    try:
        done = running.run_deployment("backup-vps1", check=False)
    finally:
        site.with_name("away").rename(site)

    assert done.returncode == 1
    assert done.stdout.endswith("Flow run finished in state 'Failed'.\n")
    (uuid,) = re.findall(r"UUID: (\S+)", done.stdout)
    told = running.run(BIN / "prefect", "flow-run", "logs", uuid).stdout
    assert "HINT: safe in this snapshot: nothing" in told.splitlines()[-2:]
    newest = runs(running, "backup-vps1")[0]
    assert newest["state"] == "Failed"
    assert "1 of 1 data types are missing: website" in newest["message"]
    log = (running.root / "logs" / "worker-vps1.log").read_text()
    assert "IncompleteBackupError: vps1" in log
    assert "HINT: safe in this snapshot: nothing" in log
    # Once told by the flow, once more by the engine around it, which does not know the flow's name.
    told = (running.root / "logs" / "backup-vps1.log").read_text()
    assert [line.split()[1] for line in told.splitlines() if f"run={uuid}" in line and "1 of 1 data" in line][-1:] == [
        "level=WARNING"
    ]
    assert list((running.root / "logs").glob("*unknown*")) == []
    # What could not be delivered harms neither this run nor the next.
    await_condition("the message to be tried in vain", lambda: "ConnectError" in server_log.read_text()[said:], 60)
    assert runs(running, "backup-vps1")[0]["state"] == "Failed"
    running.run_deployment("backup-vps1")


def test_a_pool_says_whether_a_worker_is_online(running: Estate, worker: subprocess.Popen[bytes]) -> None:
    def says(pool: str, status: str) -> bool:
        told = running.run(BIN / "prefect", "work-pool", "inspect", pool, "--output", "json").stdout
        return f'"status": "{status}"' in told

    await_condition("the worker to be online", lambda: says("vps1", "READY"), 60)

    assert says("vps5", "NOT_READY")


def ask(estate: Estate, path: str, body: dict[str, Any] | None = None) -> Any:
    """Return what Prefect's API answers; with a body it is a POST."""
    answer = httpx.request("GET" if body is None else "POST", f"{estate.url}{path}", json=body, timeout=60)
    answer.raise_for_status()
    return answer.json()


def test_a_task_whose_remote_is_away_is_tried_again_and_the_run_completes(running: Estate) -> None:
    port, folder = free_port(), running.root / "away"
    for name in ("staging", "served"):
        (folder / name).mkdir(mode=0o700, parents=True)
    (folder / "rclone.conf").write_text(f"[away]\ntype = webdav\nurl = http://127.0.0.1:{port}\nvendor = rclone\n")
    document = yaml.safe_load(running.inventory_file.read_text())
    document["remote"]["path"] = "away:gx-backups"
    (folder / "inventory.yaml").write_text(yaml.safe_dump(document))
    worker = running.start_worker(
        "vps1", GX_INVENTORY=str(folder / "inventory.yaml"), GX_STAGING_DIR=str(folder / "staging"),
        RCLONE_CONFIG=str(folder / "rclone.conf"),
    )  # fmt: skip
    deployment = ask(running, "/deployments/name/backup-vps1/backup-vps1")["id"]
    run = ask(running, f"/deployments/{deployment}/create_flow_run", {})["id"]

    def surveys() -> list[dict[str, Any]]:
        """Return the run's task runs of `survey`: one, however often it is tried."""
        asked = {"flow_runs": {"id": {"any_": [run]}}, "task_runs": {"name": {"any_": ["survey vps1"]}}}
        return list(ask(running, "/task_runs/filter", asked))

    def states() -> list[str]:
        told = [state for task in surveys() for state in ask(running, f"/task_run_states/?task_run_id={task['id']}")]
        return [state["name"] for state in sorted(told, key=lambda state: str(state["timestamp"]))]

    try:
        await_condition("the first failure", lambda: "AwaitingRetry" in states(), 120)
        running.start(
            "webdav", str(BIN / "rclone"), "serve", "webdav", str(folder / "served"), "--addr", f"127.0.0.1:{port}"
        )
        await_condition("the run's end", lambda: ask(running, f"/flow_runs/{run}")["state_type"] in ENDED, 180)
        await_condition("the server to know the task's end", lambda: states()[-1] == "Completed", 60)
    finally:
        end(worker)

    assert ask(running, f"/flow_runs/{run}")["state_name"] == "Completed"
    (survey,) = surveys()
    assert survey["state_name"] == "Completed"
    assert survey["run_count"] >= 2
    assert states().index("AwaitingRetry") < states().index("Retrying") < states().index("Completed")
    log = (running.root / "logs" / "worker-vps1.log").read_text()
    (first,) = [line for line in log.splitlines() if "Retry 1/3 will start" in line]
    assert "RemoteError" in first and "away:gx-backups" in first and "connection refused" in first
    (manifest,) = (folder / "served").rglob("manifest.json")
    assert json.loads(manifest.read_text())["flow_run_id"] == run
    listed = running.flow(
        "list_snapshots", "--server", "vps1",
        GX_INVENTORY=str(folder / "inventory.yaml"), RCLONE_CONFIG=str(folder / "rclone.conf"),
    )  # fmt: skip
    assert f"| {manifest.parent.name} | complete | website |" in listed.stdout


def test_two_runs_at_once_the_second_ends_with_a_clear_state(
    running: Estate, worker: subprocess.Popen[bytes], slow: None
) -> None:
    held = len(complete(running))
    first = running.start(
        "first", str(Path(sys.executable).parent / "prefect"), "deployment", "run", "backup-vps1", "--watch"
    )
    with frozen_in_mid_stream(running):
        before = on_remote(running)
        second = running.run_deployment("backup-vps1", check=False)
        third = running.flow("backup_vps1", check=False)
        pruning = running.flow("prune_snapshots", "--server", "vps1", "--no-dry-run", check=False)
        assert on_remote(running) == before

    assert second.returncode == 1
    for refused in (third, pruning):
        assert refused.returncode == 1
        assert "LockedError: vps1: another run is at work: backup of vps1" in refused.stdout
        assert "HINT: nothing was touched; start again once it has ended" in refused.stdout
    assert first.wait(120) == 0
    assert sorted(run["state"] for run in runs(running, "backup-vps1")[:2]) != ["Completed", "Completed"]
    assert len(complete(running)) == held + 1


def test_a_worker_and_its_flow_killed_in_mid_stream_lose_nothing_and_the_next_run_is_whole(
    running: Estate, slow: None
) -> None:
    held = complete(running)
    worker = running.start_worker("vps1")
    running.run(Path(sys.executable).parent / "prefect", "deployment", "run", "backup-vps1")
    with frozen_in_mid_stream(running) as flow:
        os.killpg(worker.pid, signal.SIGKILL)
        os.kill(flow, signal.SIGKILL)
        worker.wait()
        await_condition("the flow's tar and age to be gone", lambda: not left_running(running), 30)

    assert complete(running) == held
    done = running.flow("backup_vps1")
    assert done.returncode == 0
    assert len(complete(running)) == len(held) + 1
    assert staged(running) == []
    settle(running)


def left_running(estate: Estate) -> list[str]:
    """Return the command lines of every tar that still reads this estate's website."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if command(process.name) == "tar" and str(estate.root) in words:
                found.append(words)
    return found


def settle(estate: Estate) -> None:
    """Mark the runs of killed workers crashed, as the zombie automation of the server does on a host."""
    code = """
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateName
from prefect.states import Crashed
with get_client(sync_client=True) as client:
    for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=FlowRunFilterState(
            name=FlowRunFilterStateName(any_=["Running", "Pending"])))):
        client.set_flow_run_state(run.id, Crashed(), force=True)
"""
    estate.run(sys.executable, "-c", code)


def test_killed_right_after_each_task_nothing_is_lost_and_the_next_run_is_whole(running: Estate) -> None:
    for task in TASKS:  # each finds what the one before left, and gets further
        held = complete(running)
        killed = running.run(sys.executable, "-c", STOP_AFTER, task, check=False)

        assert killed.returncode == -signal.SIGKILL, task
        assert set(held) <= set(complete(running)), task
        assert len(staged(running)) <= 1, task

    running.flow("backup_vps1")
    assert set(held) < set(complete(running))
    assert staged(running) == []
    settle(running)


def test_a_server_that_is_gone_for_half_a_minute_costs_no_backup(
    running: Estate, worker: subprocess.Popen[bytes], slow: None
) -> None:
    held = len(complete(running))
    running.run(Path(sys.executable).parent / "prefect", "deployment", "run", "backup-vps1")
    with frozen_in_mid_stream(running):
        running.restart_server(away_seconds=30)

    await_condition("the backup's manifest", lambda: len(complete(running)) == held + 1, 120)
    await_condition("the run's end", lambda: runs(running, "backup-vps1")[0]["state"] == "Completed", 120)


def test_a_server_that_restarts_in_mid_drill_costs_no_proof(running: Estate, slow: None) -> None:
    document = yaml.safe_load(running.inventory_file.read_text())
    document["servers"] = {"vps1": document["servers"]["vps1"]}
    alone = running.root / "vps1-alone.yaml"
    alone.write_text(yaml.safe_dump(document))
    running.flow("backup_vps1")
    worker = running.start_worker("vps3", GX_INVENTORY=str(alone))
    try:
        running.run(Path(sys.executable).parent / "prefect", "deployment", "run", "drill-disaster-recovery")
        with unpacking_stopped(running):
            running.restart_server(away_seconds=5)
        await_condition(
            "the drill's end", lambda: runs(running, "drill-disaster-recovery")[0]["state"] == "Completed", 180
        )
    finally:
        end(worker)

    log = (running.root / "logs" / "worker-vps3.log").read_text()
    assert "# Disaster recovery drill: all restored, evidence equal" in log
    assert staged(running) == []
    assert len(list((running.remote / "_proofs" / "vps1").iterdir())) == 1


@contextmanager
def unpacking_stopped(estate: Estate) -> Iterator[None]:
    """Wait for a rehearsal that unpacks to scratch, stop its tar, and let it go on."""
    found: list[int] = []

    def unpacks() -> bool:
        for area in estate.staging.glob("run-rehearse-*/scratch"):
            flow = area.parent.name.rsplit("-", 1)[1]
            with suppress(OSError):  # over already
                children = Path(f"/proc/{flow}/task/{flow}/children").read_text().split()
                found.extend(int(pid) for pid in children if command(pid) == "tar")
        return bool(found)

    await_condition("a rehearsal in mid-stream", unpacks, 120)
    for pid in found:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def test_a_cancelled_run_leaves_nothing_and_is_cancelled_in_the_ui(
    running: Estate, worker: subprocess.Popen[bytes], slow: None
) -> None:
    held = complete(running)
    prefect = Path(sys.executable).parent / "prefect"
    running.run(prefect, "deployment", "run", "backup-vps1")

    with frozen_in_mid_stream(running):
        running.run(prefect, "flow-run", "cancel", runs(running, "backup-vps1")[0]["id"])
        await_condition("staging to be empty", lambda: staged(running) == [], 90)

    await_condition("the run's end", lambda: runs(running, "backup-vps1")[0]["state"] == "Cancelled", 60)
    assert complete(running) == held
    assert left_running(running) == []


def test_a_prune_that_was_started_elsewhere_goes_on_on_the_servers_own_host(
    running: Estate, worker: subprocess.Popen[bytes]
) -> None:
    running.flow("backup_vps1")
    elsewhere = running.start_worker("vps3")
    try:
        running.run_deployment("prune-snapshots", "-p", "server=vps1", "-p", "dry_run=false")
    finally:
        end(elsewhere)

    assert [run["state"] for run in runs(running, "prune-snapshots")] == ["Completed", "Completed"]
    assert "prune vps1 on vps1" in (running.root / "logs" / "worker-vps3.log").read_text()
    assert "Prune vps1 (done)" in (running.root / "logs" / "worker-vps1.log").read_text()


def test_a_host_that_is_gone_ends_a_handover_at_once_and_the_hourly_look_names_it_as_it_names_a_wrong_clock(
    running: Estate,
) -> None:
    (running.root / "fast").mkdir()
    (running.root / "fast" / "sitecustomize.py").write_text(FAST_CLOCK)
    elsewhere = running.start_worker("vps3", PYTHONPATH=f"{running.root / 'fast'}:{PROJECT}")
    try:
        begin(running, "check-backup-health")
        done = running.run_deployment("prune-snapshots", "-p", "server=vps5", check=False)
        await_condition(
            "the look's end", lambda: any(run["state"] == "Failed" for run in runs(running, "check-backup-health")), 120
        )
    finally:
        end(elsewhere)

    assert done.returncode == 1
    newest = runs(running, "prune-snapshots")[0]
    assert newest["state"] == "Failed"
    assert "no worker is online in its pool vps5" in newest["message"]
    told = (running.root / "logs" / "worker-vps3.log").read_text()
    for name in ("vps2", "vps4", "vps5"):
        assert f"pool {name}: no worker is online there" in told
    assert "pool vps3" not in told
    assert "clock: differs by 10 min" in told
    figures = (running.metrics / "gx-backup-health.prom").read_text()
    [offset_seconds] = re.findall(r"^backup_clock_offset_seconds (\S+)$", figures, re.MULTILINE)
    assert 590 < float(offset_seconds) < 660


def test_a_handover_that_was_cancelled_before_it_began_never_begins(
    running: Estate, worker: subprocess.Popen[bytes]
) -> None:
    prefect = Path(sys.executable).parent / "prefect"
    log = running.root / "logs" / "worker-vps3.log"
    await_condition("vps1's worker to be online", lambda: is_ready(running, "vps1"), 60)
    os.kill(worker.pid, signal.SIGSTOP)  # online, as far as the server knows, and taking no run
    elsewhere = running.start_worker("vps3")
    try:
        seen = log.read_text().count("going on as the run")
        running.run(prefect, "deployment", "run", "prune-snapshots", "-p", "server=vps1")
        await_condition("the handover", lambda: log.read_text().count("going on as the run") > seen, 90)
        asking = next(run for run in runs(running, "prune-snapshots") if run["state"] == "Running")
        running.run(prefect, "flow-run", "cancel", asking["id"])
        await_condition(
            "both runs to be cancelled",
            lambda: [run["state"] for run in runs(running, "prune-snapshots")].count("Cancelled") == 2, 90,
        )  # fmt: skip
    finally:
        os.kill(worker.pid, signal.SIGCONT)
        end(elsewhere)


def is_ready(estate: Estate, pool: str) -> bool:
    """Tell whether the server sees a worker online in a pool."""
    code = """
import sys
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    print(client.read_work_pool(sys.argv[1]).status.value)
"""
    return estate.run(sys.executable, "-c", code, pool).stdout.splitlines()[-1] == "READY"


def test_a_prune_by_hand_on_another_host_is_refused(running: Estate) -> None:
    done = running.flow("prune_snapshots", "--server", "vps1", "--no-dry-run", host="vps3", check=False)

    assert done.returncode == 1
    assert "SetupError: signing key: expected a key of host vps1, seen the key of vps3" in done.stdout


def test_a_backup_from_the_command_line_needs_no_server(running: Estate) -> None:
    held = len(complete(running))

    done = running.flow("backup_vps1", PREFECT_API_URL="http://127.0.0.1:9/api")

    assert "does not answer: running without one" in done.stdout
    assert len(complete(running)) == held + 1


def test_an_error_on_the_command_line_is_one_clear_message_without_a_traceback(running: Estate) -> None:
    done = running.flow("restore_website", "--snapshot", "20200101_000000", check=False)

    assert done.returncode == 1
    assert "RestoreRefusedError: website 20200101_000000: refused: there is no such snapshot" in done.stdout
    assert "Traceback" not in done.stdout
