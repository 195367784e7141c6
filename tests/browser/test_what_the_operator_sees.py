"""What the operator sees and does in the Prefect UI, in a real browser on a real server with real workers."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from estate import PROJECT, Estate, await_condition, free_port
from site_tree import describe, make_website

from tests.browser.screen import Screen, ask, opened

PICTURES = PROJECT / "docs" / "pictures"
RCLONE = str(Path(sys.executable).parent / "rclone")
# So long a server waits for SQLite's lock before it answers 503.
_WAITS_FOR_SQLITE_SECONDS = 60
STEPS = ("collect website", "compress website: website.tar", "checksum website: website.tar", "upload website",
         "verify website")  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    root = tmp_path_factory.mktemp("ui")
    make_website_at(root / "www" / "gxcoin.money")

    def edit(document: dict[str, Any]) -> None:
        website = document["servers"]["vps1"]["data_types"]["website"]
        website["source"]["root"] = str(root / "www" / "gxcoin.money")
        document["servers"]["vps1"]["data_types"] = {"website": website}

    estate = Estate(root)
    try:
        estate.create(edit)
        estate.start_server()
        estate.deploy()
        estate.start_worker("vps1")
        yield estate
    finally:
        estate.stop()


@pytest.fixture(scope="module")
def screen(running: Estate) -> Iterator[Screen]:
    assert running.url is not None
    with opened(running.url, running.root / "browser") as shown:
        yield shown


@pytest.fixture(scope="module")
def backed_up(running: Estate, screen: Screen) -> str:
    """Start the backup as an operator does, from the deployment's page, and return the run that completed."""

    def quick_run() -> None:
        screen.open(f"deployments/deployment/{deployment(running, 'backup-vps1')}")
        screen.press("Run")
        screen.press("Quick run")

    insist("a run of backup-vps1", quick_run, lambda: newest_run(running, "backup-vps1") is not None)
    return await_run(running, "backup-vps1", "Completed")


def make_website_at(site: Path) -> None:
    site.mkdir(parents=True)
    make_website(site)


def api(estate: Estate, path: str, body: dict[str, Any] | None = None) -> Any:
    assert estate.url is not None
    return ask(estate.url, path, body)


def deployment(estate: Estate, name: str) -> str:
    return str(api(estate, f"/deployments/name/{name}/{name}")["id"])


def start(estate: Estate, name: str, **parameters: object) -> str:
    """Start a deployment through the API and return the run's id."""
    path = f"/deployments/{deployment(estate, name)}/create_flow_run"
    return str(api(estate, path, {"parameters": parameters, "idempotency_key": str(uuid.uuid4())})["id"])


def newest_run(estate: Estate, name: str) -> dict[str, Any] | None:
    """Return the run of a deployment that was started last, not one that its schedule will start."""
    asked = {"deployments": {"name": {"any_": [name]}}, "sort": "EXPECTED_START_TIME_DESC"}
    runs = [run for run in api(estate, "/flow_runs/filter", asked) if not run["auto_scheduled"]]
    return runs[0] if runs else None


def await_run(estate: Estate, name: str, state: str, seconds: float = 180) -> str:
    """Return the id of a deployment's newest run once it is in a state; AssertionError with what all runs say."""

    def reached() -> bool:
        run = newest_run(estate, name)
        return run is not None and run["state_name"] == state

    try:
        await_condition(f"{name} {state}", reached, seconds)
    except TimeoutError as error:
        raise AssertionError(f"{error}\n{told_by_all_runs(estate)}") from None
    run = newest_run(estate, name)
    assert run is not None
    return str(run["id"])


def told_by_all_runs(estate: Estate) -> str:
    """Return each run that was started, with its state and the last lines of its log."""
    told = []
    for run in api(estate, "/flow_runs/filter", {"sort": "EXPECTED_START_TIME_ASC"}):
        if run["auto_scheduled"]:
            continue
        asked = {"logs": {"flow_run_id": {"any_": [run["id"]]}}, "sort": "TIMESTAMP_DESC", "limit": 10}
        lines = [f"  {line['timestamp']} {line['message']}" for line in reversed(api(estate, "/logs/filter", asked))]
        state = run["state"] or {}
        told.append(f"{run['id']} {run['name']}: {run['state_name']} {state.get('message')}")
        told += [f"  expected {run['expected_start_time']}, state since {state.get('timestamp')}", *lines]
    return "\n".join(told)


def keep_picture(screen: Screen, name: str) -> None:
    """Renew a picture of the documentation, where that is asked for."""
    if os.environ.get("GX_PICTURES"):
        PICTURES.mkdir(exist_ok=True)
        screen.picture(PICTURES / f"{name}.png")


def insist(what: str, act: Callable[[], None], done: Callable[[], bool]) -> None:
    """
    Do as a person does where nothing happened: once more. A busy server on SQLite answers a click with 503.

    Not before that answer can have come: a second run of a restore would wait for the first, which waits for approval.
    """
    for _ in range(3):
        act()
        with suppress(TimeoutError):
            await_condition(what, done, _WAITS_FOR_SQLITE_SECONDS + 30)
            return
    raise AssertionError(f"{what}: done three times, to no effect")


def pause_restore(estate: Estate, screen: Screen) -> str:
    """Start an in-place restore from the deployment's form in the UI; return the run that waits for approval."""
    before = newest_run(estate, "restore-website")

    def submit() -> None:
        parameters = json.dumps({"mode": "in-place", "restart_container": ""})
        screen.open(f"deployments/deployment/{deployment(estate, 'restore-website')}/run", parameters=parameters)
        screen.await_texts("restarted after an in-place restore")
        screen.press("Submit")

    def started() -> bool:
        run = newest_run(estate, "restore-website")
        return run is not None and run["id"] != (before or {}).get("id")

    insist("a run of restore-website", submit, started)
    screen.leave()
    return await_run(estate, "restore-website", "Paused")


def answer(estate: Estate, screen: Screen, run: str, target: str, picture: str = "") -> None:
    """Resume a paused run: type this target into its form, choose approve, submit."""

    def submit() -> None:
        screen.open_run(run)
        screen.await_texts("Paused", "waiting for approval in the UI")
        screen.press("Resume")
        screen.await_texts("Confirm Target")
        screen.fill("Confirm Target", target)
        screen.fill("Action", "approve")
        if picture:
            keep_picture(screen, picture)
        screen.press("Submit")

    insist(f"{run} resumed", submit, lambda: api(estate, f"/flow_runs/{run}")["state_name"] != "Paused")
    screen.leave()


def test_a_backup_is_a_graph_of_tasks_with_names_that_people_read(
    running: Estate, screen: Screen, backed_up: str
) -> None:
    screen.open_run(backed_up)

    screen.await_texts("backup vps1", "Completed", "8 Task runs", "is complete and proven")
    screen.await_green_bars()
    keep_picture(screen, "run-completed")
    screen.press("Task Runs")
    shown = screen.await_texts("survey vps1", *STEPS, "prune vps1")
    assert re.search(r"^commit vps1 \d{8}_\d{6}$", shown, re.MULTILINE)
    nodes = dict(api(running, f"/flow_runs/{backed_up}/graph-v2")["nodes"])
    arrows = {(nodes[parent["id"]]["label"], node["label"]) for node in nodes.values() for parent in node["parents"]}
    assert {("collect website", STEPS[1]), (STEPS[1], STEPS[2]), (STEPS[2], "upload website")} <= arrows


def test_the_report_of_a_backup_tells_what_is_safe_and_why_each_copy_stays(screen: Screen, backed_up: str) -> None:
    screen.open_run(backed_up)
    screen.press("Artifacts")

    screen.follow("/artifacts/artifact/")

    shown = screen.await_texts("Complete and proven.", "Safe on the remote", "Pruned")
    assert "**" not in shown
    assert "|---" not in shown
    assert "files/website/website.tar.zst.age" in shown
    assert "newest good copy 1 of 3" in shown
    keep_picture(screen, "report")


def test_the_proofs_tell_the_worst_first_and_what_is_proven(running: Estate, screen: Screen, backed_up: str) -> None:
    document = yaml.safe_load(running.inventory_file.read_text())
    document["servers"] = {"vps1": document["servers"]["vps1"]}
    website = document["servers"]["vps1"]["data_types"]["website"]
    proven, promised = running.root / "proven.yaml", running.root / "promised.yaml"
    proven.write_text(yaml.safe_dump(document))
    document["servers"]["vps1"]["data_types"]["ssh-keys"] = {**website, "rpo_hours": 168}
    promised.write_text(yaml.safe_dump(document))
    running.flow("verify_integrity", GX_INVENTORY=str(proven))
    running.flow("drill_disaster_recovery", GX_INVENTORY=str(proven))

    done = running.flow("check_backup_health", GX_INVENTORY=str(promised), check=False)

    assert done.returncode == 1
    for key, head, *told in (
        ("backup-health", "Backups: 1 failing", "vps1 ssh-keys", "never backed up", "docs/runbooks/alert-"),
        ("verify-integrity", "Everything that is held: all is as it was sent", "members vetted", "1 of 1 artifacts"),
        ("drill-disaster-recovery", "Disaster recovery drill: all restored, evidence equal", "0 too old, 0 too slow"),
    ):
        (report,) = api(running, "/artifacts/filter", {"artifacts": {"key": {"any_": [key]}}})
        screen.open(f"artifacts/artifact/{report['id']}")
        screen.await_texts(head, *told)
        keep_picture(screen, key)


def test_a_failed_backup_names_the_missing_data_type_and_gives_a_hint(
    running: Estate, screen: Screen, backed_up: str
) -> None:
    site = running.root / "www" / "gxcoin.money"
    site.rename(site.with_name("away"))
    try:
        start(running, "backup-vps1")
        failed = await_run(running, "backup-vps1", "Failed")
    finally:
        site.with_name("away").rename(site)

    screen.open_run(failed)

    shown = screen.await_texts("Failed", "IncompleteBackupError", "HINT: safe in this snapshot: nothing")
    assert "1 of 1 data types are missing: website" in shown
    assert f"{site}: expected a directory, seen nothing" in shown
    assert "HINT: was it moved, or is its disk not mounted?" in shown
    assert "Traceback" not in shown


def test_a_wrong_target_typed_in_the_form_changes_nothing(running: Estate, screen: Screen, backed_up: str) -> None:
    site = running.root / "www" / "gxcoin.money"
    (site / "index.html").write_bytes(b"<h1>changed since</h1>\n")
    before = describe(site)
    run = pause_restore(running, screen)

    answer(running, screen, run, "/var/www/other-site")

    await_run(running, "restore-website", "Failed")
    screen.open_run(run)
    screen.await_texts("Failed", f"RestoreRefusedError: {site}: not approved", "HINT: nothing was changed")
    assert describe(site) == before
    assert [entry.name for entry in site.parent.iterdir()] == [site.name]


def test_a_person_approves_in_the_form_and_the_destroyed_website_is_back_equal(running: Estate, screen: Screen) -> None:
    site = running.root / "www" / "gxcoin.money"
    before = describe(site)
    start(running, "backup-vps1")
    await_run(running, "backup-vps1", "Completed")
    shutil.rmtree(site)
    run = pause_restore(running, screen)
    assert not site.exists()

    answer(running, screen, run, str(site), picture="approval")

    await_run(running, "restore-website", "Completed")
    screen.open_run(run)
    screen.await_texts("Completed", "restored; evidence equal")
    assert describe(site) == before


def test_a_slow_upload_tells_bytes_rate_and_time_left(running: Estate, screen: Screen) -> None:
    port, folder = free_port(), running.root / "slow"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "noise.bin").write_bytes(random.Random(5).randbytes(8 * 1024**2))
    (folder / "rclone.conf").write_text(f"[slow]\ntype = webdav\nurl = http://127.0.0.1:{port}\nvendor = rclone\n")
    document = yaml.safe_load(running.inventory_file.read_text())
    document["remote"]["path"] = "slow:gx-backups"
    source = {"kind": "directory", "root": str(folder / "data"), "restores": "overlay"}
    promise = {"source": source, "rpo_hours": 24, "keep_days": 30, "restore_flow": "restore-host-config"}
    document["servers"]["vps2"]["data_types"] = {"noise": promise}
    (folder / "inventory.yaml").write_text(yaml.safe_dump(document))
    (folder / "served").mkdir()
    running.start("webdav", RCLONE, "serve", "webdav", str(folder / "served"), "--addr", f"127.0.0.1:{port}")
    running.start_worker(
        "vps2", GX_INVENTORY=str(folder / "inventory.yaml"), RCLONE_CONFIG=str(folder / "rclone.conf"),
        GX_STAGING_DIR=str(running.staging), RCLONE_BWLIMIT="1M:off",
    )  # fmt: skip
    run = start(running, "backup-vps2")
    progress: list[dict[str, Any]] = []

    def told() -> bool:
        asked = {"flow_runs": {"id": {"any_": [run]}}, "artifacts": {"type": {"any_": ["progress"]}}}
        progress.extend(api(running, "/artifacts/filter", asked))
        state = api(running, f"/flow_runs/{run}")["state_name"]
        assert state != "Failed", api(running, f"/flow_runs/{run}")["state"]["message"]
        return bool(state == "Completed")

    await_condition("the slow backup", told, 180)

    words = r"upload noise: [\d.]+ [KM]iB of 8\.\d MiB, [\d.]+ [KM]iB/s, \d+ s left"
    under_way = [shown for shown in progress if 0 < shown["data"] < 100]
    assert under_way and all(re.fullmatch(words, shown["description"]) for shown in under_way)
    assert (progress[-1]["data"], progress[-1]["description"]) == (100, "upload noise: done")
    assert len({shown["id"] for shown in progress}) == 1
    screen.open_run(run)
    assert re.search(words, screen.await_texts("Completed", "s left"))
    screen.press("Artifacts")
    screen.await_texts("upload noise: done")
