"""`make deploy` and the operator's spelling against a real Prefect server with SQLite."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from estate import BIN, HOSTS, PROJECT, Estate, await_condition, estate

from gxbackup import schedules
from tests.systemd_units import unit, unit_settings

DEPLOY = (sys.executable, PROJECT / "scripts" / "deploy.py", "--root", "/srv/elsewhere")
# What `prefect deployment run` and then the run's own process do, for each deployment: all but the flow itself.
START_EACH = """
import asyncio, os, sys
from prefect.client.orchestration import get_client
from prefect.flows import load_flow_from_flow_run
async def start(client, name):
    deployment = await client.read_deployment_by_name(f"{name}/{name}")
    known = deployment.parameter_openapi_schema
    given = {one: known["properties"][one].get("enum", ["vps1"])[0] for one in known.get("required", [])}
    given |= {one: value for one, value in (("mode", "in-place"), ("approve", True)) if one in known["properties"]}
    run = await client.create_flow_run_from_deployment(deployment.id, parameters=given)
    os.chdir("/")
    flow = await load_flow_from_flow_run(run, use_placeholder_flow=False)
    flow.validate_parameters(run.parameters)
    print("started", name, "as", flow.name, "in", os.getcwd(), "with", len(given))
async def main():
    async with get_client() as client:
        for name in sys.argv[1:]:
            await start(client, name)
asyncio.run(main())
"""


class Server(Estate):
    """An estate with its Prefect server, deployed to twice; in between, an operator was at work on it."""

    first: dict[str, Any]
    first_pools: dict[str, Any]
    said_at_second: str

    @property
    def elsewhere(self) -> Path:
        """Return where the code lies on every host."""
        return self.root / "elsewhere"

    def deploy_once(self) -> str:
        return self.run(*DEPLOY[:-1], self.elsewhere).stdout

    def post(self, path: str, body: Any) -> Any:
        return self.ask("POST", path, body).json()

    def patch(self, path: str, body: Any) -> None:
        self.ask("PATCH", path, body)

    def ask(self, method: str, path: str, body: Any) -> httpx.Response:
        """Ask until the server takes it: with SQLite a busy one answers 503."""
        answers: list[httpx.Response] = []

        def taken() -> bool:
            answers.append(httpx.request(method, f"{self.url}{path}", json=body, timeout=30))
            return answers[-1].status_code != httpx.codes.SERVICE_UNAVAILABLE

        await_condition(f"{method} {path}", taken, 60)
        return answers[-1].raise_for_status()

    def deployments(self) -> dict[str, Any]:
        return {deployment["name"]: deployment for deployment in self.post("/deployments/filter", {})}

    def pools(self) -> dict[str, Any]:
        return {pool["name"]: pool for pool in self.post("/work_pools/filter", {})}

    def scheduled_runs(self, name: str) -> list[Any]:
        scheduled = {"state": {"type": {"any_": ["SCHEDULED"]}}}
        found = self.post("/flow_runs/filter", {"deployments": {"name": {"any_": [name]}}, "flow_runs": scheduled})
        return [run for run in found if run["auto_scheduled"]]

    def operate(self) -> None:
        """Pause a schedule, limit and pause a pool, add a schedule that prefect.yaml has not, and a deployment."""
        paused = self.first["backup-vps4"]
        (daily,) = (schedule for schedule in paused["schedules"] if schedule["slug"] == "daily")
        self.patch(f"/deployments/{paused['id']}/schedules/{daily['id']}", {"active": False})
        self.patch("/work_pools/vps4", {"is_paused": True, "concurrency_limit": 3})
        website = self.first["restore-website"]
        forgotten = {"slug": "forgotten", "schedule": {"cron": "* * * * *", "timezone": "UTC"}, "active": True}
        self.post(f"/deployments/{website['id']}/schedules", [forgotten])
        await_condition("runs of the forgotten schedule", lambda: bool(self.scheduled_runs("restore-website")), 90)
        self.post("/deployments/", {"name": "stranger", "flow_id": website["flow_id"]})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("deploy"))
    made.create()
    try:
        made.start_server()
        made.deploy_once()
        made.first, made.first_pools = made.deployments(), made.pools()
        made.operate()
        made.said_at_second = made.deploy_once()
        yield made
    finally:
        made.stop()


def test_what_is_deployed_is_what_prefect_yaml_says(server: Server) -> None:
    held = dict(server.first)

    for wanted in schedules.load(PROJECT / "prefect.yaml").deployments:
        deployment = held.pop(wanted.name)
        directory = {"prefect.deployments.steps.set_working_directory": {"directory": str(server.elsewhere)}}
        assert deployment["pull_steps"] == [directory]
        assert deployment["work_pool_name"] == wanted.work_pool.name
        assert deployment["job_variables"] == {
            "command": f"'{server.elsewhere}/.venv/bin/python' -m prefect.engine",
            "env": {"PREFECT_LOGGING_EXTRA_LOGGERS": "gxbackup"},
        }
        assert deployment["entrypoint"] == wanted.entrypoint
        assert set(deployment["tags"]) == set(wanted.tags)
        limit = (deployment["global_concurrency_limit"] or {}).get("limit")
        assert limit == (wanted.concurrency_limit.limit if wanted.concurrency_limit else None)
        crons = {s["slug"]: (s["schedule"]["cron"], s["schedule"]["timezone"]) for s in deployment["schedules"]}
        assert crons == {schedule.slug: (schedule.cron, "UTC") for schedule in wanted.schedules}
        assert all(schedule["active"] for schedule in deployment["schedules"])
    assert not held
    assert {name: pool["type"] for name, pool in server.first_pools.items()} == dict.fromkeys(HOSTS, "process")


def test_a_second_deploy_makes_nothing_twice(server: Server) -> None:
    held = server.deployments()

    assert {name: held[name]["id"] for name in server.first} == {name: d["id"] for name, d in server.first.items()}
    assert {name: pool["id"] for name, pool in server.pools().items()} == {
        name: pool["id"] for name, pool in server.first_pools.items()
    }
    assert [schedule["slug"] for schedule in held["backup-vps1"]["schedules"]] == ["daily"]
    last = server.said_at_second.splitlines()[-1]
    assert last == f"deployed {len(server.first)} deployments to {server.url}; their code lies in {server.elsewhere}"


def test_what_an_operator_paused_or_limited_stays_so_and_is_told(server: Server) -> None:
    pool = server.pools()["vps4"]

    active = {one["slug"]: one["active"] for one in server.deployments()["backup-vps4"]["schedules"]}
    assert active == {"daily": False, "orderers": True}
    assert (pool["is_paused"], pool["concurrency_limit"]) == (True, 3)
    assert "deployment backup-vps4: schedule daily: paused by an operator, left paused" in server.said_at_second


def test_a_schedule_that_left_prefect_yaml_fires_no_more(server: Server) -> None:
    assert server.deployments()["restore-website"]["schedules"] == []
    assert server.scheduled_runs("restore-website") == []
    removed = "deployment restore-website: schedule forgotten: no longer in prefect.yaml, removed"
    assert removed in server.said_at_second


def test_a_deployment_that_is_not_in_prefect_yaml_stays_and_is_told(server: Server) -> None:
    assert "stranger" in server.deployments()
    assert "deployment stranger: not in prefect.yaml, left as it is" in server.said_at_second


def test_a_cron_gets_its_runs(server: Server) -> None:
    await_condition("scheduled runs of backup-vps1", lambda: bool(server.scheduled_runs("backup-vps1")), 90)

    assert {run["expected_start_time"][11:19] for run in server.scheduled_runs("backup-vps1")} == {"02:00:00"}


def test_every_deployment_can_be_started_from_the_folder_that_was_deployed(server: Server) -> None:
    server.elsewhere.symlink_to(PROJECT)
    names = [wanted.name for wanted in schedules.load(PROJECT / "prefect.yaml").deployments]

    said = server.run(sys.executable, "-c", START_EACH, *names).stdout

    started = [line.partition(" with ")[0] for line in said.splitlines() if line.startswith("started ")]
    assert started == [f"started {name} as {name} in {PROJECT}" for name in names]


@pytest.mark.parametrize("name", ["restore-website", "restore-website/restore-website"])
def test_an_operator_starts_a_restore_by_its_one_name(server: Server, name: str) -> None:
    said = server.run(BIN / "prefect", "deployment", "run", name, "-p", "snapshot=latest").stdout

    assert "Created flow run" in said


def test_the_one_name_needs_no_setting_in_the_projects_folder(server: Server) -> None:
    done = server.run("env", "-u", "PREFECT_PLUGINS_ENABLED", BIN / "prefect", "deployment", "run", "list-snapshots")

    assert "Created flow run" in done.stdout


def test_a_name_that_is_not_there_is_named(server: Server) -> None:
    done = server.run(BIN / "prefect", "deployment", "run", "restore-wbsite", check=False)

    assert done.returncode == 1
    assert "restore-wbsite" in done.stdout


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"PREFECT_API_URL": ""}, "deploy: PREFECT_API_URL: not set"),
        ({"PREFECT_API_URL": "http://127.0.0.1:9/api"}, "deploy: PREFECT_API_URL=http://127.0.0.1:9/api: no Prefect"),
        ({"GX_INVENTORY": "/nowhere/inventory.yaml"}, "deploy: /nowhere/inventory.yaml: cannot be read"),
    ],
)  # fmt: skip
def test_what_keeps_a_deploy_from_its_work_is_one_line(server: Server, settings: dict[str, str], message: str) -> None:
    done = server.run(*DEPLOY, check=False, **settings)

    assert done.returncode == 1
    assert done.stdout.startswith(message)
    assert "Traceback" not in done.stdout


def test_a_promise_that_no_schedule_keeps_stops_the_deploy(server: Server, tmp_path: Path) -> None:
    hasty = tmp_path / "inventory.yaml"
    hasty.write_text(server.inventory_file.read_text().replace("rpo_hours: 24", "rpo_hours: 6"))

    done = server.run(*DEPLOY, check=False, GX_INVENTORY=str(hasty))

    assert done.returncode == 1
    assert "deploy: prefect.yaml: servers.vps1.data_types.website.rpo_hours: promised 6 h, longest gap" in done.stdout


def test_the_units_commands_make_a_server_with_a_login_and_a_worker_that_finds_it(tmp_path: Path) -> None:
    login = {"PREFECT_API_AUTH_STRING": "admin:CHANGE-ME"}
    home = tmp_path / "home"
    with estate(tmp_path / "estate") as place:
        place.start_server(**unit_settings("gx-backup-server.service", "server.env.example", home))
        refused = [
            place.run(*command, check=False, PREFECT_API_AUTH_STRING=wrong)
            for wrong in ("", "admin:wrong")
            for command in (
                DEPLOY,
                (sys.executable, "-m", "flows.list_snapshots"),
                (BIN / "prefect", "deployment", "run", "restore-website"),
            )
        ]
        place.run(*DEPLOY, **login)
        worker = unit_settings("gx-backup-worker@.service", "worker.env.example", home)
        words = [word.replace("%i", "vps1") for word in unit("gx-backup-worker@.service")["ExecStart"][0].split()]
        place.start("worker", str(BIN / "prefect"), *words[1:], **{**worker, "PREFECT_API_URL": str(place.url)})

        def online() -> bool:
            answer = httpx.post(f"{place.url}/work_pools/vps1/workers/filter", json={}, auth=("admin", "CHANGE-ME"))
            return [(seen["name"], seen["status"]) for seen in answer.json()] == [("vps1", "ONLINE")]

        await_condition("worker of vps1", online, 60)
        page = httpx.get(str(place.url).removesuffix("/api") + "/", follow_redirects=True)

    for done in refused:
        assert done.returncode == 1
        said = f"PREFECT_API_URL={place.url}: the server refused the login\nHINT: set PREFECT_API_AUTH_STRING to "
        assert said in done.stdout
        assert len(done.stdout.splitlines()) <= 3, done.stdout
    assert page.status_code == httpx.codes.OK
    assert (home / "gx-backup-server" / "ui").is_dir()
