"""The one moment at which live databases change: names are exchanged in a transaction that also keeps everyone out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from gxbackup.errors import CommandError
from gxbackup.postgres.server import Server, quoted_name, quoted_text

ATTEMPTS = 5
_LOCK_TIMEOUT_SECONDS = 30


def take_names(
    server: Server, names: Mapping[str, str], replaced: Mapping[str, str], properties: Sequence[str]
) -> None:
    """
    Give databases made beside the live ones their names; the live ones keep others. All of it or nothing.

    Connections to them are ended; new ones wait until it is done, since none can begin without reading `pg_database`.
    Raises: CommandError; then nothing has changed.
    """
    renamed = [*names, *names.values(), *replaced.values()]
    ours = ", ".join(quoted_text(name) for name in renamed)
    script = [
        "BEGIN;",
        f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT_SECONDS}s';",
        "LOCK TABLE pg_catalog.pg_database IN ACCESS EXCLUSIVE MODE;",
        f"SELECT count(pg_terminate_backend(pid)) AS ended FROM pg_stat_activity WHERE datname IN ({ours}) \\gset",  # noqa: S608
        *(f"ALTER DATABASE {quoted_name(name)} RENAME TO {quoted_name(old)};" for name, old in replaced.items()),
        *(f"ALTER DATABASE {quoted_name(beside)} RENAME TO {quoted_name(name)};" for beside, name in names.items()),
        *properties,
        "COMMIT;",
    ]
    for attempt in range(1, ATTEMPTS + 1):
        try:
            server.script(server.maintenance(but=renamed), "\n".join(script) + "\n")
        except CommandError as error:
            # One that had read pg_database before the lock, and logged in after the others were ended.
            if attempt == ATTEMPTS or not re.search("being accessed by other users", error.message):
                raise
        else:
            return


def drop(server: Server, database: str) -> None:
    """Drop a database of ours with all connections to it; none of that name is as good. Raises: CommandError."""
    server.script(
        server.maintenance(but=[database]), f"DROP DATABASE IF EXISTS {quoted_name(database)} WITH (FORCE);\n"
    )
