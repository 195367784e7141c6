"""What others do to a PostgreSQL while it is captured or restored, and what a database holds that is easily missed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from estate import await_condition

from gxbackup.errors import RestoreError, RestoreRefusedError
from gxbackup.postgres import evidence, making
from gxbackup.sources.base import Opened
from gxbackup.sources.postgres import Postgres
from tests.integration.postgres_server import (
    Protected,
    backed_up,
    captured,
    database,
    host_with,
    only,
    running_server,
    untold,
    work_of,
)

SOURCE = Postgres(namespace="backend-mainnet", pod="postgres-0")
# More than a pipe takes: pg_dump waits to be read, and holds what it has locked.
FILLED = "CREATE TABLE cache AS SELECT repeat(md5(i::text), 200) AS words FROM generate_series(1, 1000) i"
RELOAD = "BEGIN; TRUNCATE cache; INSERT INTO cache SELECT 'x' FROM generate_series(1, 5); COMMIT"
# Nothing of this is a table, a sequence or one of the objects that are counted.
UNCOUNTED = """CREATE TYPE pair AS (a int, b int); ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC;
CREATE PUBLICATION everything FOR ALL TABLES"""
ODD = """DROP EXTENSION plpgsql; CREATE SEQUENCE round MAXVALUE 5 CYCLE; SELECT setval('round', 4);
CREATE TABLE t (a int)"""


@pytest.fixture(scope="module")
def logical() -> Iterator[Protected]:
    """A server that knows prepared transactions and logical replication."""
    with running_server() as server:
        server.psql("ALTER SYSTEM SET max_prepared_transactions = 2; ALTER SYSTEM SET wal_level = logical")
        server.control("restart")
        server.psql("ALTER SYSTEM SET max_connections = 7")
        server.control("restart")
        server.psql("CREATE DATABASE stream")
        yield server


def test_a_table_that_is_emptied_and_filled_anew_while_it_is_captured_is_captured_whole(
    postgres: Protected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_by = "SELECT count(DISTINCT pid) FROM pg_locks WHERE relation = 'cache'::regclass AND {}"
    take = evidence.take
    reload = threading.Thread(target=postgres.psql, args=(RELOAD, "cached"))

    def with_others(*words: Any) -> Any:
        await_condition("pg_dump's lock", lambda: postgres.psql(held_by.format("granted"), "cached") == "2", 20)
        reload.start()
        await_condition("a reload", lambda: postgres.psql(held_by.format("NOT granted"), "cached") == "1", 20)
        return take(*words)

    with database(postgres, "cached", FILLED):
        with monkeypatch.context() as patch:
            patch.setattr(evidence, "take", with_others)
            opened = backed_up(SOURCE, host_with(pod=postgres.place()), tmp_path / "plain", only="cached")
        reload.join()

        said = SOURCE.rehearse(host_with(), work_of(SOURCE, opened, tmp_path))

        assert postgres.psql("SELECT count(*) FROM cache", "cached") == "5"
        assert only(opened, "cached").artifact.evidence["tables"] == {"public.cache": 1000}
        assert said[-1].startswith("cached: evidence equal: 1 tables with 1000 rows")


def test_a_table_that_is_made_while_the_others_are_locked_is_locked_too(
    postgres: Protected, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables, lists = evidence._tables, []

    def with_a_new_one(session: Any) -> list[str]:
        lists.append(tables(session))
        if len(lists) == 1:
            postgres.psql("CREATE TABLE later (a int)", "growing")
        return lists[-1]

    monkeypatch.setattr(evidence, "_tables", with_a_new_one)
    with (
        database(postgres, "growing", "CREATE TABLE t (a int)"),
        SOURCE._server(postgres.place()).session("growing") as session,
    ):
        evidence.begin(session, 1)
        locked = session.ask("SELECT relation::regclass FROM pg_locks WHERE relation >= 16384 ORDER BY 1;")
        assert locked == [("public.t",), ("public.later",)]
        assert lists[1:] == [["public.later", "public.t"]] * 2


@pytest.mark.parametrize("as_told", [tuple, untold], ids=["now", "older"])
def test_a_database_that_holds_nothing_that_is_counted_is_put_back_all_the_same(
    postgres: Protected, tmp_path: Path, as_told: Callable[[tuple[Opened, ...]], tuple[Opened, ...]]
) -> None:
    host = host_with(pod=postgres.place())
    with database(postgres, "quiet", UNCOUNTED):
        opened = as_told(backed_up(SOURCE, host, tmp_path / "plain", only="quiet"))
        postgres.psql("DROP DATABASE quiet")
        postgres.psql("CREATE DATABASE quiet")

        said = SOURCE.apply(host, work_of(SOURCE, opened, tmp_path))

        assert said[0].startswith("quiet: evidence equal: 0 tables")
        assert postgres.psql("SELECT pubname FROM pg_publication", "quiet") == "everything"
        assert postgres.psql("SELECT count(*) FROM pg_default_acl", "quiet") == "1"
        for name in postgres.databases():
            if name.startswith("quiet_before"):
                postgres.psql(f'DROP DATABASE "{name}"')


def test_what_changes_by_itself_makes_no_snapshot_that_cannot_be_restored(postgres: Protected, tmp_path: Path) -> None:
    host = host_with(pod=postgres.place())
    with database(postgres, "odd", ODD):
        other = postgres.client("odd")
        assert other.stdin and other.stdout
        other.stdin.write(b"CREATE TEMP TABLE mine (a int); CREATE POLICY p ON mine; SELECT 'made';\n")
        other.stdin.flush()
        assert other.stdout.readline() == b"made\n"
        with pytest.MonkeyPatch.context() as patch:
            take = evidence.take
            patch.setattr(evidence, "take", lambda *words: (take(*words), postgres.psql(
                "SELECT setval('round', 1)", "odd"))[0])  # fmt: skip
            opened = backed_up(SOURCE, host, tmp_path / "plain", only="odd")
        other.communicate()

        said = SOURCE.rehearse(host, work_of(SOURCE, opened, tmp_path))

        assert said[-1].startswith("odd: evidence equal: 1 tables with 0 rows, 1 sequences")


def test_what_is_set_for_all_roles_comes_back_where_nothing_else_is_set(postgres: Protected, tmp_path: Path) -> None:
    host = host_with(pod=postgres.place())
    told = "SELECT array_to_string(setconfig, ';') FROM pg_db_role_setting WHERE setdatabase = 0 AND setrole = 0"
    with database(postgres, "settled", "CREATE TABLE t (a int)"):
        postgres.psql("ALTER ROLE ALL SET statement_timeout = '50s'; ALTER ROLE ALL SET search_path = public, \"o'd\"")
        postgres.psql("ALTER ROLE ALL SET work_mem = '5MB'")
        try:
            opened = backed_up(SOURCE, host, tmp_path / "plain", only="settled")
            postgres.psql("ALTER ROLE ALL RESET ALL; ALTER ROLE ALL SET work_mem = '7MB'")

            SOURCE.apply(host, work_of(SOURCE, opened, tmp_path, databases=["settled"]))
            assert postgres.psql(told) == "work_mem=7MB"
            SOURCE.apply(host, work_of(SOURCE, opened, tmp_path))

            assert sorted(postgres.psql(told).split(";")) == [
                'search_path=public, "o\'d"', "statement_timeout=50s", "work_mem=7MB"
            ]  # fmt: skip
        finally:
            postgres.psql("ALTER ROLE ALL RESET ALL")
            for name in postgres.databases():
                if name.startswith("settled_before"):
                    postgres.psql(f'DROP DATABASE "{name}"')


def test_a_role_that_others_make_while_a_restore_fails_stays_theirs(
    postgres: Protected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = host_with(pod=postgres.place())
    make_roles = making.make_roles

    def after_others(*words: Any) -> None:
        postgres.psql("CREATE ROLE worker")
        make_roles(*words)

    with database(postgres, "shared", "CREATE TABLE t (a int)"):
        postgres.psql("CREATE ROLE worker")
        opened = backed_up(SOURCE, host, tmp_path / "plain", only="shared")
        postgres.psql("DROP ROLE worker")
        monkeypatch.setattr(making, "make_roles", after_others)

        with pytest.raises(RestoreError, match='role "worker" already exists'):
            SOURCE.apply(host, work_of(SOURCE, opened, tmp_path))

        assert postgres.psql("SELECT count(*) FROM pg_roles WHERE rolname = 'worker'") == "1"
        postgres.psql("DROP ROLE worker")


def test_a_database_with_a_prepared_transaction_is_refused_before_anything_is_made(
    logical: Protected, tmp_path: Path
) -> None:
    host = host_with(pod=logical.place())
    with database(logical, "prepared", "CREATE TABLE t (a int)"):
        opened = backed_up(SOURCE, host, tmp_path / "plain", only="prepared")
        logical.psql("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'x'", "prepared")
        try:
            for attempt in (SOURCE.preview, SOURCE.apply):
                with pytest.raises(RestoreRefusedError, match="expected no prepared transaction, seen 1"):
                    attempt(host, work_of(SOURCE, opened, tmp_path))
            assert not {name for name in logical.databases() if name.startswith("prepared_")}
        finally:
            logical.psql("ROLLBACK PREPARED 'x'", "prepared")


def test_a_restore_is_planned_where_an_application_has_left_hardly_a_connection(
    logical: Protected, tmp_path: Path
) -> None:
    host = host_with(pod=logical.place())
    with database(logical, "one", "SELECT 1"), database(logical, "two", "SELECT 1"):
        work = work_of(SOURCE, backed_up(SOURCE, host, tmp_path / "plain"), tmp_path)
        clients = [logical.client("postgres") for _ in range(5)]
        try:
            plan = SOURCE.preview(host, work)
        finally:
            for client in clients:
                client.communicate()
        assert "two: nothing in it, then and now; just its settings and grants are put back" in plan


def test_a_name_that_no_restore_can_spell_is_a_shortfall(logical: Protected) -> None:
    host = host_with(pod=logical.place())
    logical.psql('CREATE DATABASE U&"two\\000alines"')
    try:
        (said,) = captured(SOURCE, host, SOURCE.collect(host, "pg")[0])[1].shortfalls
        assert said.endswith("'two\\nlines': pg_restore refuses a name with a line break")
    finally:
        logical.psql('DROP DATABASE U&"two\\000alines"')


def test_a_rehearsal_touches_nothing_in_this_hosts_own_folder_for_temporary_files(
    postgres: Protected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = backed_up(SOURCE, host_with(pod=postgres.place()), tmp_path / "plain", only="postgres")
    others = tmp_path / "tmp" / "gx-restore.another"
    others.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))

    said = SOURCE.rehearse(host_with(), work_of(SOURCE, opened, tmp_path))

    assert said == ["postgres: nothing in it, then and now; just its settings and grants are put back"]
    assert [*(tmp_path / "tmp").iterdir()] == [others]


def test_replication_that_goes_on_in_what_is_kept_aside_is_told(logical: Protected, tmp_path: Path) -> None:
    host = host_with(pod=logical.place())
    logical.psql("CREATE TABLE t (a int); SELECT pg_create_logical_replication_slot('reader', 'pgoutput'); "
                 "CREATE SUBSCRIPTION feed CONNECTION 'host=127.0.0.1' PUBLICATION p "
                 "WITH (connect = false, slot_name = NONE)", "stream")  # fmt: skip
    try:
        opened = backed_up(SOURCE, host, tmp_path / "plain", only="stream")

        plan = SOURCE.preview(host, work_of(SOURCE, opened, tmp_path))
        said = SOURCE.apply(host, work_of(SOURCE, opened, tmp_path))

        for lines in (plan, said):
            assert [line for line in lines if line.startswith("stream: subscriptions feed go with what is kept aside")]
            assert [line for line in lines if line.startswith("stream: replication slots reader go with")]
    finally:
        logical.psql("SELECT pg_drop_replication_slot('reader')")
