"""Commit: the signed manifest of proven artifacts, put on the remote last. Until then there is no snapshot."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from gxbackup import catalog, signing, survey
from gxbackup.model import Manifest
from gxbackup.recover_page import recover_page
from tasks import host
from tasks.policy import BRIEF


@task(task_run_name="commit {manifest.server} {manifest.snapshot}", **BRIEF)
def commit(manifest: Manifest, remote_dir: str, area: Path) -> None:
    """Drop what could not be proven, sign and upload RECOVER.md and the manifest, read them back, remember them."""
    inventory = host.inventory()
    page = recover_page(manifest, inventory.remote.path, remote_dir)
    key = signing.load_key(signing.key_file())
    if not manifest.complete:
        catalog.discard_unproven(host.remote(), manifest, remote_dir)
    sha256 = catalog.publish(host.remote(), manifest, page, key, remote_dir, area)
    survey.remember(inventory, manifest, sha256)
