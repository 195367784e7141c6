"""Reuse: what has not changed since its last good copy is referred to, not sent again."""

from __future__ import annotations

from prefect import task
from prefect.logging import get_run_logger

from gxbackup import checking
from gxbackup.errors import IntegrityError
from gxbackup.model import Artifact
from tasks import host
from tasks.policy import BULK


@task(task_run_name="reuse {data_type}", **BULK)
def reuse(data_type: str, remote_dir: str, artifact: Artifact, earlier: Artifact | None) -> Artifact:
    """
    Return the entry to record: that of the earlier file where the content is equal and the remote still holds it whole.

    An earlier file that is damaged is said in the log as an error, and this run's own is sent in its place.
    """
    same = checking.reused(artifact, earlier)
    if same is None or same.held_in is None:
        return artifact
    try:
        checking.verify_on_remote(host.remote(), remote_dir, same.held_in, [same])
    except IntegrityError as error:
        get_run_logger().error("%s: its last good copy is damaged, so it is sent anew: %s", data_type, error)
        return artifact
    get_run_logger().info("%s: unchanged since %s: nothing is sent", data_type, same.held_in)
    return same
