"""
An archive read into a database by pg_restore where the server runs.

Its rows are streamed, so that the way there and their loading take the same time; indexes and keys are then made by
several jobs. Where there are processors for several tables at once, and room, the whole archive is copied there first.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from gxbackup.errors import BackupError, CollectError, CommandError, RestoreRefusedError
from gxbackup.model import Frozen
from gxbackup.packed import PackedFile
from gxbackup.postgres.listing import BEGINNINGS_BYTES, TOO_SHORT
from gxbackup.postgres.said import explained
from gxbackup.postgres.script import of_database, unquoted
from gxbackup.postgres.server import Server, connection
from gxbackup.staging import require_room

TIMEOUT_SECONDS = 24 * 3600.0
SPARE_BYTES = 256 * 1024**2
JOBS_LIMIT = 4
# With so few processors a stream and its one backend fill them.
STREAMED_JOBS = 2
# What is half loaded when the server falls goes anyway: its commits need not be waited for, one by one.
_QUICK = "-c synchronous_commit=off"
# Files of the log are written to before they are read: PostgreSQL 12 and later need not fill them with zeros first.
_UNFILLED = " -c wal_init_zero=off"
UNFILLED_SINCE = 12
_PREFIX = "gx-restore."
# What a killed restore left is ours to remove: only one restore to a server is on at a time.
_MAKE_FOLDER = """umask 077; cd "${TMPDIR:-/tmp}" || exit
find . -maxdepth 1 -name "$1*" -exec rm -rf {} + && folder=$(mktemp -d "$PWD/$1XXXXXXXX") || exit
"""
_PREPARE = _MAKE_FOLDER + 'echo "$folder" && nproc && df -Pk "$2" && df -Pk .'
# `Filesystem 1024-blocks Used Available Capacity Mounted on`; the first and the last may hold spaces.
_DISK = re.compile(r" (\d+) +\d+ +(\d+) +\S+ +(/.*)$")
# pg_restore stops reading behind what it was asked for.
_STREAMED = '"$@" && exec cat >/dev/null'
# `3436; 0 0 COMMENT - DATABASE app app`, `3435; 1262 16386 DATABASE - app app`: numbers, kind, what it is about.
_ABOUT_THE_DATABASE = r"""pg_restore --list --create "$1" >"$1.list" &&
grep -E '^[0-9]+; [0-9]+ [0-9]+ ((ACL|COMMENT|SECURITY LABEL) - )?DATABASE ' "$1.list" >"$1.database" &&
pg_restore --create --use-list="$1.database" --file=- "$1" """
_KEEP = f'cat >"$1" && {_ABOUT_THE_DATABASE}'
# All at once, of a small one: kept in a folder that goes with the command, loaded by pg_restore's words that follow.
_KEEP_BRIEFLY = f"""{_MAKE_FOLDER}trap 'rm -rf "$folder"' EXIT; trap 'exit 129' HUP INT PIPE TERM; shift
cat >"$folder/archive" && "$@" "$folder/archive" >&2 && set -- "$folder/archive" &&
{_ABOUT_THE_DATABASE}"""
_SCRIPT = "pg_restore --create --file=- && exec cat >/dev/null"
_TABLE = re.compile(r'("(?:[^"]|"")*"|[^".]+)\.("(?:[^"]|"")*"|[^".]+)', re.DOTALL)


class Room(Frozen):
    """What a restore fills: a server of this version, its own folder, and how much its disk must still take."""

    version: int
    folder: str
    to_come_bytes: int


class Disk(Frozen):
    """A disk of the place: which of the folders asked for lie on it, and how much room it has."""

    folders: tuple[str, ...]
    free_bytes: int


def load(server: Server, file: PackedFile, database: str, tables: Sequence[str] | None, room: Room) -> str:
    """
    Read an archive into an empty database and stop at the first error; with tables: all definitions, just their rows.

    The archive is copied into the place only where that leaves the server the room it needs.
    Returns the SQL that belongs to the captured database itself, under its own name: grants, settings, its comment.
    Raises: CommandError with pg_restore's own words; the database is then half made.
    """
    options = _QUICK + (_UNFILLED if room.version >= UNFILLED_SINCE else "")
    words = ["env", f"PGOPTIONS={options}", "pg_restore", "--exit-on-error", "--no-password",
             f"--dbname={connection(database)}"]  # fmt: skip
    if tables is None and file.plain_size_bytes <= BEGINNINGS_BYTES[0] and not server.reads_our_files:
        return _put_with(server, file, _KEEP_BRIEFLY, _PREFIX, *words)
    with _prepared(server, file, room) as (folder, jobs, has_room):
        is_whole = has_room and (jobs > STREAMED_JOBS or server.reads_our_files)
        there = f"{folder}/archive"
        about = _put(server, file, there) if is_whole else _put_beginning(server, file, there, has_room=has_room)
        if tables is not None:
            server.run([*words, "--section=pre-data", there], timeout_seconds=TIMEOUT_SECONDS)
            # pg_restore takes every table of one of the names in any of the schemas: so one schema after the other.
            for schema, names in _by_schema(tables).items():
                chosen = [f"--schema={schema}", *(f"--table={name}" for name in names)]
                _load_rows(server, [*words, "--section=data", *chosen], file, there if is_whole else None)
            return ""
        if is_whole:
            server.run([*words, f"--jobs={jobs}", there], timeout_seconds=TIMEOUT_SECONDS)
        else:
            _load_rows(server, [*words, "--section=pre-data", "--section=data"], file, None)
            # What is left is made of what is loaded now: the archive's list is enough for that.
            server.run([*words, "--section=post-data", f"--jobs={jobs}", there], timeout_seconds=TIMEOUT_SECONDS)
        return about


def about(server: Server, file: PackedFile) -> str:
    """Return what `load` does, of a small archive that holds nothing else; writes nothing, and does not log in."""
    return _statements(server.run(["sh", "-c", _SCRIPT], stdin=file.beginning(file.plain_size_bytes)))


def disks(server: Server, folders: Sequence[str]) -> list[Disk]:
    """Return the disks that folders of the place lie on, and how much room each has."""
    told = server.place.run(["df", "-Pk", *folders], timeout_seconds=60).text().splitlines()[-len(folders) :]
    found: dict[str, Disk] = {}
    for folder, line in zip(folders, told, strict=True):
        _, free_bytes, mounted_on = _disk(line)
        before = found[mounted_on].folders if mounted_on in found else ()
        found[mounted_on] = Disk(folders=(*before, folder), free_bytes=free_bytes)
    return [*found.values()]


def _disk(told: str) -> tuple[int, int, str]:
    """Return how large a disk is, how much of it is free, and where it is mounted, as a line of `df -Pk` tells."""
    found = _DISK.search(told)
    if found is None:
        raise CollectError(f"df -Pk: expected a disk's size, room and folder, seen {told!r}")
    return int(found[1]) * 1024, int(found[2]) * 1024, found[3]


@contextmanager
def _prepared(server: Server, file: PackedFile, room: Room) -> Iterator[tuple[str, int, bool]]:
    """
    Give a private folder in the place, how many jobs its processors bear, and whether there is room for the file.

    Raises: StagingError where the place is this host, and its staging has no room for it.
    """
    if server.reads_our_files:
        require_room(file.path.parent, file.plain_size_bytes, f"{file.path.name}, unpacked,")
        with tempfile.TemporaryDirectory(dir=file.path.parent) as folder:
            yield folder, min(JOBS_LIMIT, os.cpu_count() or 1), True
        return
    words = ["sh", "-c", _PREPARE, "sh", _PREFIX, room.folder]
    told = server.place.run(words, timeout_seconds=60).text().splitlines()
    folder = told[0]
    size_bytes, free_bytes, _ = _disk(told[-1])
    needed_bytes = file.plain_size_bytes + SPARE_BYTES
    # A container's own files are an overlay, which names no device: what is as large as the server's disk lies on it.
    if size_bytes == _disk(told[3])[0]:
        needed_bytes += room.to_come_bytes
    try:
        yield folder, min(JOBS_LIMIT, int(told[1])), free_bytes >= needed_bytes
    finally:
        with suppress(BackupError):  # swept by the next restore
            server.place.run(["rm", "-rf", folder], timeout_seconds=600)


def _put(server: Server, file: PackedFile | Path, there: str) -> str:
    """Unpack an archive to a path of the place, and return the SQL that belongs to the captured database itself."""
    if server.reads_our_files and isinstance(file, PackedFile):
        file.unpack(Path(there))
        return _statements(server.run(["sh", "-c", _ABOUT_THE_DATABASE, "sh", there]))
    return _put_with(server, file, _KEEP, there)


def _put_with(server: Server, file: PackedFile | Path, line: str, *words: str) -> str:
    try:
        program = server.argv(["sh", "-c", line, "sh", *words])
        return _statements(server.place.write(program, file, timeout_seconds=TIMEOUT_SECONDS).text())
    except CommandError as error:
        raise explained(error) from None


def _statements(script: str) -> str:
    return "".join(f"{statement};\n" for statement in of_database(script))


def _put_beginning(server: Server, file: PackedFile, there: str, *, has_room: bool) -> str:
    """
    Put there what holds an archive's list, and all of its data only where the list is that long and there is room.

    Returns what `_put` does. Raises: RestoreRefusedError where there is none; CommandError with pg_restore's own words.
    """
    for size_bytes in BEGINNINGS_BYTES:
        if file.plain_size_bytes <= size_bytes:
            break
        with tempfile.NamedTemporaryFile(dir=file.path.parent) as beginning:
            beginning.write(file.beginning(size_bytes))
            beginning.flush()
            try:
                return _put(server, Path(beginning.name), there)
            except CommandError as error:
                if TOO_SHORT not in error.message:
                    raise
    if not (has_room or file.plain_size_bytes <= BEGINNINGS_BYTES[-1]):
        raise RestoreRefusedError(
            f"{server.place.name}: {file.path.name}: expected its list in its first {BEGINNINGS_BYTES[-1]} bytes, or "
            f"room for all of its {file.plain_size_bytes} bytes in the place's /tmp, seen neither",
            "make room there, or let TMPDIR of that container name a larger disk",
        )
    return _put(server, file, there)


def _load_rows(server: Server, words: Sequence[str], file: PackedFile, there: str | None) -> None:
    """Have pg_restore read the archive where it lies there, or from a stream to its last byte."""
    if there is not None:
        server.run([*words, there], timeout_seconds=TIMEOUT_SECONDS)
        return
    try:
        server.place.write(server.argv(["sh", "-c", _STREAMED, "sh", *words]), file, timeout_seconds=TIMEOUT_SECONDS)
    except CommandError as error:
        raise explained(error) from None


def _by_schema(tables: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for table in tables:
        schema, name = _parts(table)
        found.setdefault(schema, []).append(name)
    return found


def _parts(table: str) -> tuple[str, str]:
    """Return schema and name of a table that is spelled as evidence spells it."""
    found = _TABLE.fullmatch(table)
    if found is None:
        raise RestoreRefusedError(f"table {table}: expected schema.table, each name quoted as SQL needs it")
    return unquoted(found[1]), unquoted(found[2])
