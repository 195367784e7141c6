"""Choose: the snapshot that a restore reads."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from pydantic import JsonValue

from gxbackup import catalog, clock, restoring, restoring_data
from gxbackup.restoring import Chosen
from gxbackup.sources.base import Restorable
from tasks import host
from tasks.policy import BRIEF


@task(task_run_name="choose {data_type} {snapshot}", **BRIEF)
def choose(
    server: str, data_type: str, snapshot: str, area: Path, options: dict[str, JsonValue] | None = None
) -> Chosen:
    """Read the catalog and choose the newest good snapshot of a data type, or the one that was named."""
    inventory = host.inventory()
    source = inventory.data_type(server, data_type).source
    held = catalog.load(host.remote(), inventory, server, area)
    chosen = restoring.choose(held, data_type, snapshot, clock.now())
    return restoring_data.narrow(chosen, source, held, options) if isinstance(source, Restorable) else chosen
