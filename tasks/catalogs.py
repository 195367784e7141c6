"""Look: the catalogs of one server or of all."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from gxbackup import catalog
from gxbackup.model import Catalog
from tasks import host
from tasks.policy import BRIEF


@task(task_run_name="list {server}", **BRIEF)
def list_catalog(server: str, area: Path) -> Catalog:
    """Read what the remote holds for one server."""
    return catalog.load(host.remote(), host.inventory(), server, area)
