"""PostgreSQL's tablespaces: folders beside the server's own, which the server that is restored to may not have."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gxbackup.adapters.host import Host
from gxbackup.errors import RestoreRefusedError
from gxbackup.sources.base import Opened
from gxbackup.sources.postgres import Postgres
from tests.integration.postgres_server import Protected, backed_up, host_with, only, work_of

SOURCE = Postgres(namespace="backend-mainnet", pod="postgres-0", lock_timeout_seconds=0.3)
SPACE = "fast 'disk"
PLACES = (
    "SELECT relname || '@' || coalesce(spcname, '-') FROM pg_class LEFT JOIN pg_tablespace s ON s.oid = reltablespace"
)


@pytest.fixture
def host(postgres: Protected) -> Host:
    return host_with(pod=postgres.place())


@pytest.fixture
def folder(postgres: Protected) -> Iterator[Path]:
    """Give the folder that a tablespace's data lies in; it goes with all that lies in it."""
    folder = postgres.folder / "a \\ disk"
    own(postgres, folder)
    before = postgres.databases()
    postgres.psql(f"CREATE ROLE owner; CREATE TABLESPACE \"{SPACE}\" OWNER owner LOCATION '{folder}'")
    yield folder
    for name in postgres.databases() - before:
        postgres.psql(f'DROP DATABASE "{name}" WITH (FORCE)')
    postgres.psql(f'DROP TABLESPACE IF EXISTS "{SPACE}"')
    postgres.psql("DROP ROLE owner")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def held(postgres: Protected, host: Host, folder: Path, tmp_path: Path) -> tuple[Opened, ...]:
    """Give what was captured of a database with a table and an index in the tablespace."""
    postgres.psql("CREATE DATABASE spaced")
    postgres.psql(
        f'CREATE TABLE t (a int) TABLESPACE "{SPACE}"; CREATE TABLE plain AS SELECT 1 AS b;'
        f'INSERT INTO t SELECT generate_series(1, 5000); CREATE INDEX i ON plain (b) TABLESPACE "{SPACE}"',
        "spaced",
    )
    return backed_up(SOURCE, host, tmp_path / "plain", only="spaced")


def own(postgres: Protected, folder: Path) -> None:
    folder.mkdir()
    server = (postgres.folder / "data").stat()
    os.chown(folder, server.st_uid, server.st_gid)


def where(postgres: Protected, database: str) -> set[str]:
    return set(postgres.psql(f"{PLACES} WHERE relname IN ('t', 'i', 'plain')", database).splitlines())


def test_a_database_with_its_own_tablespaces_comes_back_equal_where_their_folders_are_not(
    postgres: Protected, host: Host, held: tuple[Opened, ...], folder: Path, tmp_path: Path
) -> None:
    evidence: Any = only(held, "spaced").artifact.evidence
    postgres.psql(f'CREATE DATABASE "all of it" TABLESPACE "{SPACE}"')
    postgres.psql("CREATE TABLE u AS SELECT 1 AS a", "all of it")
    whole = (*backed_up(SOURCE, host, tmp_path / "whole", only="all of it"), only(held, "spaced"))

    said = SOURCE.rehearse(host, work_of(SOURCE, whole, tmp_path))

    assert [line.split(":")[0] for line in said if "evidence equal" in line] == ["all of it", "spaced"]
    assert evidence["tablespaces"][SPACE] > 5000 * 28


def test_a_tablespace_that_is_there_takes_its_tables_again(
    postgres: Protected, host: Host, held: tuple[Opened, ...], tmp_path: Path
) -> None:
    postgres.psql("DROP TABLE t", "spaced")

    said = SOURCE.apply(host, work_of(SOURCE, held, tmp_path, databases=["spaced"]))

    assert said[0].startswith("spaced: evidence equal: 2 tables with 5001 rows")
    assert where(postgres, "spaced") == {f"t@{SPACE}", f"i@{SPACE}", "plain@-"}


@pytest.mark.parametrize("fault", ["gone", "another's", "taken"])
def test_a_tablespace_whose_folder_cannot_take_it_is_refused_before_anything_is_touched(
    postgres: Protected, host: Host, held: tuple[Opened, ...], folder: Path, tmp_path: Path, fault: str
) -> None:
    postgres.psql("DROP DATABASE spaced")
    postgres.psql(f'DROP TABLESPACE "{SPACE}"')
    folder.rmdir()
    if fault != "gone":
        own(postgres, folder)
        if fault == "taken":
            (folder / "PG_15_202209061").mkdir()
        else:
            os.chown(folder, 1, 1)
    work = work_of(SOURCE, held, tmp_path)
    before = postgres.databases()

    for attempt in (SOURCE.preview, SOURCE.apply):
        seen = {"gone": "none", "another's": "one of daemon's", "taken": "one that a tablespace lies in already"}[fault]
        with pytest.raises(RestoreRefusedError, match=f"{folder.name.replace(chr(92), '.')} there .*seen {seen}"):
            attempt(host, work)

    assert postgres.databases() == before
    assert postgres.psql("SELECT spcname FROM pg_tablespace WHERE spcname !~ '^pg_'") == ""


def test_once_its_folder_was_made_as_the_refusal_says_the_tablespace_is_made_again(
    postgres: Protected, host: Host, held: tuple[Opened, ...], folder: Path, tmp_path: Path
) -> None:
    postgres.psql("DROP DATABASE spaced")
    postgres.psql(f'DROP TABLESPACE "{SPACE}"')
    work = work_of(SOURCE, held, tmp_path)

    plan = SOURCE.preview(host, work)
    SOURCE.apply(host, work)

    assert plan[0] == f"made: roles and tablespaces {SPACE}"
    assert where(postgres, "spaced") == {f"t@{SPACE}", f"i@{SPACE}", "plain@-"}
    assert postgres.psql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname !~ '^pg_'") == str(folder)


def test_two_tablespaces_are_both_made_again(
    postgres: Protected, host: Host, held: tuple[Opened, ...], folder: Path, tmp_path: Path
) -> None:
    other = postgres.folder / "other disk"
    own(postgres, other)
    try:
        postgres.psql(f"CREATE TABLESPACE other LOCATION '{other}'")
        postgres.psql(
            "CREATE TABLE parts (a int) PARTITION BY LIST (a) TABLESPACE other;"
            "CREATE TABLE part PARTITION OF parts DEFAULT TABLESPACE pg_default", "spaced",
        )  # fmt: skip
        both = backed_up(SOURCE, host, tmp_path / "both", only="spaced")
        postgres.psql("DROP DATABASE spaced")
        postgres.psql(f'DROP TABLESPACE "{SPACE}"')
        postgres.psql("DROP TABLESPACE other")

        SOURCE.apply(host, work_of(SOURCE, both, tmp_path, databases=["spaced"]))

        made = postgres.psql("SELECT spcname FROM pg_tablespace WHERE spcname !~ '^pg_' ORDER BY 1").splitlines()
        assert made == [SPACE, "other"]
    finally:
        postgres.psql("DROP DATABASE IF EXISTS spaced WITH (FORCE)")
        postgres.psql("DROP TABLESPACE IF EXISTS other")
        shutil.rmtree(other)


def test_room_is_counted_on_each_disk_and_a_full_one_is_named(
    postgres: Protected, held: tuple[Opened, ...], folder: Path, tmp_path: Path
) -> None:
    full = tmp_path / "df"
    full.write_text('#!/bin/sh\nshift; for each; do case "$each" in *disk) free=100 ;; *) free=1000000 ;; esac\n'
                    'echo "/dev/sd 2000000 1 $free 1% /on $free"; done\n')  # fmt: skip
    full.chmod(0o755)
    place = postgres.place(PATH=f"{tmp_path}:{postgres.env()['PATH']}")

    with pytest.raises(RestoreRefusedError, match=r"disk: expected \d{6} bytes free .* seen 102400"):
        SOURCE.preview(host_with(pod=place), work_of(SOURCE, held, tmp_path))
