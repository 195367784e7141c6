"""Checksum: what lies on disk is what was hashed in flight."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from gxbackup import checking
from gxbackup.model import Artifact, SealedFile
from tasks import host
from tasks.policy import BULK


@task(task_run_name="checksum {data_type}: {sealed.capture.name}", **BULK)
def checksum(server: str, data_type: str, snapshot: str, sealed: SealedFile, area: Path) -> Artifact:
    """Read the sealed file back from staging, compare, and write its manifest entry."""
    inventory = host.inventory()
    promise = inventory.data_type(server, data_type)
    return checking.confirm(sealed, area, promise, snapshot, inventory.recipients.required())
