"""The one moment at which live databases change: names are exchanged in a transaction that also keeps everyone out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from gxbackup.errors import CollectError, CommandError, RestoreError
from gxbackup.postgres.server import Server, quoted_name, quoted_text

ATTEMPTS = 5
_LOCK_TIMEOUT_SECONDS = 30


def take_names(
    server: Server, home: str, names: Mapping[str, str], replaced: Mapping[str, str], properties: Sequence[str]
) -> None:
    """
    Give databases made beside the live ones their names; the live ones keep others. All of it or nothing.

    Connections to them are ended; new ones wait until it is done, since none can begin without reading `pg_database`.
    `properties` is SQL that is run in the same transaction.
    Raises: CommandError; then nothing has changed. RestoreError where it cannot be known whether it has.
    """
    ours = f"ARRAY[{', '.join(quoted_text(name) for name in [*names, *names.values()])}]::text[]"
    script = [
        "BEGIN;",
        f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT_SECONDS}s';",
        "LOCK TABLE pg_catalog.pg_database IN ACCESS EXCLUSIVE MODE;",
        f"SELECT count(pg_terminate_backend(pid)) AS ended FROM pg_stat_activity WHERE datname = ANY ({ours}) \\gset",  # noqa: S608
        *(f"ALTER DATABASE {quoted_name(name)} RENAME TO {quoted_name(old)};" for name, old in replaced.items()),
        *(f"ALTER DATABASE {quoted_name(beside)} RENAME TO {quoted_name(name)};" for beside, name in names.items()),
        *properties,
        "COMMIT;",
    ]
    for attempt in range(1, ATTEMPTS + 1):
        try:
            server.script(home, "\n".join(script) + "\n")
        except CommandError as error:
            # One that had read pg_database before the lock, and logged in after the others were ended.
            if attempt < ATTEMPTS and re.search("being accessed by other users", error.message):
                continue
            if not _is_done(server, names, replaced, error):
                raise
        return


def _is_done(server: Server, names: Mapping[str, str], replaced: Mapping[str, str], failure: CommandError) -> bool:
    """Tell whether it was committed, though the connection was cut before that was told."""
    try:
        there = server.look().databases
    except CollectError as error:
        kept = f", and what was there is kept as {', '.join(replaced.values())}" if replaced else ""
        raise RestoreError(
            f"{server.place.name}: unknown whether {', '.join(names.values())} took their names: {failure.message}; "
            f"then, asked for it: {error.message}",
            *error.hints,
            f"look at the databases there: where {', '.join(names)} are listed, all is as it was; "
            f"where they are gone, all is put back{kept}",
            retryable=False,
        ) from None
    # Settings alone can be put back once more, so that they count as not done.
    return bool(names) and not there.keys() & names.keys() and {*names.values(), *replaced.values()} <= there.keys()
