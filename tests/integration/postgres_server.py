"""A real PostgreSQL as the protected one: on a socket, with a password, run as another user than the tests."""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gxbackup.adapters.host import Host
from gxbackup.adapters.places import LocalPlace
from gxbackup.errors import BackupError, SourceMissingError
from gxbackup.model import Artifact, Capture, Part
from gxbackup.ports import PlainStream, StreamEnd
from gxbackup.postgres.server import connection
from gxbackup.scratch.postgres import programs
from gxbackup.sources.base import Opened, Work
from gxbackup.sources.postgres import Postgres
from tests.opened import packed

PASSWORD = "hunter2-never-to-be-seen"
SHA = "0" * 64
ODD = 'a "quoted" name\'s ünïcödé %/=.dump'
APP = """
CREATE EXTENSION pgcrypto;
CREATE TABLE account (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text UNIQUE, balance numeric);
CREATE TABLE transfer (id bigserial PRIMARY KEY, src bigint REFERENCES account, amount numeric);
CREATE TABLE "Odd ""table" ("a b" int);
CREATE SCHEMA "S p"; CREATE TABLE "S p"."tab.le" AS SELECT 1 AS one UNION ALL SELECT 2;
CREATE TABLE event (day date, n int) PARTITION BY RANGE (day);
CREATE TABLE event_2026 PARTITION OF event FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO event SELECT '2026-05-01', i FROM generate_series(1, 40) i;
CREATE INDEX ON transfer (src); CREATE VIEW rich AS SELECT * FROM account WHERE balance > 50;
CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1';
INSERT INTO account (name, balance) SELECT 'user-' || i, i FROM generate_series(1, 100) i;
INSERT INTO transfer (src, amount) SELECT 1 + i % 100, i FROM generate_series(1, 300) i;
GRANT SELECT ON account TO "read only"; ALTER TABLE transfer OWNER TO app;
ALTER DATABASE app SET search_path = "$user", public; ALTER ROLE app IN DATABASE app SET work_mem = '8MB';
GRANT CONNECT ON DATABASE app TO "read only"; COMMENT ON DATABASE app IS 'the app''s own';
SELECT lo_from_bytea(4711, decode(repeat('00ff', 10000), 'hex'));
"""


@dataclass(frozen=True)
class Protected:
    """One running server, and where its files lie."""

    folder: Path
    programs: Path

    def env(self, **more: str) -> dict[str, str]:
        """Return the variables of the place that it runs in."""
        path = f"{self.programs}:{os.environ['PATH']}"
        own = {"PGHOST": str(self.folder), "PGPORT": "5432", "PATH": path, "POSTGRES_PASSWORD": PASSWORD}
        # A restore sweeps what another one left in its place, and two files of tests run at once on this host.
        return {**own, "TMPDIR": str(self.tmp), **more}

    @property
    def tmp(self) -> Path:
        """The place's own folder for what is temporary."""
        (self.folder / "tmp").mkdir(exist_ok=True)
        return self.folder / "tmp"

    def place(self, **more: str) -> LocalPlace:
        """Return the place; more variables may be given, or others."""
        return LocalPlace("pod backend/postgres-0", self.env(**more))

    def psql(self, sql: str, database: str = "postgres", encoding: str = "UTF8") -> str:
        """Run SQL and return what it prints."""
        env = {**os.environ, **self.env(), "PGPASSWORD": PASSWORD, "PGUSER": "postgres", "PGCLIENTENCODING": encoding}
        words = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", connection(database), "-f", "-"]
        done = subprocess.run(words, input=sql.encode(), env=env, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode(errors="backslashreplace").rstrip("\n")

    def client(self, database: str) -> subprocess.Popen[bytes]:
        """Return a psql that stays connected until its stdin is closed."""
        env = {**os.environ, **self.env(), "PGPASSWORD": PASSWORD, "PGUSER": "postgres"}
        client = subprocess.Popen(
            ["psql", "-XqAt", "-d", connection(database)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env,
        )  # fmt: skip
        assert client.stdin and client.stdout
        client.stdin.write(b"SELECT 'here';\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"here\n"
        return client

    def control(self, *words: str) -> None:
        """Run pg_ctl."""
        pg_ctl = [*owner_words(), self.programs / "pg_ctl", "-D", self.folder / "data", "-l", self.folder / "log"]
        subprocess.run([*pg_ctl, "-w", "-s", *words], check=True, cwd=self.folder)

    def databases(self) -> set[str]:
        """Return the names of the databases there are."""
        return set(self.psql("SELECT datname FROM pg_database").splitlines())


@contextmanager
def database(postgres: Protected, name: str, sql: str) -> Iterator[None]:
    """Give a database that SQL was run in, gone with the block."""
    postgres.psql(f"CREATE DATABASE {name}")
    try:
        postgres.psql(sql, name)
        yield
    finally:
        postgres.psql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def owner_words(*paths: Path) -> list[str]:
    """Return the words that make root somebody else, who then owns the paths."""
    if os.geteuid() != 0:
        return []
    owner = pwd.getpwnam("postgres")
    for path in paths:
        os.chown(path, owner.pw_uid, owner.pw_gid)
    return ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]


@contextmanager
def running_server(of: Path | None = None, locale: Sequence[str] = ("--locale=C.UTF-8",)) -> Iterator[Protected]:
    """Start it, of these programs or of this host's own; stopped and removed with the block."""
    of = of or programs()
    with tempfile.TemporaryDirectory(prefix="gx-test-postgres-", dir="/var/tmp") as made:
        folder = Path(made)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        subprocess.run(
            [*owner_words(folder, secret), of / "initdb", "-D", folder / "data", "-U", "postgres",
             "--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", *locale, "--no-sync"],
            check=True, capture_output=True, cwd=folder,
        )  # fmt: skip
        with started(Protected(folder, of)) as server:
            yield server


@contextmanager
def started(server: Protected) -> Iterator[Protected]:
    """Start one whose data is there; stopped with the block."""
    options = f"-c listen_addresses='' -c unix_socket_directories={server.folder} -c fsync=off"
    server.control("-o", options, "start")
    try:
        yield server
    finally:
        server.control("-m", "immediate", "stop")


def fill(server: Protected) -> None:
    """Make roles, and databases with all that a restore must bring back."""
    odd = ODD.replace('"', '""')
    server.psql('CREATE ROLE app LOGIN PASSWORD \'x\'; CREATE ROLE "read only"; GRANT "read only" TO app;')
    server.psql("COMMENT ON ROLE app IS 'of two; lines\nCREATE ROLE no;'; ALTER ROLE app SET work_mem = '6MB'")
    server.psql("CREATE DATABASE app OWNER app")
    server.psql(APP, "app")
    server.psql(f'CREATE DATABASE "{odd}"')
    server.psql("CREATE TABLE t AS SELECT 1 AS a", ODD)
    server.psql("CREATE DATABASE bytes TEMPLATE template0 ENCODING SQL_ASCII LOCALE 'C'")
    server.psql(r"CREATE TABLE t (a text); INSERT INTO t VALUES (E'\xff\xfe');", "bytes", "SQL_ASCII")


def host_with(
    *, pod: LocalPlace | None = None, docker: LocalPlace | None = None, pod_fault: BackupError | None = None
) -> Host:
    """Return a host whose pod and container are these places."""

    def place(found: LocalPlace | None, name: str, fault: BackupError | None = None) -> LocalPlace:
        if found is None:
            raise fault or SourceMissingError(f"{name}: expected, seen none of that name")
        return found

    def of_pod(namespace: str, pod: str, container: str | None) -> LocalPlace:
        return place(the_pod, f"pod {pod}", pod_fault)

    the_pod = pod
    containers: Any = SimpleNamespace(place=lambda name: place(docker, f"container {name}"))
    cluster: Any = SimpleNamespace(place=of_pod)
    return Host(containers, cluster)


def read_all(stream: PlainStream, buffer_bytes: int = 1024**2) -> tuple[bytes, StreamEnd]:
    """Read a stream to its end."""
    buffer = memoryview(bytearray(buffer_bytes))
    plain = bytearray()
    while count := stream.readinto(buffer):
        plain += buffer[:count]
    return bytes(plain), stream.finish()


def captured(source: Postgres, host: Host, capture: Capture, buffer_bytes: int = 1024**2) -> tuple[bytes, StreamEnd]:
    """Read one capture to its end."""
    with source.open(host, capture) as stream:
        return read_all(stream, buffer_bytes)


def backed_up(
    source: Postgres, host: Host, folder: Path, only: str | None = None, instead: tuple[bytes, StreamEnd] | None = None
) -> tuple[Opened, ...]:
    """Capture all there is, or roles and one database, as a restore finds it: plain files with their artifacts."""
    opened = []
    folder.mkdir(exist_ok=True)
    for capture in source.collect(host, "postgres-mainnet"):
        database = capture.settings.get("database")
        if only is not None and database not in (None, only):
            continue
        plain, ending = instead if instead and database else captured(source, host, capture)
        opened.append(
            Opened(artifact=artifact_of(capture, ending, len(plain)), file=packed(folder / capture.name, plain))
        )
    return tuple(opened)


def untold(opened: tuple[Opened, ...]) -> tuple[Opened, ...]:
    """Return what was captured as an older snapshot tells of it: not how much the archives' own lists name."""
    return tuple(
        one.model_copy(
            update={
                "artifact": one.artifact.model_copy(
                    update={"evidence": {key: told for key, told in one.artifact.evidence.items() if key != "listed"}}
                )
            }
        )
        for one in opened
    )


def artifact_of(capture: Capture, ending: StreamEnd, size_bytes: int) -> Artifact:
    """Return the manifest entry of a capture, as far as a restore reads it."""
    path = f"databases/{capture.data_type}/{capture.name}.zst.age"
    return Artifact(
        data_type=capture.data_type, kind="postgres", path=path, sealed_size_bytes=1, sealed_sha256=SHA,
        parts=(Part(path=path, size_bytes=1, sha256=SHA),), plain_size_bytes=size_bytes, plain_sha256=SHA,
        content_sha256=ending.content_sha256, keep_days=7, settings=capture.settings,
        evidence={**capture.evidence, **ending.evidence},
    )  # fmt: skip


def work_of(source: Postgres, opened: tuple[Opened, ...], area: Path, **options: Any) -> Work:
    """Return what the recipe hands to a restore."""
    chosen = source.select([one.artifact for one in opened], options)
    return Work(
        data_type="postgres-mainnet",
        opened=tuple(one for one in opened if one.artifact in chosen),
        area=area,
        safety_dir=area,
        options=options,
    )


def only(opened: tuple[Opened, ...], database: str) -> Opened:
    """Return the archive of one database."""
    return next(one for one in opened if one.artifact.settings.get("database") == database)
