"""
The copies of CouchDB, peers and orderers that all servers hold, and the sets that they make at a moment. Pure.

A set is what a restore of the whole network to a moment would take: of each server and data type its newest good copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gxbackup import freshness
from gxbackup.fabric.heights import Held, copies_of
from gxbackup.model import Catalog

if TYPE_CHECKING:
    from gxbackup.inventory import DataType, Inventory


def namespace_of(promise: DataType) -> str | None:
    """Return the namespace of the Fabric network that a data type belongs to; None where it is of none."""
    source = promise.source
    return source.namespace if source.kind == "ledger" or source.kind == "couchdb" else None


def held(catalogs: Iterable[Catalog], inventory: Inventory) -> dict[str, list[Held]]:
    """Return namespace → what is held of the network in it, newest first; copies that tell no heights are left out."""
    found: dict[str, list[Held]] = {}
    for catalog in catalogs:
        for data_type, promise in inventory.server(catalog.server).data_types.items():
            namespace = namespace_of(promise)
            if namespace is None:
                continue
            for good in freshness.good_copies(catalog, data_type):
                if copies := copies_of(good.manifest.of(data_type)):
                    one = Held(catalog.server, data_type, good.snapshot, tuple(copies))
                    found.setdefault(namespace, []).append(one)
    return {
        namespace: sorted(all_held, key=lambda one: one.snapshot, reverse=True) for namespace, all_held in found.items()
    }


def sets(all_held: Sequence[Held]) -> dict[str, list[Held]]:
    """Return moment at which a copy was made → the set then, newest first, as far back as all of them had a copy."""
    wanted = len({(one.server, one.data_type) for one in all_held})
    found: dict[str, list[Held]] = {}
    for moment in dict.fromkeys(one.snapshot for one in all_held):
        newest: dict[tuple[str, str], Held] = {}
        for one in all_held:
            if one.snapshot <= moment:
                newest.setdefault((one.server, one.data_type), one)
        if len(newest) == wanted:
            found[moment] = sorted(newest.values(), key=lambda one: (one.server, one.data_type))
    return found
