"""The composition root: binds the inventory to the remote, the staging directory and this host's programs."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from gxbackup import inventory as inventories
from gxbackup import signing
from gxbackup.adapters.containers import Containers
from gxbackup.adapters.host import Host
from gxbackup.adapters.rclone import Remote
from gxbackup.errors import RestoreRefusedError, SetupError
from gxbackup.inventory import Inventory
from gxbackup.sealing import check_identity
from gxbackup.staging import staging_root


@lru_cache(maxsize=1)
def inventory() -> Inventory:
    """Return the inventory of this process, read once (`GX_INVENTORY`)."""
    return inventories.load()


@lru_cache(maxsize=1)
def remote() -> Remote:
    """Return the remote that the inventory names."""
    return Remote(inventory().remote, staging_root())


@lru_cache(maxsize=1)
def host() -> Host:
    """Return this host as sources see it."""
    return Host(containers=Containers())


def identity_file() -> Path:
    """Return the age identity that restores read (`GX_IDENTITY_FILE`); SetupError where there is none."""
    named = os.environ.get("GX_IDENTITY_FILE")
    return check_identity(Path(named) if named else None)


def require_own_host(name: str) -> None:
    """Raise SetupError unless this host holds the signing key of the named one."""
    signing.host_of(signing.load_key(signing.key_file()), inventory().all_signers(), name)


def refuse_another_host(server: str) -> None:
    """
    Raise RestoreRefusedError where this host is a known one, and not the one that the server runs on.

    A host without a key, or with one that the inventory does not list, is a replacement and may go on.
    """
    settings = inventory().server(server)
    try:
        known = inventory().all_signers().get(signing.public_text(signing.load_key(signing.key_file())))
    except SetupError:
        return
    if known not in (None, settings.runs_on):
        raise RestoreRefusedError(
            f"{server} lives on {settings.runs_on}, and this host is {known}: nothing of it was overwritten",
            "start it on the right host, or restore to scratch and look",
        )
