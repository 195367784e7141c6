"""Scripts of PostgreSQL's programs: what is new is made, what is there is not touched."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gxbackup.postgres.archive import before_name, beside_name
from gxbackup.postgres.script import lacking, of_database, statements
from gxbackup.postgres.server import connection, major, quoted_name, quoted_text

GLOBALS = r"""--
-- PostgreSQL database cluster dump
\restrict abc
SET standard_conforming_strings = on;
CREATE ROLE app;
ALTER ROLE app WITH NOSUPERUSER LOGIN PASSWORD 'SCRAM-SHA-256$4096:a;b=';
COMMENT ON ROLE app IS 'two; lines
\ and CREATE ROLE no;
-- it''s no comment';
CREATE ROLE "re;ad ""er";
ALTER ROLE "re;ad ""er" WITH NOLOGIN;
CREATE ROLE postgres;
ALTER ROLE postgres WITH SUPERUSER PASSWORD 'x';
ALTER ROLE postgres SET search_path TO E'a\'b';
GRANT "re;ad ""er" TO app GRANTED BY postgres;
GRANT postgres TO postgres GRANTED BY postgres;
CREATE TABLESPACE fast OWNER app LOCATION '/mnt/f''ast';
ALTER TABLESPACE fast SET (seq_page_cost=1.0);
GRANT ALL ON TABLESPACE fast TO app;
\unrestrict abc
"""


def test_two_long_names_that_begin_alike_are_kept_under_two() -> None:
    first, second = (f"{'backend_before_20261128_022635_before_2026' * 2}"[:55] + end for end in ("a" * 8, "b" * 8))

    kept = {before_name(name, ()) for name in (first, second)}

    assert len(kept) == 2
    assert all(len(name.encode()) <= 63 and "_before_2" in name for name in kept)
    assert before_name("backend", ()).startswith("backend_before_")


def test_a_name_that_was_taken_within_this_second_is_not_taken_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)
    monkeypatch.setattr("gxbackup.clock.now", lambda: now)

    first = before_name("backend", ())

    assert first == "backend_before_20261231_235959"
    assert before_name("backend", [first]) == "backend_before_20270101_000000"


def test_statements_end_where_sql_ends_them() -> None:
    found = list(statements(GLOBALS))

    assert len(found) == 14
    assert found[3].endswith("\\ and CREATE ROLE no;\n-- it''s no comment'")


def test_only_roles_that_are_not_there_are_made() -> None:
    new = lacking(GLOBALS, {"postgres", "app"}, {"pg_default"})

    assert new.roles == ('re;ad "er',)
    assert new.role_statements == (
        'CREATE ROLE "re;ad ""er"',
        'ALTER ROLE "re;ad ""er" WITH NOLOGIN',
        'GRANT "re;ad ""er" TO app GRANTED BY postgres',
    )
    assert new.tablespaces == {"fast": "/mnt/f'ast"}
    assert len(new.tablespace_statements) == 3


def test_a_right_to_set_a_parameter_is_granted_to_roles_that_are_there_too() -> None:
    grant = "GRANT SET, ALTER SYSTEM ON PARAMETER log_min_messages TO app WITH GRANT OPTION"

    new = lacking(f"{GLOBALS}{grant};\nGRANT CREATE ON TABLESPACE fast TO app;\n", {"postgres", "app"}, ())

    assert new.parameter_grants == (grant,)
    assert grant not in new.role_statements


def test_on_an_empty_server_all_is_made_but_its_superuser_and_tablespaces_lie_elsewhere() -> None:
    new = lacking(GLOBALS, {"postgres"}, (), lambda name: f"/scratch/{name}'s")

    assert new.roles == ("app", 're;ad "er')
    assert not any("ROLE postgres" in statement for statement in new.role_statements)
    assert new.tablespace_statements[0] == "CREATE TABLESPACE fast OWNER app LOCATION '/scratch/fast''s'"


def test_of_a_database_come_its_settings_and_grants_and_neither_its_making_nor_a_connect() -> None:
    script = r"""\restrict x
CREATE DATABASE "a b" WITH TEMPLATE = template0;
ALTER DATABASE "a b" OWNER TO app;
\connect -reuse-previous=on "dbname='a b'"
SET statement_timeout = 0;
ALTER DATABASE "a b" CONNECTION LIMIT = 7;
ALTER ROLE app IN DATABASE "a b" SET work_mem TO '8MB';
COMMENT ON DATABASE "a b" IS 'x';
REVOKE CONNECT,TEMPORARY ON DATABASE "a b" FROM PUBLIC;
"""

    assert [statement.split()[0] for statement in of_database(script)] == ["ALTER", "ALTER", "COMMENT", "REVOKE"]


@pytest.mark.parametrize("name", ["app", "ü" * 31, "x" * 63])
def test_names_of_what_a_restore_makes_fit_and_are_told_apart(name: str) -> None:
    assert len(beside_name(name).encode()) <= 63
    assert beside_name(name) == beside_name(name) != beside_name(name + "y")
    assert len(before_name(name, ()).encode()) <= 63


def test_names_of_any_kind_are_quoted_as_sql_and_libpq_want_it() -> None:
    assert quoted_name('a "b') == '"a ""b"'
    assert quoted_text("it's") == "'it''s'"
    assert quoted_text("a\\b'") == " E'a\\\\b'''"
    assert connection("a=b 'c'\\") == "dbname='a=b \\'c\\'\\\\'"
    assert major("15.18 (Debian 15.18-0+deb12u1)") == 15
