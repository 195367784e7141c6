"""Verify what is held: the remote's hashes against manifests, and artifacts read back and opened; as tasks."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from gxbackup import layout, opening, restoring, verifying
from gxbackup.health import Finding
from gxbackup.model import Catalog, HeldSnapshot
from gxbackup.restoring import Chosen
from gxbackup.staging import drop, require_room
from gxbackup.verifying import ToOpen
from tasks import host
from tasks.policy import BULK


@task(task_run_name="hashes of {held.server}", **BULK)
def verify_hashes(held: Catalog, snapshots: list[HeldSnapshot]) -> list[Finding]:
    """Ask the remote for the sha256 of every stored file of these snapshots, and compare."""
    return verifying.hash_findings(host.remote(), held, snapshots)


@task(task_run_name="open {one.artifact.path} of {one.snapshot}", **BULK)
def open_held(held: Catalog, one: ToOpen, area: Path) -> str:
    """Read one artifact back, unseal it, and have its own tool read it to the end; nothing of it stays."""
    identity_file = host.identity_file()
    artifact = one.artifact.model_copy(update={"held_in": None})
    require_room(area, artifact.sealed_size_bytes + opening.room_bytes(artifact), one.name())
    chosen = Chosen(
        server=held.server, remote_dir=held.remote_dir, snapshot=one.snapshot, data_type=artifact.data_type,
        age_hours=0, artifacts=(artifact,),
    )  # fmt: skip
    try:
        restoring.fetch(host.remote(), chosen, area)
        files = [*restoring.sealed_files(artifact, area)]
        plain = area / Path(artifact.path).name.removesuffix(layout.SEALED_SUFFIX)
        return opening.open_artifact(artifact, files, identity_file, plain)
    finally:
        drop(area, [part.path for part in artifact.parts])
