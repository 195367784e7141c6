"""Download: only what is needed, each file checked before it is opened."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from gxbackup import restoring
from gxbackup.restoring import Chosen
from gxbackup.staging import require_room
from tasks import host, report
from tasks.policy import BULK


@task(task_run_name="download {chosen.data_type} {chosen.snapshot}", **BULK)
def download(chosen: Chosen, area: Path) -> None:
    """Fetch the sealed files of a choice into staging and check size and sha256 of each."""
    require_room(area, chosen.sealed_size_bytes(), f"{chosen.data_type} {chosen.snapshot}")
    with report.TransferProgress(f"download {chosen.data_type}") as progress:
        restoring.fetch(host.remote(), chosen, area, progress)
