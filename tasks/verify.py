"""Verify: ask the remote itself what it holds."""

from __future__ import annotations

from prefect import task

from gxbackup import checking
from gxbackup.model import Artifact
from tasks import host
from tasks.policy import BULK


@task(task_run_name="verify {data_type}", **BULK)
def verify(data_type: str, remote_dir: str, snapshot: str, artifacts: list[Artifact]) -> None:  # noqa: ARG001 - data_type names the task run
    """Compare the remote's sizes and hashes with ours; read back where it keeps no hash."""
    checking.verify_on_remote(host.remote(), remote_dir, snapshot, artifacts)
