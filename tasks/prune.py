"""Prune: drop what no promise needs any more, and say why for everything."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from gxbackup import catalog, clock, proof_records, pruning, retention
from gxbackup.retention import Plan
from tasks import host
from tasks.policy import BRIEF


@task(task_run_name="prune {server}", **BRIEF)
def prune(server: str, area: Path, dry_run: bool, confirm: str | None = None) -> Plan:
    """Plan from a fresh catalog; delete only what is planned, path by path, unless it is a dry run."""
    inventory, remote = host.inventory(), host.remote()
    held = catalog.load(remote, inventory, server, area)
    rehearsed = proof_records.load(remote, inventory, server).rehearsed()
    plan = retention.plan(held, inventory, clock.now(), rehearsed=rehearsed, confirm_sha256=confirm)
    if not dry_run and (plan.deletions or plan.refused):
        pruning.execute(plan, remote, relist=lambda: catalog.load(remote, inventory, server, area))
    return plan
