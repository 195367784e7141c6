"""Compress: read the bytes once, through zstd and age, into one sealed file."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from gxbackup import layout, sealing
from gxbackup.model import Capture, SealedFile
from gxbackup.staging import require_room
from tasks import host
from tasks.policy import BULK


@task(task_run_name="compress {data_type}: {capture.name}", **BULK)
def compress(
    server: str, data_type: str, capture: Capture, area: Path, last_sealed_bytes: dict[str, int]
) -> SealedFile:
    """Seal one capture in staging; nothing of it is left there on failure."""
    inventory = host.inventory()
    promise = inventory.data_type(server, data_type)
    path = layout.artifact_path(promise.folder_name(), data_type, capture.name)
    # Sealed data is hardly ever larger than plain; where it was sealed before, last time's size and a half will do.
    likely_bytes = min(capture.expected_size_bytes, last_sealed_bytes.get(path, capture.expected_size_bytes) * 3 // 2)
    require_room(area, likely_bytes, capture.name)
    with promise.source.open(host.host(), capture) as stream:
        return sealing.seal(
            stream, capture, path, area, inventory.recipients.required(), inventory.zstd_level,
            inventory.remote.part_size_bytes,
        )  # fmt: skip
