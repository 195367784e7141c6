"""A restore that PostgreSQL refuses: the error says why, and neither the password nor the row that it is about."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gxbackup import recover_steps
from gxbackup.adapters.host import Host
from gxbackup.errors import RestoreError
from gxbackup.sources.base import Opened
from gxbackup.sources.postgres import Postgres
from tests.integration.postgres_server import PASSWORD, Protected, backed_up, host_with, only, work_of

SOURCE = Postgres(namespace="backend-mainnet", pod="postgres-0")
SECRET = "never-to-be-read"
MAPPING = f"""CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw;
CREATE USER MAPPING FOR "soon gone" SERVER far OPTIONS (user 'u', password '{SECRET}');"""
CHECK = f"""CREATE TABLE t (
  a text CONSTRAINT allowed CHECK (coalesce(current_setting('gx.allowed', true), '') = 'yes'));
SET gx.allowed = 'yes'; INSERT INTO t VALUES (E'{SECRET}\\n{SECRET}');"""

# It looks for `t` along the search_path, which is empty while a dump is restored.
UNFINDABLE = """CREATE TABLE t AS SELECT generate_series(1, 3) AS a;
CREATE FUNCTION counted() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM t); END';
CREATE MATERIALIZED VIEW m AS SELECT counted();"""


@pytest.fixture
def host(postgres: Protected) -> Host:
    return host_with(pod=postgres.place())


@pytest.fixture
def role(postgres: Protected) -> Iterator[str]:
    postgres.psql('CREATE ROLE "soon gone"; CREATE DATABASE said')
    yield "soon gone"
    postgres.psql("DROP DATABASE IF EXISTS said WITH (FORCE)")
    postgres.psql('DROP ROLE IF EXISTS "soon gone"')


def of_an_older_release(one: Opened) -> Opened:
    """Return an archive that does not tell which roles it needs."""
    evidence = {name: value for name, value in one.artifact.evidence.items() if name != "needs_roles"}
    return one.model_copy(update={"artifact": one.artifact.model_copy(update={"evidence": evidence})})


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        (MAPPING, 'role "soon gone" does not exist\nCommand was: CREATE USER MAPPING …'),
        (CHECK, 'new row for relation "t" violates check constraint "allowed"'),
    ],
)
@pytest.mark.parametrize("processors", [1, 4])
def test_an_error_says_what_was_refused_without_the_password_or_the_row(
    postgres: Protected, host: Host, role: str, tmp_path: Path, sql: str, told: str, processors: int
) -> None:
    postgres.psql(sql, "said")
    opened = only(backed_up(SOURCE, host, tmp_path / "plain", only="said"), "said")
    postgres.psql("DROP DATABASE said")
    postgres.psql(f'DROP ROLE "{role}"')
    (tmp_path / "nproc").write_text(f"#!/bin/sh\necho {processors}\n")
    (tmp_path / "nproc").chmod(0o755)
    place = postgres.place(PATH=f"{tmp_path}:{postgres.env()['PATH']}")

    with pytest.raises(RestoreError, match="nothing live was touched") as caught:
        SOURCE.apply(host_with(pod=place), work_of(SOURCE, (of_an_older_release(opened),), tmp_path))

    assert told in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "said" not in postgres.databases()


@pytest.mark.usefixtures("role")
def test_what_cannot_be_made_keeps_nothing_else_from_coming_back_by_hand(
    postgres: Protected, host: Host, tmp_path: Path
) -> None:
    postgres.psql(UNFINDABLE, "said")
    opened = only(backed_up(SOURCE, host, tmp_path / "plain", only="said"), "said")
    with pytest.raises(RestoreError, match="REFRESH MATERIALIZED VIEW") as caught:
        SOURCE.apply(host, work_of(SOURCE, (opened,), tmp_path))
    postgres.psql("DROP DATABASE said")
    steps = recover_steps.steps(opened.artifact, str(tmp_path / "said.dump"))
    assert "leave `--exit-on-error` out" in steps.about
    opened.packed.unpack(tmp_path / "said.dump")

    words = steps.there.replace("--exit-on-error ", "")
    login = postgres.env(PGUSER="postgres", PGPASSWORD=PASSWORD)
    done = subprocess.run(["sh", "-c", words], env=login, capture_output=True, text=True, check=False)

    assert "without --exit-on-error" in caught.value.hints[0]
    assert done.returncode == 1
    assert 'relation "t" does not exist' in done.stderr
    assert postgres.psql("SELECT count(*), (SELECT count(*) FROM pg_matviews) FROM t", "said") == "3|1"
