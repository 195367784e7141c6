"""
A PostgreSQL server by its own programs, where they run; and a conversation with it that lasts.

The password is a variable of the place (or the file that `<variable>_FILE` names) and never leaves it.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gxbackup.errors import CollectError, CommandError
from gxbackup.ports import Place, Running
from gxbackup.postgres.said import explained

CALL_TIMEOUT_SECONDS = 120
# What `datconnlimit` is of a database whose DROP was interrupted.
INTERRUPTED_DROP = -2
_CHUNK_BYTES = 64 * 1024
# PGCLIENTENCODING would make pg_dump convert, and fail at the first byte that is no text.
_LOGIN = """unset PGCLIENTENCODING PGOPTIONS PGDATABASE PGSERVICE
PGPASSWORD=${%(variable)s-} PGUSER=$1 PGCONNECT_TIMEOUT=30 PGAPPNAME=gx-backup LC_ALL=C
if [ -z "$PGPASSWORD" ] && [ -r "${%(variable)s_FILE-}" ]; then PGPASSWORD=$(cat "${%(variable)s_FILE}"); fi
export PGPASSWORD PGUSER PGCONNECT_TIMEOUT PGAPPNAME LC_ALL
shift; exec "$@\""""
_SETTINGS = """SET client_encoding = 'UTF8'; SET search_path = pg_catalog; SET row_security = off;
SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET bytea_output = 'hex';
SET standard_conforming_strings = on;
SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout';"""
_DATABASES = """SELECT to_jsonb(d) || jsonb_build_object('owner', pg_get_userbyid(datdba),
  'encoding_name', pg_encoding_to_char(encoding), 'tablespace', spcname,
  'size_bytes', CASE WHEN datconnlimit <> -2 THEN pg_database_size(d.oid) ELSE 0 END,
  'prepared', (SELECT count(*) FROM pg_prepared_xacts p WHERE p.database = datname),
  'subscriptions', (SELECT jsonb_agg(subname ORDER BY subname) FROM pg_subscription WHERE subdbid = d.oid),
  'slots', (SELECT jsonb_agg(slot_name ORDER BY slot_name) FROM pg_replication_slots s WHERE s.database = datname),
  'connections', (SELECT count(*) FROM pg_stat_activity a WHERE a.datid = d.oid AND pid <> pg_backend_pid()))
  FROM pg_database d JOIN pg_tablespace t ON t.oid = dattablespace ORDER BY datname;"""
_FACTS = """SELECT jsonb_build_object('version', current_setting('server_version'), 'home', current_database(),
  'data_directory', current_setting('data_directory', true),
  'wal_limit_bytes', pg_size_bytes(current_setting('max_wal_size')),
  'roles', (SELECT jsonb_agg(rolname) FROM pg_roles),
  'settings_of_all', (SELECT coalesce(jsonb_agg(split_part(each, '=', 1)), '[]')
    FROM pg_db_role_setting, unnest(setconfig) each WHERE setdatabase = 0 AND setrole = 0),
  'tablespaces', (SELECT jsonb_object_agg(spcname, pg_tablespace_location(oid)) FROM pg_tablespace),
  'extensions', (SELECT jsonb_agg(name) FROM pg_available_extensions),
  'in_recovery', pg_is_in_recovery(), 'receiver', (SELECT status FROM pg_stat_wal_receiver));"""


def quoted_name(name: str) -> str:
    """Return the SQL identifier of a name."""
    return '"' + name.replace('"', '""') + '"'


def quoted_text(text: str) -> str:
    """Return an SQL string literal, whatever standard_conforming_strings says."""
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f" E'{escaped}'" if "\\" in text else f"'{escaped}'"


def connection(database: str) -> str:
    """Return what `--dbname` takes for a database of any name: one with `=` in it would be read as a setting."""
    escaped = database.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{escaped}'"


class Session:
    """One psql that is spoken to; its transaction lasts as long as it is open."""

    def __init__(self, running: Running, label: str) -> None:
        self._running = running
        self._label = label
        self._end = f"gx-{secrets.token_hex(16)}\n"

    def ask(self, sql: str, columns: int = 1) -> list[tuple[str, ...]]:
        r"""
        Run one statement (`;` or `\gexec` at its end is the caller's) and return its rows as text; NULL is empty.

        Bytes that are no UTF-8 (names in SQL_ASCII) are kept as surrogates. Raises: CommandError; the session is over.
        """
        self._running.write(f"{sql}\n\\echo {self._end}".encode("utf-8", "surrogateescape"))
        end = self._end.encode()
        answer = bytearray()
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        while not answer.endswith(end):
            count = self._running.readinto(buffer)
            if not count:
                self._running.wait(CALL_TIMEOUT_SECONDS)
                said = self._running.stderr().decode("utf-8", "replace").strip()
                raise explained(CommandError(f"{self._label}: {said or 'psql ended without a word'}"))
            answer += buffer[:count]
        fields = bytes(answer[: -len(end)]).decode("utf-8", "surrogateescape").split("\0")[:-1]
        return [tuple(fields[start : start + columns]) for start in range(0, len(fields), columns)]

    def value(self, sql: str) -> str:
        """Run one statement that returns one value."""
        return self.ask(sql)[0][0]


@dataclass(frozen=True)
class Overview:
    """What a server is and has; each database as `pg_database` has it, with owner, encoding_name, size_bytes, …."""

    label: str
    version: str
    home: str
    data_directory: str
    wal_limit_bytes: int
    roles: list[str]
    settings_of_all: list[str]
    tablespaces: dict[str, str]
    extensions: list[str]
    in_recovery: bool
    receiver: str | None
    databases: dict[str, dict[str, Any]]

    def require_current(self) -> None:
        """Raise CollectError for a standby that does not follow its primary now: what it holds may be old."""
        if self.in_recovery and self.receiver != "streaming":
            raise CollectError(
                f"{self.label}: is a standby whose WAL receiver is expected to be streaming, seen "
                f"{self.receiver or 'none'}: what it holds may be old",
                "is its primary up? or name the primary in the inventory",
                retryable=True,
            )

    def home_but(self, names: Collection[str]) -> str | None:
        """Return a database to be connected to while these are renamed; None where there is no other."""
        for name in sorted(self.databases, key=lambda each: (each != self.home, each)):
            found = self.databases[name]
            if found["datallowconn"] and found["datconnlimit"] != INTERRUPTED_DROP and name not in names:
                return name
        return None


@dataclass(frozen=True)
class Server:
    """Where a server's programs run, and as whom they log in."""

    place: Place
    user: str = "postgres"
    password_variable: str = "POSTGRES_PASSWORD"  # noqa: S105 - the name of a variable
    reads_our_files: bool = False
    """Whether its programs can open the files of this process: a scratch server's can."""

    def argv(self, program: Sequence[str]) -> list[str]:
        """Return the command that runs a PostgreSQL program there, logged in."""
        return ["sh", "-c", _LOGIN % {"variable": self.password_variable}, "sh", self.user, *program]

    @contextmanager
    def session(self, database: str) -> Iterator[Session]:
        """Open a conversation with a database. Raises: CommandError where it cannot be reached."""
        psql = ["psql", "-XqAtw", "-z", "-0", "-v", "ON_ERROR_STOP=1", "-d", connection(database), "-f", "-"]
        with self.place.start(self.argv(psql), stdin=True) as running:
            session = Session(running, f"{self.place.name}: database {database!r}")
            session.ask(_SETTINGS)
            yield session
            running.write(b"\\q\n")

    def run(
        self, program: Sequence[str], *, stdin: bytes | None = None, timeout_seconds: float = CALL_TIMEOUT_SECONDS
    ) -> str:
        """Run a program to its end and return what it printed. Raises: CommandError."""
        try:
            ended = self.place.run(self.argv(program), timeout_seconds=timeout_seconds, stdin=stdin, check=False)
        except CommandError as error:
            raise explained(error) from None
        if ended.returncode != 0:
            raise explained(
                CommandError(f"{self.place.name}: {program[0]}: exit status {ended.returncode}: {ended.complaint()}")
            )
        return ended.text()

    def script(self, database: str, sql: str, *, timeout_seconds: float = CALL_TIMEOUT_SECONDS) -> None:
        """Run statements up to the first error; those before it stay, but for a transaction. Raises: CommandError."""
        self.run(
            ["psql", "-Xqw", "-v", "ON_ERROR_STOP=1", "-d", connection(database), "-f", "-"],
            stdin=f"SET client_encoding = 'UTF8';\n{sql}".encode("utf-8", "surrogateescape"),
            timeout_seconds=timeout_seconds,
        )

    def look(self) -> Overview:
        """
        Ask what there is, by a database that every server has.

        Raises: CommandError where the server cannot be reached; CollectError where it has no such database.
        """
        failure: CommandError | None = None
        for name in ("postgres", "template1"):
            try:
                with self.session(name) as session:
                    facts = json.loads(session.value(_FACTS))
                    databases = [json.loads(row) for (row,) in session.ask(_DATABASES)]
                    return Overview(self.place.name, databases={each["datname"]: each for each in databases}, **facts)
            except CommandError as error:
                if not re.search(r"does not exist|not currently accepting connections", error.message):
                    raise
                failure = error
        raise CollectError(f"{self.place.name}: expected a database postgres or template1 to log in to: {failure}")

    def require_pg_dump(self, version: str) -> None:
        """Raise CollectError where pg_dump there is older than its server: it would refuse, or lose something."""
        said = self.run(["pg_dump", "--version"])
        if major(said.partition(")")[2] or said) < major(version):
            raise CollectError(
                f"{self.place.name}: expected pg_dump of version {major(version)} or newer, seen {said!r}",
                "the server's own image brings the right one",
            )


def major(version: str) -> int:
    """Return the major version that a text names first: `15.18 (Debian …)` → 15."""
    found = re.search(r"\d+", version)
    if found is None:
        raise CollectError(f"expected a PostgreSQL version, seen {version!r}")
    return int(found[0])
