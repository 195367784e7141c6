"""
Room that is kept back on a server's disk while databases are filled beside the live ones.

DROP DATABASE begins with a checkpoint. One that finds no room ends the whole server, and it does not come up again:
what was half made when the disk filled up could not be dropped without taking the live databases down.
"""

from __future__ import annotations

from contextlib import suppress

from gxbackup.errors import BackupError
from gxbackup.postgres.server import Server

SIZE_BYTES = 64 * 1024**2
# What a killed restore left is written again by the next, and then removed; base backups pass over what begins so.
_NAME = "pgsql_tmp.gx-restore"
_TAKE = 'umask 077; head -c "$1" /dev/zero >"$2"'


def take(server: Server, folder: str) -> None:
    """Fill a file in the server's own folder. Raises: CommandError where there is no room for it."""
    server.run(["sh", "-c", _TAKE, "sh", str(SIZE_BYTES), f"{folder}/{_NAME}"], timeout_seconds=600)


def give_back(server: Server, folder: str) -> None:
    """Remove it; none is as good, and where the place is gone the next restore does."""
    with suppress(BackupError):
        server.run(["rm", "-f", f"{folder}/{_NAME}"])
