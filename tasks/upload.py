"""Upload: sealed files to the remote, each at most once."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from gxbackup import layout
from gxbackup.model import Artifact
from tasks import host, report
from tasks.policy import BULK


@task(task_run_name="upload {data_type}", **BULK)
def upload(data_type: str, remote_dir: str, snapshot: str, artifacts: list[Artifact], area: Path) -> None:
    """Send a data type's files; a retry sends only what is not there and equal already."""
    parts = [part for artifact in artifacts for part in artifact.parts]
    with report.TransferProgress(f"upload {data_type}") as progress:
        host.remote().upload(
            area,
            [part.path for part in parts],
            layout.in_snapshot(remote_dir, snapshot),
            progress,
            may_move=True,
            expected={part.path: (part.size_bytes, part.sha256) for part in parts},
            replace_unequal=True,
        )
