"""Choose: the snapshot that a restore reads."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from gxbackup import catalog, clock, restoring
from gxbackup.restoring import Chosen
from tasks import host
from tasks.policy import BRIEF


@task(task_run_name="choose {data_type} {snapshot}", **BRIEF)
def choose(server: str, data_type: str, snapshot: str, area: Path) -> Chosen:
    """Read the catalog and choose the newest good snapshot of a data type, or the one that was named."""
    inventory = host.inventory()
    inventory.data_type(server, data_type)
    held = catalog.load(host.remote(), inventory, server, area)
    return restoring.choose(held, data_type, snapshot, clock.now())
