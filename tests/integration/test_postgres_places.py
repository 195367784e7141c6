"""PostgreSQL put back where it runs in a pod and a container: what is done, what is not, and what nobody can know."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gxbackup.adapters.host import Host
from gxbackup.adapters.places import LocalPlace
from gxbackup.errors import RestoreError, RestoreRefusedError
from gxbackup.postgres.archive import beside_name
from gxbackup.scratch.postgres import programs
from gxbackup.sources.base import Opened
from gxbackup.sources.postgres import Postgres
from tests.integration.postgres_server import Protected, backed_up, host_with, work_of

BOTH = Postgres(namespace="fabric", pod="postgres-0", docker_container="postgres.ca", lock_timeout_seconds=0.3)
CA = "fabric ca"
CONTAINER = "container postgres.ca"
# Commits the exchange of names; from then on the server is not reached any more.
CUT_AFTER_COMMIT = """[ ! -e {folder}/cut ] || {{ echo 'psql: error: connection refused' >&2; exit 2; }}
[ "$1" = -Xqw ] || exec {psql} "$@"
cat >{folder}/sql; {psql} "$@" <{folder}/sql || exit
if grep -q 'LOCK TABLE' {folder}/sql; then
  touch {folder}/cut; echo 'server closed the connection unexpectedly' >&2; exit 2
fi"""


@pytest.fixture
def host(postgres: Protected) -> Host:
    return host_with(pod=postgres.place(), docker=LocalPlace(CONTAINER, postgres.env()))


@pytest.fixture
def held(postgres: Protected, host: Host, tmp_path: Path) -> Iterator[tuple[Opened, ...]]:
    """Give what was captured of a database in both places; one server answers for both."""
    before = postgres.databases()
    postgres.psql(f'CREATE DATABASE "{CA}"')
    postgres.psql("CREATE TABLE certificates AS SELECT generate_series(1, 50) AS serial", CA)
    yield backed_up(BOTH, host, tmp_path / "plain", only=CA)
    for name in postgres.databases() - before:
        postgres.psql(f'DROP DATABASE "{name}" WITH (FORCE)')


def with_program(postgres: Protected, folder: Path, name: str, script: str) -> LocalPlace:
    """Return the pod, in which another program is found first."""
    found_first = folder / "bin"
    found_first.mkdir()
    (found_first / name).write_text(f"#!/bin/sh\n{script}\n")
    (found_first / name).chmod(0o755)
    return postgres.place(PATH=f"{found_first}:{postgres.env()['PATH']}")


def kept(postgres: Protected) -> list[str]:
    return sorted(name for name in postgres.databases() if name.startswith(f"{CA}_before_"))


def test_where_the_second_place_fails_the_error_names_the_first_as_done(
    postgres: Protected, host: Host, held: tuple[Opened, ...], tmp_path: Path
) -> None:
    failing = with_program(postgres, tmp_path, "pg_restore", "echo 'no such luck' >&2; exit 1")
    broken = host_with(pod=failing, docker=host.containers.place("postgres.ca"))  # type: ignore[arg-type]
    postgres.psql("DELETE FROM certificates", CA)

    with pytest.raises(RestoreError, match="no such luck") as caught:
        BOTH.apply(broken, work_of(BOTH, held, tmp_path))

    (replaced,) = kept(postgres)
    assert postgres.psql("SELECT count(*) FROM certificates", CA) == "50"
    assert caught.value.hints == (
        "pod backend/postgres-0: nothing live was touched",
        f"{CONTAINER} was put back before that and stays so; what was there is kept as {replaced}",
        "put back only what is missing: choose it with `place`",
    )


def test_one_place_alone_is_put_back(host: Host, postgres: Protected, held: tuple[Opened, ...], tmp_path: Path) -> None:
    one = work_of(BOTH, held, tmp_path, place="pod")

    said = BOTH.apply(host, one)

    assert len(kept(postgres)) == 1
    assert len(one.opened) == 2
    assert BOTH.target(one) == "fabric/postgres-0"
    assert BOTH.target(work_of(BOTH, held, tmp_path)) == "postgres.ca, fabric/postgres-0"
    assert said[0].startswith(f"{CA}: evidence equal: 1 tables with 50 rows")
    with pytest.raises(RestoreRefusedError, match="place docker: nothing of it is in this snapshot"):
        BOTH.select([each.artifact for each in one.opened], {"place": "docker"})


def test_an_exchange_of_names_whose_end_was_not_seen_is_called_unknown(
    postgres: Protected, held: tuple[Opened, ...], tmp_path: Path
) -> None:
    script = CUT_AFTER_COMMIT.format(folder=tmp_path, psql=programs() / "psql")
    cut = with_program(postgres, tmp_path, "psql", script)
    postgres.psql("DELETE FROM certificates", CA)

    with pytest.raises(RestoreError, match=f"unknown whether {CA} took their names") as caught:
        BOTH.apply(host_with(pod=cut), work_of(BOTH, held, tmp_path, place="pod"))

    (replaced,) = kept(postgres)
    assert postgres.psql("SELECT count(*) FROM certificates", CA) == "50"
    assert "nothing live was touched" not in str(caught.value)
    assert f"where {beside_name(CA)} are listed, all is as it was" in str(caught.value)
    assert f"what was there is kept as {replaced}" in str(caught.value)


def test_a_database_that_appeared_since_the_plan_is_not_replaced(
    postgres: Protected, host: Host, held: tuple[Opened, ...], tmp_path: Path
) -> None:
    work = work_of(BOTH, held, tmp_path, place="pod")
    postgres.psql(f'DROP DATABASE "{CA}"')
    plan = BOTH.preview(host, work)
    postgres.psql(f'CREATE DATABASE "{CA}"')

    with pytest.raises(RestoreRefusedError, match=rf"shown: \[\], seen \['{CA}'\]") as caught:
        BOTH.apply(host, work)

    assert plan[-1].startswith(f"made: {CA}")
    assert kept(postgres) == []
    assert "look at the plan again" in str(caught.value)
    BOTH.preview(host, work)
    assert BOTH.apply(host, work)[-1] == f"{CA}: what was there is kept as database {kept(postgres)[0]}"
