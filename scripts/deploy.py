"""
Bring the Prefect server in line with prefect.yaml: schedules checked, pools made, deployments applied, leftovers told;
then its automations with deployments/automations.yaml.

May be run again at any time: a pool, a pause or a limit that an operator set stays. Run it with `make deploy`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Literal

import automations
import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.settings import PREFECT_API_URL
from prefect.workers.process import ProcessWorker

from gxbackup import inventory, schedules
from gxbackup.adapters import process
from gxbackup.documents import read_document
from gxbackup.errors import BackupError, SetupError
from gxbackup.model import Frozen
from gxbackup.schedules import Deployment
from tasks.server_login import refused

PROJECT = Path(__file__).resolve().parent.parent
POOLS = PROJECT / "deployments" / "work-pools"
DEFAULT_ROOT = Path("/opt/gx-backup")


class PoolFile(Frozen):
    """One file of deployments/work-pools; its name is the pool's."""

    type: Literal["process"]
    description: str


def main() -> int:
    """Deploy; one line for each thing done, and an exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=DEFAULT_ROOT, help="the project's folder on every worker's host")
    root = parser.parse_args().root
    os.chdir(PROJECT)
    try:
        wanted = schedules.load()
        reactions = automations.load()
        schedules.check(inventory.load(), wanted)
        if not PREFECT_API_URL.value():
            raise SetupError(
                "PREFECT_API_URL: not set, so there is no Prefect server to deploy to",
                "export PREFECT_API_URL=http://127.0.0.1:4200/api, or the address of your server",
            )
        with get_client(sync_client=True) as client:
            require_server(client)
            make_pools(client, sorted({deployment.work_pool.name for deployment in wanted.deployments}))
            remove_vanished_schedules(client, wanted.deployments)
            apply(root.absolute())
            settle(client, wanted.deployments)
            automations.apply(client, reactions)
    except BackupError as error:
        print(f"deploy: {error}", file=sys.stderr)
        return 1
    except httpx.HTTPError as error:
        print(f"deploy: {PREFECT_API_URL.value()}: {error}", file=sys.stderr)
        return 1
    print(f"deployed {len(wanted.deployments)} deployments to {PREFECT_API_URL.value()}; their code lies in {root}")
    return 0


def require_server(client: SyncPrefectClient) -> None:
    """Return where a Prefect server answers and lets us in; SetupError says what to set otherwise."""
    url = PREFECT_API_URL.value()
    if (trouble := client.api_healthcheck()) is not None:
        raise SetupError(
            f"PREFECT_API_URL={url}: no Prefect server answers: {trouble}",
            "is it running? `systemctl status gx-backup-server`",
        )
    try:
        client.read_work_pools(limit=1)
    except httpx.HTTPStatusError as error:
        if error.response.status_code != httpx.codes.UNAUTHORIZED:
            raise
        raise refused(url) from None


def make_pools(client: SyncPrefectClient, names: list[str]) -> None:
    """Make the pools that are missing; one that is there keeps its pause, its limit and its template."""
    there = {pool.name for pool in client.read_work_pools(limit=200)}
    for name in names:
        settings = read_document(POOLS / f"{name}.yaml", PoolFile, "each pool has a file: type, description")
        if name in there:
            continue
        client.create_work_pool(
            WorkPoolCreate(
                name=name,
                type=settings.type,
                description=settings.description,
                base_job_template=ProcessWorker.get_default_base_job_template(),
            )
        )
        print(f"work pool {name}: made")


def apply(root: Path) -> None:
    """
    Let Prefect apply prefect.yaml, for code that lies in `root` on the workers' hosts.

    Raises: SetupError with the end of what Prefect said.
    """
    prefect = Path(sys.executable).parent / "prefect"
    settings = {name: value for name, value in os.environ.items() if name.startswith("PREFECT_")}
    done = process.run(
        [prefect, "--no-prompt", "deploy", "--all"],
        timeout_seconds=600,
        env={**settings, "GX_ROOT": str(root), "NO_COLOR": "1"},
        cwd=PROJECT,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr + done.stdout).decode("utf-8", "replace").strip().splitlines()
        raise SetupError("prefect deploy failed: " + " | ".join(line.strip() for line in said[-5:] if line.strip()))


def remove_vanished_schedules(client: SyncPrefectClient, wanted: tuple[Deployment, ...]) -> None:
    """Remove the schedules of ours that left prefect.yaml: Prefect would keep firing them."""
    held = _held(client)
    for deployment in wanted:
        if deployment.name not in held:
            continue
        slugs = {schedule.slug for schedule in deployment.schedules}
        for schedule in held[deployment.name].schedules:
            if schedule.slug and schedule.slug not in slugs:
                client.delete_deployment_schedule(held[deployment.name].id, schedule.id)
                print(f"deployment {deployment.name}: schedule {schedule.slug}: no longer in prefect.yaml, removed")


def settle(client: SyncPrefectClient, wanted: tuple[Deployment, ...]) -> None:
    """
    Check that all arrived, remove runs that a removed schedule left, and tell what else differs from prefect.yaml.

    Raises: SetupError where a deployment or a schedule did not arrive.
    """
    held = _held(client)
    for deployment in wanted:
        if deployment.name not in held:
            raise SetupError(f"{deployment.name}: Prefect said nothing, and did not deploy it")
        _check_schedules(deployment, held[deployment.name])
        _remove_orphaned_runs(client, held[deployment.name])
    for name in sorted(held.keys() - {deployment.name for deployment in wanted}):
        print(f"deployment {name}: not in prefect.yaml, left as it is")


def _held(client: SyncPrefectClient) -> dict[str, DeploymentResponse]:
    return {deployment.name: deployment for deployment in client.read_deployments(limit=200)}


def _check_schedules(wanted: Deployment, held: DeploymentResponse) -> None:
    expected = {schedule.slug: schedule.cron for schedule in wanted.schedules}
    found = {
        schedule.slug: schedule.schedule.cron
        for schedule in held.schedules
        if schedule.slug and isinstance(schedule.schedule, CronSchedule)
    }
    if found != expected:
        raise SetupError(f"deployment {held.name}: expected schedules {expected}, the server has {found}")
    for schedule in held.schedules:
        if not schedule.slug:
            print(f"deployment {held.name}: a schedule made by hand, left as it is: {schedule.schedule}")
        elif not schedule.active:
            print(f"deployment {held.name}: schedule {schedule.slug}: paused by an operator, left paused")


def _remove_orphaned_runs(client: SyncPrefectClient, held: DeploymentResponse) -> None:
    """Remove the runs that the scheduler put down while their schedule was being removed."""
    scheduled = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[held.id]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
    )
    alive = {schedule.id for schedule in held.schedules}
    for run in client.read_flow_runs(flow_run_filter=scheduled, limit=200):
        if run.created_by and run.created_by.type == "SCHEDULE" and run.created_by.id not in alive:
            client.delete_flow_run(run.id)


if __name__ == "__main__":
    sys.exit(main())
