"""Collect: find the thing, make it consistent, take the evidence."""

from __future__ import annotations

from prefect import task

from gxbackup.model import Artifact, Capture
from tasks import host
from tasks.policy import BULK


@task(task_run_name="collect {data_type}", **BULK)
def collect(server: str, data_type: str, last_good: dict[str, Artifact]) -> list[Capture]:
    """Find what a data type consists of; one capture for each artifact."""
    own = [artifact for artifact in last_good.values() if artifact.data_type == data_type]
    return host.inventory().data_type(server, data_type).source.collect_since(host.host(), data_type, own)
