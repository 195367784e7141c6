"""
`prefect.yaml`, read strictly and held against the inventory: a promise that no schedule keeps is an error here.

Knows the file's format and no Prefect, which ignores a misspelt key and deploys without it. `python -m
gxbackup.schedules` checks both files.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, Field, StringConstraints, model_validator

from gxbackup import inventory as promises
from gxbackup.documents import read_document
from gxbackup.errors import InventoryError
from gxbackup.inventory import Inventory, Name
from gxbackup.model import Frozen

DEFAULT_PATH = Path("prefect.yaml")
HINT = "docs/reference/deployments.md tells what each key means"

# Sources whose copies no flow puts back.
READ_BY_PEOPLE = ("docker_state",)
# Crons repeat within a year; the moment itself is arbitrary, and fixed so that the answer never depends on the day.
_FROM = datetime(2027, 1, 1, tzinfo=UTC)
_SIMULATED = timedelta(days=400)


def _valid(cron: str) -> str:
    try:
        CronSim(cron, _FROM)
    except CronSimError as error:
        raise ValueError(f"not a cron expression: {error}") from None
    return cron


Entrypoint = Annotated[str, StringConstraints(pattern=r"^flows/[a-z][a-z0-9_]*\.py:[a-z][a-z0-9_]*$")]
Cron = Annotated[str, AfterValidator(_valid)]


class Schedule(Frozen):
    """One cron of a deployment. No `active`: with it, a deploy would start again what an operator paused."""

    slug: Name
    cron: Cron
    timezone: Literal["UTC"]
    parameters: dict[str, Any] = Field(default_factory=dict)


class Concurrency(Frozen):
    """How many runs of a deployment may be at work at once."""

    limit: int = Field(ge=1)
    collision_strategy: Literal["CANCEL_NEW", "ENQUEUE"]


class WorkPool(Frozen):
    """Whose worker takes the runs."""

    name: Name
    job_variables: dict[str, Any] = Field(default_factory=dict)


class Deployment(Frozen):
    """One thing that an operator can start; file, function, flow and deployment have one name."""

    name: Name
    entrypoint: Entrypoint
    tags: tuple[Name, ...]
    work_pool: WorkPool
    parameters: dict[str, Any] = Field(default_factory=dict)
    concurrency_limit: Concurrency | None = None
    schedules: tuple[Schedule, ...] = ()

    @model_validator(mode="after")
    def _one_name(self) -> Self:
        word = self.name.replace("-", "_")
        if self.entrypoint != (expected := f"flows/{word}.py:{word}"):
            raise ValueError(f"{self.name}: expected entrypoint {expected!r}, seen {self.entrypoint!r}")
        if len({schedule.slug for schedule in self.schedules}) < len(self.schedules):
            raise ValueError(f"{self.name}: two schedules have one slug, and the second would replace the first")
        return self


class Deployments(Frozen):
    """`prefect.yaml`."""

    definitions: dict[str, Any] = Field(default_factory=dict, description="YAML anchors; Prefect does not read it")
    pull: tuple[dict[str, dict[str, str]], ...] = Field(min_length=1)
    deployments: tuple[Deployment, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        names = [deployment.name for deployment in self.deployments]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"deployments: {name!r} is there twice, and only the last one would be deployed")
        return self


def load(path: Path = DEFAULT_PATH) -> Deployments:
    """Read `prefect.yaml`; InventoryError with the path of the first fault in the file."""
    return read_document(path, Deployments, HINT)


def check(inventory: Inventory, deployments: Deployments) -> None:
    """
    Hold every promise against the schedules.

    Raises: InventoryError where a data type's RPO is met by no schedule, a backup runs on another host's pool, a
    backup may run twice at once, or what is to be restored has no restore that is deployed.
    """
    restores = [one.name for one in deployments.deployments if one.name.startswith("restore-")]
    for deployment in deployments.deployments:
        _check_deployment(deployment, inventory)
    for name, server in inventory.servers.items():
        for data_type, promise in server.data_types.items():
            # A misspelt one is left out by the restore of its host, a missing one is never rehearsed; nobody is told.
            if promise.restore_flow not in restores and promise.source.kind not in READ_BY_PEOPLE:
                seen = repr(promise.restore_flow) if promise.restore_flow else "none"
                raise InventoryError(
                    f"servers.{name}.data_types.{data_type}.restore_flow: expected a restore that is deployed, "
                    f"seen {seen}",
                    f"choose from: {', '.join(restores)}",
                )
            crons = list(_crons(deployments.deployments, name, data_type, inventory))
            where = f"servers.{name}.data_types.{data_type}.rpo_hours"
            if not crons:
                raise InventoryError(f"prefect.yaml: {where}: promised {promise.rpo_hours:g} h, no schedule covers it")
            gap_hours = longest_gap(crons) / timedelta(hours=1)
            if gap_hours > promise.rpo_hours:
                raise InventoryError(
                    f"prefect.yaml: {where}: promised {promise.rpo_hours:g} h, longest gap between firings is "
                    f"{gap_hours:g} h ({', '.join(crons)})"
                )


def longest_gap(crons: Iterable[str]) -> timedelta:
    """Return the longest time between two firings of these crons (UTC), taken together."""
    until = _FROM + _SIMULATED
    firings = {moment for cron in crons for moment in _firings(cron, until)}
    return max((later - earlier for earlier, later in pairwise(sorted(firings))), default=_SIMULATED)


def _firings(cron: str, until: datetime) -> Iterator[datetime]:
    for moment in CronSim(cron, _FROM):
        if moment > until:
            return
        yield moment


def _server_of(deployment: Deployment, inventory: Inventory) -> str | None:
    """Return the server whose backup this is: the one that its tags name."""
    servers = [tag for tag in deployment.tags if tag in inventory.servers]
    return servers[0] if len(servers) == 1 else None


def _crons(deployments: Iterable[Deployment], server: str, data_type: str, inventory: Inventory) -> Iterator[str]:
    """Give the crons that cover a data type, by their runs' parameters `only`, `without` and `rpo_hours`."""
    rpo_hours = inventory.servers[server].data_types[data_type].rpo_hours
    for deployment in deployments:
        if not deployment.name.startswith("backup-") or _server_of(deployment, inventory) != server:
            continue
        for schedule in deployment.schedules:
            given = {**deployment.parameters, **schedule.parameters}
            if given.get("only") is not None:
                covered = data_type in given["only"]
            elif "rpo_hours" in given:
                covered = rpo_hours <= given["rpo_hours"]
            else:
                covered = data_type not in given.get("without", ())
            if covered:
                yield schedule.cron


def _check_deployment(deployment: Deployment, inventory: Inventory) -> None:
    where = f"prefect.yaml: deployments.{deployment.name}"
    pools = {host.pool for host in inventory.hosts.values()}
    if deployment.work_pool.name not in pools:
        raise InventoryError(f"{where}.work_pool.name: {deployment.work_pool.name!r} is no host's pool")
    if deployment.name.startswith("restore-") and deployment.schedules:
        raise InventoryError(f"{where}.schedules: a restore is started by a person, never by a schedule")
    if not deployment.name.startswith("backup-"):
        return
    if (server := _server_of(deployment, inventory)) is None:
        raise InventoryError(f"{where}.tags: expected exactly one server of the inventory, seen {[*deployment.tags]}")
    pool = inventory.hosts[inventory.servers[server].runs_on].pool
    if deployment.work_pool.name != pool:
        raise InventoryError(f"{where}.work_pool.name: expected {pool!r}, seen {deployment.work_pool.name!r}")
    if deployment.concurrency_limit is None or deployment.concurrency_limit.limit != 1:
        raise InventoryError(f"{where}.concurrency_limit: expected limit 1, or two runs of a backup would meet")


def main() -> int:
    """Check both files; one line and an exit status."""
    try:
        inventory, deployments = promises.load(), load()
        check(inventory, deployments)
    except InventoryError as error:
        print(error, file=sys.stderr)
        return 1
    count = sum(len(server.data_types) for server in inventory.servers.values())
    print(f"{DEFAULT_PATH} keeps all {count} promises of {promises.path_in_use()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
