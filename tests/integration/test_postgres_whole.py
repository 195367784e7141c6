"""A whole PostgreSQL put back on another server: also what belongs to databases that are never empty, or always."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gxbackup.adapters.places import LocalPlace
from gxbackup.errors import IntegrityError, RestoreRefusedError
from gxbackup.postgres.archive import HOME, beside_name
from gxbackup.scratch.postgres import programs
from gxbackup.sources.base import Opened
from gxbackup.sources.postgres import Postgres
from tests.integration.postgres_server import Protected, backed_up, host_with, only, running_server, untold, work_of

SOURCE = Postgres(namespace="backend-mainnet", pod="postgres-0")
# initdb of a server whose databases are ICU's where nobody says otherwise.
ICU = ("--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US")
ROLES = "SELECT array_agg(rolname ORDER BY 1) FROM pg_roles"
# A psql whose server knows no WITH (FORCE), as PostgreSQL 12.
OF_12 = """[ "$1" = -Xqw ] || exec {psql} "$@"
cat >{folder}/sql
if grep -qi FORCE {folder}/sql; then echo 'ERROR:  syntax error at or near "WITH"' >&2; exit 3; fi
exec {psql} "$@" <{folder}/sql"""


@pytest.fixture
def target() -> Iterator[Protected]:
    """Give a new server, on which nothing was ever made."""
    with running_server(locale=ICU) as server:
        yield server


@pytest.fixture
def filled(target: Protected) -> Protected:
    """Give a server both of whose own databases hold something."""
    for name in ("postgres", "template1"):
        target.psql(f"CREATE TABLE t AS SELECT '{name}' AS a", name)
    return target


def of_server(server: Protected, folder: Path) -> tuple[Opened, ...]:
    return backed_up(SOURCE, host_with(pod=server.place()), folder)


def told_wrongly(opened: tuple[Opened, ...], database: str) -> tuple[Opened, ...]:
    """Return the captured, of which one database claims a row more."""
    artifact = only(opened, database).artifact
    claimed = artifact.model_copy(update={"evidence": {**artifact.evidence, "tables": {"public.t": 2}}})
    return tuple(one.model_copy(update={"artifact": claimed}) if one.artifact == artifact else one for one in opened)


def test_where_every_database_is_replaced_one_is_made_to_be_connected_to_meanwhile(
    filled: Protected, tmp_path: Path
) -> None:
    host = host_with(pod=filled.place())
    opened = of_server(filled, tmp_path / "plain")
    for name in ("postgres", "template1"):
        filled.psql("DELETE FROM t", name)

    rehearsed = SOURCE.rehearse(host, work_of(SOURCE, opened, tmp_path))
    said = SOURCE.apply(host, work_of(SOURCE, opened, tmp_path))

    equal = [f"{name}: evidence equal: 1 tables with 1 rows" for name in ("postgres", "template1")]
    assert [line[: len(start)] for line, start in zip(rehearsed, equal, strict=False)] == equal
    assert [line[: len(start)] for line, start in zip(said, equal, strict=False)] == equal
    assert [filled.psql("SELECT a FROM t", name) for name in ("postgres", "template1")] == ["postgres", "template1"]
    assert filled.psql("SELECT count(*) FROM pg_database WHERE datname LIKE '%\\_before\\_%'") == "2"
    assert HOME not in filled.databases()


def test_what_was_made_to_be_connected_to_goes_where_the_restore_fails_and_is_swept_where_it_was_killed(
    filled: Protected, tmp_path: Path
) -> None:
    host = host_with(pod=filled.place())
    opened = of_server(filled, tmp_path / "plain")
    before = filled.databases()

    with pytest.raises(IntegrityError, match="expected 2, seen 1"):
        SOURCE.apply(host, work_of(SOURCE, told_wrongly(opened, "template1"), tmp_path))
    assert filled.databases() == before

    filled.psql(f"CREATE DATABASE {HOME}")
    assert HOME not in [capture.settings.get("database") for capture in SOURCE.collect(host, "pg")]
    SOURCE.apply(host, work_of(SOURCE, opened, tmp_path, databases=["postgres"]))
    assert HOME not in filled.databases()


@pytest.mark.parametrize("as_told", [tuple, untold], ids=["now", "older"])
def test_settings_and_grants_of_databases_that_hold_nothing_are_put_back(
    target: Protected, tmp_path: Path, as_told: Callable[[tuple[Opened, ...]], tuple[Opened, ...]]
) -> None:
    about = """SELECT shobj_description(oid, 'pg_database'), has_database_privilege('public', oid, 'CONNECT'), setconfig
        FROM pg_database JOIN pg_db_role_setting ON setdatabase = oid WHERE datname = 'postgres'"""
    target.psql("""ALTER DATABASE postgres SET work_mem = '7MB'; COMMENT ON DATABASE postgres IS 'the first';
        REVOKE CONNECT ON DATABASE postgres FROM PUBLIC""")
    opened = as_told(of_server(target, tmp_path / "plain"))
    as_it_was = target.psql(about)
    target.psql("""ALTER DATABASE postgres RESET ALL; COMMENT ON DATABASE postgres IS NULL;
        GRANT CONNECT ON DATABASE postgres TO PUBLIC""")
    host, work = host_with(pod=target.place()), work_of(SOURCE, opened, tmp_path)

    plan = SOURCE.preview(host, work)
    said = SOURCE.apply(host, work)

    assert as_it_was == "the first|f|{work_mem=7MB}"
    assert target.psql(about) == as_it_was
    assert plan == said
    assert said[0] == "postgres: nothing in it, then and now; just its settings and grants are put back"


def test_a_database_is_as_it_was_where_new_ones_are_of_another_locale_provider(
    postgres: Protected, target: Protected, tmp_path: Path
) -> None:
    opened = backed_up(SOURCE, host_with(pod=postgres.place()), tmp_path / "plain", only="app")

    SOURCE.apply(host_with(pod=target.place()), work_of(SOURCE, opened, tmp_path))

    provider = "SELECT datlocprovider FROM pg_database WHERE datname = '{}'"
    assert target.psql(provider.format("postgres")) == "i"
    assert target.psql(provider.format("app")) == "c"


def test_who_may_set_a_parameter_may_again(postgres: Protected, target: Protected, tmp_path: Path) -> None:
    may = "SELECT has_parameter_privilege('{}', 'log_min_duration_statement', 'SET')"
    postgres.psql('GRANT SET ON PARAMETER log_min_duration_statement TO app, "read only"')
    try:
        opened = backed_up(SOURCE, host_with(pod=postgres.place()), tmp_path / "plain", only="app")
    finally:
        postgres.psql('REVOKE SET ON PARAMETER log_min_duration_statement FROM app, "read only"')
    target.psql('CREATE ROLE "read only"')

    SOURCE.apply(host_with(pod=target.place()), work_of(SOURCE, opened, tmp_path))

    assert [target.psql(may.format(role)) for role in ("app", "read only")] == ["t", "t"]


def test_a_role_that_was_made_after_the_roles_were_captured_is_named_before_anything_is_made(
    postgres: Protected, target: Protected, tmp_path: Path
) -> None:
    before = (target.databases(), target.psql(ROLES))
    postgres.psql("CREATE DATABASE late")
    try:
        roles, _ = backed_up(SOURCE, host_with(pod=postgres.place()), tmp_path / "roles", only="late")
        postgres.psql('CREATE ROLE owns; CREATE ROLE reads; CREATE ROLE "set\'s"')
        postgres.psql("CREATE TABLE t (a int); ALTER TABLE t OWNER TO owns; GRANT SELECT ON t TO reads", "late")
        postgres.psql("ALTER ROLE \"set's\" IN DATABASE late SET work_mem = '8MB'")
        _, late = backed_up(SOURCE, host_with(pod=postgres.place()), tmp_path / "plain", only="late")
    finally:
        postgres.psql("DROP DATABASE late")
        postgres.psql('DROP ROLE IF EXISTS owns; DROP ROLE IF EXISTS reads; DROP ROLE IF EXISTS "set\'s"')
    host, work = host_with(pod=target.place()), work_of(SOURCE, (roles, late), tmp_path)

    for attempt in (SOURCE.preview, SOURCE.apply):
        with pytest.raises(
            RestoreRefusedError, match="database 'late' needs the roles owns, reads, set's, which"
        ) as caught:
            attempt(host, work)
    assert (target.databases(), target.psql(ROLES)) == before
    assert 'CREATE ROLE "owns"; CREATE ROLE "reads"; CREATE ROLE "set\'s";' in str(caught.value)

    target.psql('CREATE ROLE owns; CREATE ROLE reads; CREATE ROLE "set\'s"')
    assert SOURCE.apply(host, work)[-1].startswith("late: evidence equal")


def test_what_an_earlier_try_left_is_dropped_with_whoever_is_connected_on_postgresql_12_too(
    target: Protected, tmp_path: Path
) -> None:
    target.psql("CREATE DATABASE app")
    target.psql("CREATE TABLE t AS SELECT 1 AS a", "app")
    opened = backed_up(SOURCE, host_with(pod=target.place()), tmp_path / "plain", only="app")
    target.psql(f'CREATE DATABASE "{beside_name("app")}"')
    client = target.client(beside_name("app"))

    SOURCE.apply(host_with(pod=with_psql_of_12(target, tmp_path)), work_of(SOURCE, opened, tmp_path))

    assert client.communicate(b"SELECT 'still here';\n")[0] == b""
    assert beside_name("app") not in target.databases()


def with_psql_of_12(server: Protected, folder: Path) -> LocalPlace:
    psql = folder / "psql"
    psql.write_text(f"#!/bin/sh\n{OF_12.format(folder=folder, psql=programs() / 'psql')}\n")
    psql.chmod(0o755)
    return server.place(PATH=f"{folder}:{server.env()['PATH']}")
