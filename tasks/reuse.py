"""Reuse: what has not changed since its last good copy is referred to, not sent again."""

from __future__ import annotations

from prefect import task
from prefect.logging import get_run_logger

from gxbackup import checking
from gxbackup.model import Artifact
from tasks.policy import BRIEF


@task(task_run_name="reuse {data_type}", **BRIEF)
def reuse(data_type: str, artifact: Artifact, earlier: Artifact | None) -> Artifact:
    """Return the entry to record: that of the earlier file where the content is equal."""
    same = checking.reused(artifact, earlier)
    if same is None:
        return artifact
    get_run_logger().info("%s: unchanged since %s: nothing is sent", data_type, same.held_in)
    return same
