"""
How old the newest good copy of each data type is, and which data types a run should capture. Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from gxbackup import layout
from gxbackup.copies import copies
from gxbackup.errors import InventoryError
from gxbackup.inventory import Inventory
from gxbackup.model import Artifact, Catalog, HeldSnapshot

DAILY_HOURS = 24
SUNDAY = 6
# A weekly data type taken on a weekday moves to Sunday at the first Sunday on which it is at least this old.
SUNDAY_MINIMUM_AGE = timedelta(hours=20)


def artifact_is_held(catalog: Catalog, held: HeldSnapshot, artifact: Artifact) -> bool:
    """Tell whether an artifact's stored files lie on the remote, in its own folder or in that of `held_in`."""
    if artifact.held_in is None:
        return held.holds(artifact)
    where = catalog.find(artifact.held_in)
    return where is not None and where.holds(artifact)


def cut_file(catalog: Catalog, held: HeldSnapshot, artifact: Artifact) -> str:
    """Say which stored file of an artifact has another size on the remote than promised; empty where none has."""
    where = catalog.find(artifact.held_in) if artifact.held_in else held
    files = where.files if where else {}
    for part in artifact.parts:
        if (seen := files.get(part.path, part.size_bytes)) != part.size_bytes:
            return f"{part.path} is damaged on the remote: expected {part.size_bytes} bytes, seen {seen} bytes"
    return ""


def good_copies(catalog: Catalog, data_type: str) -> tuple[HeldSnapshot, ...]:
    """Return the snapshots that hold all of a data type and all that it builds on, newest first; as retention does."""
    good = [copy.held for copy in copies(catalog).values() if copy.data_type == data_type and copy.good]
    return tuple(reversed(good))


def due(
    catalog: Catalog, inventory: Inventory, server: str, now: datetime,
    only: Sequence[str] | None = None, without: Sequence[str] = (),
) -> tuple[str, ...]:  # fmt: skip
    """
    Return the data types that a daily run of a server captures now, in the inventory's order.

    All with an RPO of a day or less. A longer one on Sunday, or on any day on which waiting for the next run would
    break its RPO (so a missed Sunday is made up for on Monday). `only` names exactly what is captured, `without` what
    is left to another run.

    Raises: InventoryError where `only` or `without` names something that is not protected.

    Source: design, "Prefect": hosts daily with the weekly data types on Sunday.
    """
    promised = inventory.server(server).data_types
    for name in without:
        inventory.data_type(server, name)
    if only is not None:
        if not only:
            raise InventoryError("only: expected at least one data type, seen an empty list", "leave it out for all")
        for name in only:
            inventory.data_type(server, name)
        return tuple(name for name in promised if name in only and name not in without)
    return tuple(
        name for name, promise in promised.items()
        if name not in without and _is_due(catalog, name, promise.rpo_hours, now)
    )  # fmt: skip


def _is_due(catalog: Catalog, name: str, rpo_hours: float, now: datetime) -> bool:
    if rpo_hours <= DAILY_HOURS:
        return True
    good = good_copies(catalog, name)
    if not good:
        return True
    age = now - layout.snapshot_time(good[0].snapshot)
    if now.weekday() == SUNDAY and age >= SUNDAY_MINIMUM_AGE:
        return True
    return age + timedelta(hours=DAILY_HOURS) > timedelta(hours=rpo_hours)
