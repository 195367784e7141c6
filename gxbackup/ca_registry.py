"""
A CA's registry in PostgreSQL and its keys are one unit: does the database that is there hold as much as the snapshot's?

Keys of one moment beside the registry of another forget identities and revocations, or know certificates that this CA
never issued. Only counts are held against each other: a row that was changed since, as a revocation is, is not seen.
Which data type holds the registry is told by the inventory: PostgreSQL of the same `set_name`.
Source: facts B9 (an identity enrolled again only where both were restored).
"""

from __future__ import annotations

from gxbackup.adapters.host import Host
from gxbackup.errors import BackupError
from gxbackup.inventory import Server
from gxbackup.model import Manifest
from gxbackup.sources.postgres import Postgres

DIFFERENCES_TOLD = 4


def faults(host: Host, server: Server, data_type: str, manifest: Manifest) -> list[str]:
    """
    Say what keeps the registry that is there from belonging to a snapshot's keys; empty where all counts are equal.

    Every table's rows are counted and held against the evidence of the same snapshot; what is in them is not
    compared. A database that cannot be asked, and a snapshot that holds none, are faults: it may hold anything.
    """
    promise = server.data_types[data_type]
    beside = {
        name: one.source
        for name, one in server.data_types.items()
        if promise.set_name and one.set_name == promise.set_name and isinstance(one.source, Postgres)
    }
    if not beside:
        return [f"no PostgreSQL of this server is in a set with {data_type}: its registry is not kept"]
    found: list[str] = []
    for name, source in beside.items():
        missing = [one.reason for one in manifest.missing if one.data_type == name]
        artifacts = manifest.of(name)
        if missing or not artifacts:
            found.append(
                f"{name}: {manifest.snapshot} does not hold all of it: {'; '.join(missing) or 'none is there'}"
            )
            continue
        try:
            found += [f"{name}: {line}" for line in source.differences(host, artifacts)]
        except BackupError as error:
            found.append(f"{name}: cannot be compared: {error.message}")
    return found[:DIFFERENCES_TOLD] + ([f"and {len(found) - DIFFERENCES_TOLD} more"] * (len(found) > DIFFERENCES_TOLD))
