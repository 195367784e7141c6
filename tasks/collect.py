"""Collect: find the thing, make it consistent, take the evidence."""

from __future__ import annotations

from prefect import task

from gxbackup.model import Capture
from tasks import host
from tasks.policy import BULK


@task(task_run_name="collect {data_type}", **BULK)
def collect(server: str, data_type: str) -> list[Capture]:
    """Find what a data type consists of; one capture for each artifact."""
    return host.inventory().data_type(server, data_type).source.collect(host.host(), data_type)
