"""An archive read into a database by pg_restore where the server runs; in parallel where there is room for the file."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from gxbackup.errors import BackupError, CommandError, RestoreRefusedError
from gxbackup.model import Frozen
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
_PREPARE = """umask 077; cd "${TMPDIR:-/tmp}" || exit
find . -maxdepth 1 -name "$1*" -exec rm -rf {} + && mktemp -d "$PWD/$1XXXXXXXX" && nproc &&
df -Pk "$2" && df -Pk ."""
_KEEP = 'cat >"$1"'
# `3436; 0 0 COMMENT - DATABASE app app`, `3435; 1262 16386 DATABASE - app app`: numbers, kind, what it is about.
_ABOUT_THE_DATABASE = r"""list=$2; pg_restore --list --create "$1" >"$list" &&
grep -E '^[0-9]+; [0-9]+ [0-9]+ ((ACL|COMMENT|SECURITY LABEL) - )?DATABASE ' "$list" >"$list.database" &&
pg_restore --create --use-list="$list.database" --file=- "$1" """
_TABLE = re.compile(r'("(?:[^"]|"")*"|[^".]+)\.("(?:[^"]|"")*"|[^".]+)', re.DOTALL)


class Room(Frozen):
    """What a restore may fill: the server's own folder, and how much its disk must still take; spare is extra."""

    folder: str
    to_come_bytes: int


def load(server: Server, file: Path, database: str, table: str | None, room: Room) -> str:
    """
    Read an archive into an empty database and stop at the first error; with a table: all definitions, just its rows.

    The archive is copied into the place only where that leaves the server the room it needs; else it is streamed.
    Returns the SQL that belongs to the captured database itself, under its own name: grants, settings, its comment.
    Raises: CommandError with pg_restore's own words; the database is then half made.
    """
    words = ["pg_restore", "--exit-on-error", "--no-password", f"--dbname={connection(database)}"]
    with _prepared(server, file, room) as (folder, jobs, has_room):
        there = _put(server, file, folder) if has_room else None
        if table is not None:
            schema, name = _parts(table)
            _restore(server, [*words, "--section=pre-data"], file, there)
            _restore(server, [*words, "--section=data", f"--schema={schema}", f"--table={name}"], file, there)
            return ""
        _restore(server, [*words, f"--jobs={jobs}"] if there else words, file, there)
        if there is None:
            with _beginning(file) as beginning:
                there = _put(server, beginning, folder)
        script = server.run(["sh", "-c", _ABOUT_THE_DATABASE, "sh", there, f"{folder}/list"])
    return "".join(f"{statement};\n" for statement in of_database(script))


def free_bytes(server: Server, folder: str) -> int:
    """Return how much room the disk of a folder of the place has."""
    told = server.place.run(["df", "-Pk", folder], timeout_seconds=60).text().splitlines()
    return _disk_bytes(told[-1])[1]


def _disk_bytes(told: str) -> tuple[int, int]:
    """Return how large a disk is, and how much of it is free, as a line of `df -Pk` tells."""
    words = told.split()
    return int(words[-5]) * 1024, int(words[-3]) * 1024


@contextmanager
def _prepared(server: Server, file: Path, room: Room) -> Iterator[tuple[str, int, bool]]:
    """Give a private folder in the place, how many jobs its processors bear, and whether there is room for the file."""
    if server.reads_our_files:
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            yield folder, min(JOBS_LIMIT, os.cpu_count() or 1), True
        return
    words = ["sh", "-c", _PREPARE, "sh", _PREFIX, room.folder]
    told = server.place.run(words, timeout_seconds=60).text().splitlines()
    folder = told[0]
    size_bytes, free_bytes = _disk_bytes(told[-1])
    needed_bytes = file.stat().st_size + SPARE_BYTES
    # A container's own files are an overlay, which names no device: what is as large as the server's disk lies on it.
    if size_bytes == _disk_bytes(told[3])[0]:
        needed_bytes += room.to_come_bytes
    try:
        yield folder, min(JOBS_LIMIT, int(told[1])), free_bytes >= needed_bytes
    finally:
        with suppress(BackupError):  # swept by the next restore
            server.place.run(["rm", "-rf", folder], timeout_seconds=600)


def _put(server: Server, file: Path, folder: str) -> str:
    """Return the path of a file as the place sees it."""
    if server.reads_our_files:
        return str(file)
    path = f"{folder}/archive"
    server.place.write(["sh", "-c", _KEEP, "sh", path], file, timeout_seconds=TIMEOUT_SECONDS)
    return path


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


def _parts(table: str) -> tuple[str, str]:
    """Return schema and name of a table that is spelled as evidence spells it."""
    found = _TABLE.fullmatch(table)
    if found is None:
        raise RestoreRefusedError(f"table {table}: expected schema.table, each name quoted as SQL needs it")
    return unquoted(found[1]), unquoted(found[2])
