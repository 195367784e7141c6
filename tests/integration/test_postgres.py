"""PostgreSQL, captured from a real server and rehearsed on another: all of it, and nothing but the same instant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gxbackup.adapters.host import Host
from gxbackup.sources.postgres import Postgres
from tests.integration.postgres_server import (
    Protected,
    backed_up,
    host_with,
    only,
    running_server,
    work_of,
)

ODD = 'a "quoted" name\'s ünïcödé %/=.dump'
ODD_SQL = ODD.replace('"', '""')
SOURCE = Postgres(namespace="backend-mainnet", pod="postgres-0", lock_timeout_seconds=0.3)
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


@pytest.fixture(scope="session")
def protected() -> Iterator[Protected]:
    with running_server() as server:
        server.psql('CREATE ROLE app LOGIN PASSWORD \'x\'; CREATE ROLE "read only"; GRANT "read only" TO app;')
        server.psql("COMMENT ON ROLE app IS 'of two; lines\nCREATE ROLE no;'; ALTER ROLE app SET work_mem = '6MB'")
        server.psql("CREATE DATABASE app OWNER app")
        server.psql(APP, "app")
        server.psql(f'CREATE DATABASE "{ODD_SQL}"')
        server.psql("CREATE TABLE t AS SELECT 1 AS a", ODD)
        server.psql("CREATE DATABASE bytes TEMPLATE template0 ENCODING SQL_ASCII LOCALE 'C'")
        server.psql(r"CREATE TABLE t (a text); INSERT INTO t VALUES (E'\xff\xfe');", "bytes", "SQL_ASCII")
        yield server


@pytest.fixture
def host(protected: Protected) -> Host:
    return host_with(pod=protected.place())


def capture_of(host: Host, database: str):
    return next(each for each in SOURCE.collect(host, "pg") if each.settings.get("database") == database)


def test_every_database_is_captured_and_comes_back_equal_on_a_scratch_server(host: Host, tmp_path: Path) -> None:
    opened = backed_up(SOURCE, host, tmp_path / "plain")

    said = SOURCE.rehearse(host, work_of(SOURCE, opened, tmp_path))

    names = {one.file.name for one in opened}
    assert {"globals.sql", "app.dump", "postgres.dump", "bytes.dump"} <= names
    assert "a%20%22quoted%22%20name%27s%20%C3%BCn%C3%AFc%C3%B6d%C3%A9%20%25%2F%3D.dump.dump" in names
    app = only(opened, "app").artifact.evidence
    assert app["tables"] == {
        '"S p"."tab.le"': 2, 'public."Odd ""table"': 0, "public.account": 100, "public.event_2026": 40,
        "public.transfer": 300,
    }  # fmt: skip
    assert app["sequences"] == {
        "public.account_id_seq": {"next": 101, "step": 1},
        "public.transfer_id_seq": {"next": 301, "step": 1},
    }
    assert app["large_objects"] == {"count": 1, "bytes": 20000}
    assert app["owner"] == "app"
    assert set(app["extensions"]) == {"plpgsql", "pgcrypto"}
    assert any(line.startswith("app: evidence equal: 5 tables with 442 rows") for line in said)
    assert any(line.startswith("bytes: evidence equal: 1 tables with 1 rows") for line in said)
    assert [line for line in said if line.startswith(f"{ODD}: evidence equal")]
    assert list(Path("/var/tmp").glob("gx-scratch-postgres-*")) == []
