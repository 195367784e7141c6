"""Hand over: a run that was started in another host's pool goes on in the pool of the host that holds the server."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.logging import get_run_logger

from gxbackup.errors import RestoreError
from tasks import host

_SECONDS_BETWEEN_LOOKS = 5


def went_on_elsewhere(server: str) -> bool:
    """
    Return False where this run is in the right place: in the pool of the server's own host, or started by hand.

    Otherwise a run of the same deployment with the same parameters is created in that pool and watched to its end;
    True once it completed.

    Raises: RestoreError where that run did not complete; what it did is told by that run.
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
        theirs = _create(client, mine, pool)
        get_run_logger().info(
            "%s lives on %s: going on as the run %r in the pool %s", server, settings.runs_on, theirs.name, pool
        )
        while theirs.state is None or not theirs.state.is_final():
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            theirs = client.read_flow_run(theirs.id)
    assert theirs.state is not None
    if not theirs.state.is_completed():
        raise RestoreError(
            f"{theirs.name} in the pool {pool}: expected Completed, seen {theirs.state.name}: {theirs.state.message}",
            "that run's page tells what it did",
        )
    return True


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
    answer = client.request("POST", "/flow_runs/", json=body)
    return client.read_flow_run(UUID(answer.json()["id"]))
