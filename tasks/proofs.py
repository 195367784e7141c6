"""What was proven: read from the remote, and added to there; as tasks."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from gxbackup import catalog, clock, proof_records, signing
from gxbackup.locks import locked
from gxbackup.model import Catalog
from gxbackup.proofs import Proofs, Rehearsal
from tasks import host
from tasks.policy import BRIEF

_SECONDS_FOR_ANOTHER_RECORD = 120


@task(task_run_name="proofs of {server}", **BRIEF)
def read_proofs(server: str) -> Proofs:
    """Read what was proven of a server's copies."""
    return proof_records.load(host.remote(), host.inventory(), server)


@task(task_run_name="record proofs of {held.server}", **BRIEF)
def record_proofs(held: Catalog, opened: list[str], rehearsals: dict[str, Rehearsal], area: Path) -> None:
    """Add what was proven now, signed with this host's key; what the remote no longer holds is forgotten."""
    inventory, now = host.inventory(), clock.now()

    def change(before: Proofs) -> Proofs:
        return before.with_opened(opened, now).with_rehearsals(rehearsals).without_what_is_gone(held)

    key = signing.load_key(signing.key_file())
    with locked(inventory.remote.path, f"{held.server}-proofs", "record", wait_seconds=_SECONDS_FOR_ANOTHER_RECORD):
        proof_records.update(host.remote(), inventory, held.server, change, key, area, now)


@task(task_run_name="past of {held.server}", **BRIEF)
def look_at_past(held: Catalog) -> list[str]:
    """Tell where manifests do not fit together, and what is gone before its time."""
    inventory = host.inventory()
    return [*catalog.chain_faults(held, inventory), *catalog.lost_artifacts(held, inventory)]
