"""prefect.yaml against the inventory, the flows, the pools and the runbooks; what Prefect itself would not notice."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from cronsim import CronSim
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from prefect import Flow
from prefect.cli.deploy._models import ConcurrencyLimitSpec, DeploymentConfig, PrefectYamlModel, WorkPoolConfig
from prefect.flows import load_flow_from_entrypoint
from prefect.server.schemas.schedules import CronSchedule
from prefect.utilities.processutils import command_from_string
from prefect.utilities.templating import apply_values

from gxbackup import inventory, schedules
from gxbackup.errors import InventoryError
from gxbackup.schedules import Deployment, Deployments

PROJECT = Path(__file__).resolve().parent.parent
# Flow files that no deployment starts: recipes, and what the command line needs.
SHARED = {"__init__", "recipes", "data_recipe", "proofs", "rehearsals", "k3s_recovery", "command_line"}


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    monkeypatch.delenv("GX_INVENTORY", raising=False)


def wanted() -> Deployments:
    return schedules.load(PROJECT / "prefect.yaml")


def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((PROJECT / "prefect.yaml").read_text())
    return loaded


def each_deployment() -> list[Any]:
    return [pytest.param(deployment, id=deployment.name) for deployment in wanted().deployments]


def flow_of(deployment: Deployment) -> Flow[..., Any]:
    return load_flow_from_entrypoint(deployment.entrypoint)


def test_every_promise_has_a_schedule_that_keeps_it() -> None:
    schedules.check(inventory.load(), wanted())


def test_no_key_is_one_that_prefect_would_ignore() -> None:
    written = document()

    PrefectYamlModel.model_validate(written)

    assert set(written) - {"definitions"} <= set(PrefectYamlModel.model_fields)
    for deployment in written["deployments"]:
        assert set(deployment) <= set(DeploymentConfig.model_fields), deployment["name"]
        assert set(deployment["work_pool"]) <= set(WorkPoolConfig.model_fields), deployment["name"]
        assert set(deployment.get("concurrency_limit", {})) <= set(ConcurrencyLimitSpec.model_fields)


@pytest.mark.parametrize("deployment", each_deployment())
def test_file_function_flow_and_deployment_have_one_name_and_the_flow_loads(deployment: Deployment) -> None:
    flow = flow_of(deployment)

    assert flow.name == deployment.name
    assert flow.fn.__name__ == deployment.name.replace("-", "_")
    assert inspect.getsourcefile(flow.fn) == str(PROJECT / deployment.entrypoint.split(":")[0])


@pytest.mark.parametrize("deployment", each_deployment())
def test_parameters_fit_the_flow(deployment: Deployment) -> None:
    flow = flow_of(deployment)
    required = set(flow.parameters.required)
    given = [deployment.parameters, *({**deployment.parameters, **s.parameters} for s in deployment.schedules)]

    for parameters in given:
        assert set(parameters) <= set(flow.parameters.properties)
        assert not deployment.schedules or required <= set(parameters)
        examples = {name: flow.parameters.properties[name].get("enum", ["vps1"])[0] for name in required}
        flow.validate_parameters({**examples, **parameters})


@pytest.mark.parametrize("deployment", each_deployment())
def test_the_description_tells_the_operator_what_it_promises_and_where_the_runbook_is(deployment: Deployment) -> None:
    description = flow_of(deployment).description or ""

    lines = [line.strip() for line in description.splitlines()]
    runbooks = [line.split()[1] for line in lines if line.startswith("Restore:")]
    assert any(line.startswith("Protects:") for line in lines)
    assert any(line.startswith("Promise:") for line in lines)
    assert runbooks
    assert (PROJECT / runbooks[0]).is_file(), runbooks[0]


def test_every_restore_has_the_runbook_of_its_own_name() -> None:
    restores = [deployment.name for deployment in wanted().deployments if deployment.name.startswith("restore-")]

    missing = [name for name in restores if not (PROJECT / "docs" / "runbooks" / f"{name}.md").is_file()]

    assert restores
    assert not missing


def test_every_restore_flow_of_the_inventory_is_deployed() -> None:
    named = {
        data_type.restore_flow
        for server in inventory.load().servers.values()
        for data_type in server.data_types.values()
        if data_type.restore_flow
    }

    assert named <= {deployment.name for deployment in wanted().deployments}


def test_every_flow_file_is_deployed() -> None:
    stems = {path.stem for path in (PROJECT / "flows").glob("*.py")} - SHARED

    assert stems == {deployment.name.replace("-", "_") for deployment in wanted().deployments}


def test_no_flow_file_takes_the_name_of_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    # Prefect loads flows/x.py as the top-level module x, and puts flows/ in front of every other place.
    monkeypatch.setattr("sys.path", [entry for entry in importlib.import_module("sys").path if "flows" not in entry])

    taken = [path.stem for path in (PROJECT / "flows").glob("*.py") if _importable(path.stem)]

    assert not taken


def _importable(stem: str) -> bool:
    importlib.invalidate_caches()
    found = importlib.util.find_spec(stem) if stem != "__init__" else None
    return found is not None and (found.origin is None or Path(found.origin).parent != PROJECT / "flows")


def test_every_pool_has_its_file_and_every_host_its_pool() -> None:
    files = {path.stem for path in (PROJECT / "deployments" / "work-pools").iterdir()}

    assert files == {host.pool for host in inventory.load().hosts.values()}


def test_every_run_is_started_by_the_python_of_the_folder_that_was_deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GX_ROOT", "/srv/gx backup")

    commands = [apply_values(deployment.work_pool.job_variables, {})["command"] for deployment in wanted().deployments]

    assert commands
    for command in commands:
        assert command_from_string(command) == ["/srv/gx backup/.venv/bin/python", "-m", "prefect.engine"]


def test_every_server_has_its_backup() -> None:
    backups = {deployment.name for deployment in wanted().deployments}

    assert {f"backup-{server}" for server in inventory.load().servers} <= backups


def test_prefect_fires_each_cron_when_the_schedule_check_says() -> None:
    start = datetime(2027, 2, 27, 0, 31, tzinfo=UTC)
    for deployment in wanted().deployments:
        for schedule in deployment.schedules:
            theirs = CronSchedule(cron=schedule.cron, timezone=schedule.timezone)
            crons = CronSim(schedule.cron, start)

            assert [moment.astimezone(UTC) for moment in theirs._get_dates_generator(10, start)] == [
                next(crons) for _ in range(10)
            ]


def test_no_two_backups_begin_in_the_same_minute() -> None:
    crons = [schedule.cron for deployment in wanted().deployments for schedule in deployment.schedules]

    assert len(crons) == len(set(crons))


def test_the_lock_holds_every_package_that_the_project_names() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    named = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["dev"],
        *project["build-system"]["requires"],
    ]
    lock = (PROJECT / "requirements.lock").read_text()
    locked = dict(line.split(" ")[0].split("==") for line in lock.splitlines() if "==" in line)

    wrong = [
        text
        for requirement in map(Requirement, named)
        if (text := str(requirement))
        and not requirement.specifier.contains(locked.get(canonicalize_name(requirement.name), "0"))
    ]

    assert not wrong
    assert lock.count("--hash=sha256:") > len(locked)
    assert "://" not in lock


def changed(change: Any) -> Deployments:
    written = document()
    change({deployment["name"]: deployment for deployment in written["deployments"]}, written)
    return Deployments.model_validate(written)


def weekly(by_name: dict[str, Any], _: Any) -> None:
    by_name["backup-vps1"]["schedules"] = [{"slug": "weekly", "cron": "0 2 * * 0", "timezone": "UTC"}]


def only_the_website(by_name: dict[str, Any], _: Any) -> None:
    by_name["backup-vps1"]["schedules"][0]["parameters"] = {"only": ["website"]}


def another_hosts_pool(by_name: dict[str, Any], _: Any) -> None:
    by_name["backup-vps1"]["work_pool"] = {"name": "vps2"}


def no_such_pool(by_name: dict[str, Any], _: Any) -> None:
    by_name["restore-website"]["work_pool"] = {"name": "vps9"}


def two_at_once(by_name: dict[str, Any], _: Any) -> None:
    by_name["backup-vps1"]["concurrency_limit"] = {"limit": 2, "collision_strategy": "ENQUEUE"}


def scheduled_restore(by_name: dict[str, Any], _: Any) -> None:
    by_name["restore-website"]["schedules"] = [{"slug": "daily", "cron": "0 5 * * *", "timezone": "UTC"}]


def nobodys_backup(by_name: dict[str, Any], written: Any) -> None:
    stray = {"name": "backup-vps9", "tags": ["backup"], "entrypoint": "flows/backup_vps9.py:backup_vps9"}
    written["deployments"].append({**by_name["backup-vps1"], **stray})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (weekly, r"servers\.vps1\.data_types\.website\.rpo_hours: promised 24 h, longest gap .* 168 h \(0 2 \* \* 0\)"),
        (only_the_website, r"servers\.vps1\.data_types\.docker-state\.rpo_hours: promised 24 h, no schedule covers it"),
        (another_hosts_pool, r"deployments\.backup-vps1\.work_pool\.name: expected 'vps1', seen 'vps2'"),
        (no_such_pool, r"deployments\.restore-website\.work_pool\.name: 'vps9' is no host's pool"),
        (two_at_once, r"deployments\.backup-vps1\.concurrency_limit: expected limit 1"),
        (scheduled_restore, r"deployments\.restore-website\.schedules: a restore is started by a person"),
        (nobodys_backup, r"deployments\.backup-vps9\.tags: expected exactly one server of the inventory"),
    ],
)
def test_a_broken_promise_is_one_line_with_its_path(change: Any, message: str) -> None:
    with pytest.raises(InventoryError, match=rf"^prefect\.yaml: {message}") as caught:
        schedules.check(inventory.load(), changed(change))

    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schedules: [{slug: daily, cron: \"0 2", "schedulez: [{slug: daily, cron: \"0 2", "schedulez: unknown key"),
        ('cron: "0 2 * * *"', 'cron: "0 25 * * *"', "not a cron expression"),
        ('cron: "0 2 * * *"', 'cron: "0 2 30 2 *"', "not a cron expression: Bad day-of-month"),
        ('cron: "0 2 * * *", timezone: UTC', 'cron: "0 2 * * *", timezone: Europe/Berlin', "timezone"),
        ('cron: "0 2 * * *", timezone: UTC', 'cron: "0 2 * * *"', "timezone: Field required"),
        ('cron: "0 2 * * *"', 'active: true, cron: "0 2 * * *"', "active: unknown key"),
        ("name: backup-vps1\n", "name: backup-vps2\n", "expected entrypoint 'flows/backup_vps2.py:backup_vps2'"),
        ("pull:", "pull:\npull:", "'pull' is given twice"),
        ("limit: 1,", "limit: 0,", "limit"),
    ],
)  # fmt: skip
def test_a_slip_of_the_pen_is_one_line_with_its_path(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (PROJECT / "prefect.yaml").read_text()
    assert old in text
    edited = tmp_path / "prefect.yaml"
    edited.write_text(text.replace(old, new))

    with pytest.raises(InventoryError) as caught:
        schedules.load(edited)

    assert message in caught.value.message
    assert str(edited) in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("crons", "hours"),
    [
        (["0 2 * * *"], 24),
        (["0 */6 * * *"], 6),
        (["0 */7 * * *"], 7),
        (["0 0 * * *", "0 12 * * *"], 12),
        (["0 2 * * 0"], 168),
        (["0 2 * * 1-5"], 72),
        (["0 0 1 * *"], 31 * 24),
    ],
)
def test_the_longest_gap_is_the_one_that_counts(crons: list[str], hours: float) -> None:
    assert schedules.longest_gap(crons).total_seconds() / 3600 == hours
