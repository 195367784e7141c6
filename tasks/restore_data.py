"""Restore: the steps that put data back by a server's own programs, as tasks."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from pydantic import JsonValue

from gxbackup import ca_registry, catalog, restoring_data
from gxbackup.adapters.kubernetes_api import load_ahead
from gxbackup.errors import BackupError
from gxbackup.fabric import sets
from gxbackup.fabric.ca_restore import keeps_registry_elsewhere
from gxbackup.model import Catalog
from gxbackup.restoring import Chosen
from gxbackup.sources.base import Restorable, Work
from gxbackup.staging import require_room, staging_root
from tasks import host
from tasks.policy import BRIEF, ONCE


@task(task_run_name="open {chosen.data_type} {chosen.snapshot}", **ONCE)
def open_data(server: str, chosen: Chosen, area: Path, options: dict[str, JsonValue]) -> Work:
    """Unseal each artifact into private staging and prove it; what is left sealed is proven by its preview."""
    source = _source(server, chosen.data_type)
    if getattr(source, "namespace", None):
        load_ahead()
    needed_bytes = {"plain": chosen.plain_size_bytes(), "packed": chosen.sealed_size_bytes(), "sealed": 0}
    require_room(area, needed_bytes[source.opens], f"{chosen.data_type} {chosen.snapshot}, opened")
    return Work(
        data_type=chosen.data_type,
        opened=restoring_data.open_all(chosen, area, host.identity_file(), source),
        area=area,
        safety_dir=staging_root().parent / "safety",
        options=options,
    )


@task(task_run_name="look elsewhere for {work.data_type}", **BRIEF)
def look_elsewhere(server: str, work: Work) -> Work:
    """Add what all servers hold of the same Fabric network; who cannot be asked is told in it."""
    inventory = host.inventory()
    namespace = sets.namespace_of(inventory.data_type(server, work.data_type))
    if namespace is None:
        return work
    catalogs: list[Catalog] = []
    unread: list[str] = []
    for name, other in inventory.servers.items():
        if name != server and any(sets.namespace_of(one) == namespace for one in other.data_types.values()):
            try:
                catalogs.append(catalog.load(host.remote(), inventory, name, work.area))
            except BackupError as error:
                unread.append(f"{name}: its copies are not compared, they could not be listed: {error.message}")
    elsewhere = sets.held(catalogs, inventory).get(namespace, [])
    own = sets.held([catalog.load(host.remote(), inventory, server, work.area)], inventory).get(namespace, [])
    return work.model_copy(update={"here": tuple(own), "elsewhere": tuple(elsewhere), "unread": tuple(unread)})


@task(task_run_name="look at the registry of {work.data_type} {snapshot}", **BRIEF)
def look_at_registry(server: str, snapshot: str, work: Work) -> Work:
    """Hold the database that CAs keep their registry in against the one that this snapshot holds beside their keys."""
    inventory = host.inventory()
    if not any(keeps_registry_elsewhere(one.artifact) for one in work.opened):
        return work
    held = catalog.load(host.remote(), inventory, server, work.area).find(snapshot)
    assert held is not None, snapshot
    found = ca_registry.faults(host.host(), inventory.server(server), work.data_type, held.manifest)
    return work.model_copy(update={"registry_faults": tuple(found)})


@task(task_run_name="preview {work.data_type}", **ONCE)
def preview_data(server: str, work: Work) -> tuple[str, list[str]]:
    """Say what would be overwritten, as it is typed for approval, and what a restore would do; nothing is touched."""
    source = _source(server, work.data_type)
    return source.target(work), source.preview(host.host(), work)


@task(task_run_name="rehearse {work.data_type}", **ONCE)
def rehearse_data(server: str, work: Work) -> list[str]:
    """Restore to a throwaway server and compare with the evidence."""
    return _source(server, work.data_type).rehearse(host.host(), work)


@task(task_run_name="apply {work.data_type}", **ONCE)
def apply_data(server: str, work: Work) -> list[str]:
    """Restore in place: safety copy first, evidence compared after, put back on failure."""
    return _source(server, work.data_type).apply(host.host(), work)


def _source(server: str, data_type: str) -> Restorable:
    return restoring_data.require_restorable(host.inventory().data_type(server, data_type).source, data_type)
