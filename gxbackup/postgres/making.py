"""What a restore makes on a server: empty databases, roles and tablespaces; and how databases go again."""

from __future__ import annotations

from pathlib import Path

from gxbackup.errors import CommandError
from gxbackup.postgres import loading
from gxbackup.postgres.archive import HOME, Archive
from gxbackup.postgres.script import NewRoles
from gxbackup.postgres.server import Overview, Server, major, quoted_name, quoted_text

# What `datlocprovider` says → the words of CREATE DATABASE; PostgreSQL 17 brought the second.
_PROVIDERS = {"i": ("icu", "ICU_LOCALE"), "b": ("builtin", "BUILTIN_LOCALE")}
# Since then a server has a provider of its own, which a new database takes where none is named.
_PROVIDED_SINCE = 15
# CREATE TABLESPACE wants a folder that is the server's own.
_MAKE_FOLDER = 'mkdir -m 0700 "$1" && chown --reference="$2" "$1"'


def make_roles(
    server: Server, home: str, new: NewRoles, scratch_folder: Path | None, made: list[tuple[str, str]]
) -> None:
    """
    Make roles, all or none, and tablespaces; on a scratch server their folders too, beside that one.

    What it has really made is added to `made` by kind and name: one that somebody else made meanwhile is theirs.
    """
    if new.role_statements:
        server.script(home, "BEGIN;\n" + "".join(f"{each};\n" for each in new.role_statements) + "COMMIT;\n")
        made += [("ROLE", name) for name in new.roles]
    for folder in new.tablespaces.values() if scratch_folder else ():
        server.run(["sh", "-c", _MAKE_FOLDER, "sh", folder, str(scratch_folder)])
    names = iter(new.tablespaces)
    for statement in new.tablespace_statements:
        server.script(home, f"{statement};\n")
        if statement.startswith("CREATE"):
            made.append(("TABLESPACE", next(names)))


def make_database(server: Server, seen: Overview, archive: Archive, beside: str, *, is_scratch: bool) -> list[str]:
    """Make an empty database, in place of what an earlier try left with whoever still fills it; say what differs."""
    create = archive.create
    words = [
        f"{_drop(beside)}CREATE DATABASE {quoted_name(beside)} TEMPLATE template0",
        f"OWNER {quoted_name(create['owner'])} ENCODING {quoted_text(create['encoding'])}",
    ]
    if create["tablespace"] != "pg_default":
        words.append(f"TABLESPACE {quoted_name(create['tablespace'])}")
    if major(seen.version) >= _PROVIDED_SINCE and create["provider"] == "c":
        words.append("LOCALE_PROVIDER libc")
    locale = [f"LC_COLLATE {quoted_text(create['collate'])} LC_CTYPE {quoted_text(create['ctype'])}"]
    if provider := _PROVIDERS.get(create["provider"]):
        locale.append(f"LOCALE_PROVIDER {provider[0]} {provider[1]} {quoted_text(create['locale'])}")
    if rules := create.get("rules"):
        locale.append(f"ICU_RULES {quoted_text(rules)}")
    try:
        server.script(seen.home, f"{' '.join([*words, *locale])};\n", timeout_seconds=loading.TIMEOUT_SECONDS)
    except CommandError as error:
        if not (is_scratch and "locale" in error.message):
            raise
        sql = f"{' '.join(words)} LC_COLLATE 'C' LC_CTYPE 'C';\n"
        server.script(seen.home, sql, timeout_seconds=loading.TIMEOUT_SECONDS)
        return [f"{archive.database}: this host has no locale {create['collate']}: rehearsed with C"]
    return []


def make_home(server: Server, home: str) -> None:
    """Make a database that is only there to be connected to, in place of what a killed restore left."""
    server.script(home, f"{_drop(HOME)}CREATE DATABASE {quoted_name(HOME)} TEMPLATE template0;\n")


def drop_database(server: Server, home: str, database: str) -> None:
    """Drop a database with whoever is connected to it; none is as good. Raises: CommandError."""
    server.script(home, _drop(database))


def _drop(database: str) -> str:
    # PostgreSQL 12 knows no WITH (FORCE). Without it a DROP waits five seconds for those who were ended.
    return (
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {quoted_text(database)};\n"  # noqa: S608
        f"DROP DATABASE IF EXISTS {quoted_name(database)};\n"
    )
