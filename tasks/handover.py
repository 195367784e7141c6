"""Hand over: a run that was started in another host's pool goes on in the pool of the host that holds the server."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, WorkPoolStatus
from prefect.logging import get_run_logger
from prefect.states import Cancelled

from gxbackup.errors import RestoreError
from tasks import host

_SECONDS_BETWEEN_LOOKS = 2
_SECONDS_TO_BEGIN = 600


def went_on_elsewhere(server: str) -> bool:
    """
    Return False where this run is in the right place: in the pool of the server's own host, or started by hand.

    Otherwise a run of the same deployment with the same parameters is created in that pool and watched to its end;
    True once it completed.

    Raises: RestoreError at once where no worker is online there, or where that run did not begin in time (it is
    cancelled then, also when this run ends first) or did not complete; what it did is told by that run.
    """
    inventory = host.inventory()
    settings = inventory.server(server)
    if runtime.deployment.id is None:
        return False
    pool = inventory.hosts[settings.runs_on].pool
    with get_client(sync_client=True) as client:
        mine = client.read_flow_run(UUID(runtime.flow_run.id))
        if mine.work_pool_name == pool:
            return False
        require_worker(client, settings.runs_on, f"{server} lives on {settings.runs_on}")
        theirs = _watch(client, _create(client, mine, pool), f"{server} lives on {settings.runs_on}")
    _require_completed(theirs, pool)
    return True


def run_on(host_name: str, deployment: str, parameters: dict[str, Any], step: str) -> None:
    """
    Run another deployment in a host's own pool, once for each step of this run, and return once it completed.

    Raises: RestoreError where no worker is online there, or that run did not begin in time or did not complete.
    """
    pool = host.inventory().hosts[host_name].pool
    with get_client(sync_client=True) as client:
        require_worker(client, host_name, f"{deployment} must run on {host_name}")
        found = client.read_deployment_by_name(f"{deployment}/{deployment}")
        body: dict[str, Any] = {
            "name": f"{deployment} on {host_name}",
            "flow_id": str(found.flow_id),
            "deployment_id": str(found.id),
            "parameters": parameters,
            "job_variables": found.job_variables,
            "tags": found.tags,
            "work_pool_name": pool,
            "state": {"type": "SCHEDULED"},
            # A request that a busy server answered too late is made again, and finds the run that it created.
            "idempotency_key": f"{deployment}-{runtime.flow_run.id}-{step}",
        }
        theirs = _watch(client, _created(client, body), f"{deployment} must run on {host_name}")
    _require_completed(theirs, pool)


def require_worker(client: SyncPrefectClient, host_name: str, why: str) -> None:
    """Raise RestoreError unless a worker is online in a host's own pool."""
    pool = host.inventory().hosts[host_name].pool
    if client.read_work_pool(pool).status != WorkPoolStatus.READY:
        raise RestoreError(
            f"{why}: no worker is online in its pool {pool}",
            f"on {host_name}: systemctl status gx-backup-worker@{pool}",
            "where that host is gone for good: set its replacement up (docs/how-to/set-up-a-host.md)",
        )


def _require_completed(theirs: FlowRun, pool: str) -> None:
    assert theirs.state is not None
    if not theirs.state.is_completed():
        raise RestoreError(
            f"{theirs.name} in the pool {pool}: expected Completed, seen {theirs.state.name}: {theirs.state.message}",
            "that run's page tells what it did",
        )


def _watch(client: SyncPrefectClient, theirs: FlowRun, why: str) -> FlowRun:
    """Return the run once it ended; a run that has not begun is cancelled when nobody watches it any more."""
    logger = get_run_logger()
    logger.info("%s: going on as the run %r", why, theirs.name)
    deadline = time.monotonic() + _SECONDS_TO_BEGIN
    told = None
    try:
        while theirs.state is None or not theirs.state.is_final():
            if theirs.state_name != told:
                told = theirs.state_name
                logger.info("%s: %s", theirs.name, told)
            if not _has_begun(theirs) and time.monotonic() > deadline:
                raise RestoreError(
                    f"{theirs.name}: expected to begin within {_SECONDS_TO_BEGIN} s, seen {told}",
                    "it was cancelled; is its worker busy with as many runs as it may take?",
                )
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            theirs = client.read_flow_run(theirs.id)
    except BaseException:
        # Otherwise an in-place restore that nobody waits for could begin days later.
        if not _has_begun(client.read_flow_run(theirs.id)):
            client.set_flow_run_state(theirs.id, Cancelled(message="the run that asked for it ended"), force=True)
        raise
    return theirs


def _has_begun(run: FlowRun) -> bool:
    return run.state is not None and not (run.state.is_scheduled() or run.state.is_pending())


def _create(client: SyncPrefectClient, mine: FlowRun, pool: str) -> FlowRun:
    body: dict[str, Any] = {
        "name": f"{mine.name} on {pool}",
        "flow_id": str(mine.flow_id),
        "deployment_id": str(mine.deployment_id),
        "parameters": mine.parameters,
        "job_variables": mine.job_variables,
        "tags": mine.tags,
        "work_pool_name": pool,
        "state": {"type": "SCHEDULED"},
        # A retry of this run finds the run that it created before.
        "idempotency_key": f"handover-{mine.id}",
    }
    return _created(client, body)


def _created(client: SyncPrefectClient, body: dict[str, Any]) -> FlowRun:
    answer = client.request("POST", "/flow_runs/", json=body)
    return client.read_flow_run(UUID(answer.json()["id"]))
