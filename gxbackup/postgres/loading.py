"""An archive read into a database by pg_restore where the server runs; in parallel where there is room for the file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from gxbackup.errors import BackupError, CommandError, RestoreRefusedError
from gxbackup.postgres.script import of_database, unquoted
from gxbackup.postgres.server import Server, connection, explained

TIMEOUT_SECONDS = 24 * 3600.0
SPARE_BYTES = 256 * 1024**2
JOBS_LIMIT = 4
# An archive begins with its list; so much of it holds the list of a hundred thousand objects.
LIST_BYTES = 64 * 1024**2
_COPY_BYTES = 1024**2
_PREFIX = "gx-restore."
# What a killed restore left is ours to remove: only one restore to a server is on at a time.
_MAKE_FOLDER = """umask 077; cd "${TMPDIR:-/tmp}" || exit
find . -maxdepth 1 -name "$1*" -exec rm -rf {} + && mktemp -d "$PWD/$1XXXXXXXX" """
_KEEP = 'cat >"$1"'
_TABLE = re.compile(r'("(?:[^"]|"")*"|[^".]+)\.("(?:[^"]|"")*"|[^".]+)', re.DOTALL)
# `3436; 0 0 COMMENT - DATABASE app app`, `3435; 1262 16386 DATABASE - app app`: numbers, kind, what it is about.
_OF_THE_DATABASE = re.compile(r"\d+; \d+ \d+ (\S+ - |SECURITY LABEL - )?DATABASE ")


def load(server: Server, file: Path, database: str, table: str | None) -> None:
    """
    Read an archive into an empty database and stop at the first error; with a table: all definitions, just its rows.

    Raises: CommandError with pg_restore's own words; the database is then half made.
    """
    words = ["pg_restore", "--exit-on-error", "--no-password", f"--dbname={connection(database)}"]
    with _placed(server, file) as there:
        if table is not None:
            schema, name = _parts(table)
            _restore(server, [*words, "--section=pre-data"], file, there)
            _restore(server, [*words, "--section=data", f"--schema={schema}", f"--table={name}"], file, there)
        elif there is not None:
            _restore(server, [*words, f"--jobs={_jobs(server)}"], file, there)
        else:
            _restore(server, words, file, there)


def database_properties(server: Server, file: Path) -> str:
    """Return the SQL of an archive that belongs to the database itself: grants, settings, its comment."""
    with _beginning(file) as beginning, _placed(server, beginning) as there:
        if there is None:
            raise RestoreRefusedError(f"{server.place.name}: its folder for temporary files has no room at all")
        listed = server.run(["pg_restore", "--list", "--create", there]).splitlines()
        kept = "".join(f"{line}\n" for line in listed if _OF_THE_DATABASE.match(line))
        chosen = f"{there}.list"
        server.place.run(["sh", "-c", _KEEP, "sh", chosen], timeout_seconds=60, stdin=kept.encode())
        script = server.run(["pg_restore", "--create", f"--use-list={chosen}", "--file=-", there])
        return "".join(f"{statement};\n" for statement in of_database(script))


def free_bytes(server: Server, folder: str) -> int:
    """Return how much room the disk of a folder of the place has."""
    told = server.place.run(["df", "-Pk", folder], timeout_seconds=60).text()
    return int(told.splitlines()[-1].split()[-3]) * 1024


@contextmanager
def _placed(server: Server, file: Path) -> Iterator[str | None]:
    """Give the path of a file as the place sees it, where it can be sought in; None where there is no room for it."""
    if server.reads_our_files:
        yield str(file)
        return
    folder = server.place.run(["sh", "-c", _MAKE_FOLDER, "sh", _PREFIX], timeout_seconds=60).text()
    try:
        if free_bytes(server, folder) < file.stat().st_size + SPARE_BYTES:
            yield None
        else:
            path = f"{folder}/archive"
            server.place.write(["sh", "-c", _KEEP, "sh", path], file, timeout_seconds=TIMEOUT_SECONDS)
            yield path
    finally:
        with suppress(BackupError):  # swept by the next restore
            server.place.run(["rm", "-rf", folder], timeout_seconds=600)


@contextmanager
def _beginning(file: Path) -> Iterator[Path]:
    """Give a file that holds an archive's list, and not all of its data where there is much."""
    if file.stat().st_size <= LIST_BYTES:
        yield file
        return
    beginning = file.with_name(f"{file.name}.beginning")
    try:
        with file.open("rb") as source, beginning.open("wb") as target:
            for _ in range(LIST_BYTES // _COPY_BYTES):
                target.write(source.read(_COPY_BYTES))
        yield beginning
    finally:
        beginning.unlink(missing_ok=True)


def _restore(server: Server, words: Sequence[str], file: Path, there: str | None) -> None:
    if there is not None:
        server.run([*words, there], timeout_seconds=TIMEOUT_SECONDS)
        return
    try:
        server.place.write(server.argv(words), file, timeout_seconds=TIMEOUT_SECONDS)
    except CommandError as error:
        raise explained(error) from None


def _jobs(server: Server) -> int:
    told = server.place.run(["nproc"], timeout_seconds=60, check=False)
    return max(1, min(JOBS_LIMIT, int(told.text()))) if told.returncode == 0 else 1


def _parts(table: str) -> tuple[str, str]:
    """Return schema and name of a table that is spelled as evidence spells it."""
    found = _TABLE.fullmatch(table)
    if found is None:
        raise RestoreRefusedError(f"table {table}: expected schema.table, each name quoted as SQL needs it")
    return unquoted(found[1]), unquoted(found[2])
