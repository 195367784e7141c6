"""PostgreSQL put back in place, on a real server: all of it or nothing, with people connected, cut short, and again."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from gxbackup.adapters.host import Host
from gxbackup.adapters.places import LocalPlace
from gxbackup.errors import IntegrityError, RestoreError, RestoreRefusedError
from gxbackup.postgres import loading
from gxbackup.postgres.archive import beside_name
from gxbackup.scratch.postgres import programs
from gxbackup.sources.base import Opened
from gxbackup.sources.postgres import Postgres
from tests.integration.postgres_server import APP, Protected, backed_up, host_with, only, work_of
from tests.opened import packed

SOURCE = Postgres(namespace="backend-mainnet", pod="postgres-0", lock_timeout_seconds=0.3)
LIVE = "live app"
# As for a /tmp of its own disk, which is full.
DF = 'case "$2" in .) echo "h\ntmpfs {total} 1 {free} 1% /tmp" ;; *) exec /bin/df "$@" ;; esac'


@pytest.fixture
def host(postgres: Protected) -> Host:
    return host_with(pod=postgres.place())


@pytest.fixture(scope="module")
def held(postgres: Protected, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Opened, ...]]:
    """What was captured of a database of this module's own, and of the roles, one of whom has gone since."""
    postgres.psql(f'CREATE ROLE "soon gone" LOGIN PASSWORD \'y\'; CREATE DATABASE "{LIVE}" OWNER app')
    postgres.psql(APP.replace("DATABASE app", f'DATABASE "{LIVE}"'), LIVE)
    postgres.psql('GRANT SELECT ON account TO "soon gone"', LIVE)
    opened = backed_up(SOURCE, host_with(pod=postgres.place()), tmp_path_factory.mktemp("held"), only=LIVE)
    postgres.psql('DROP OWNED BY "soon gone"', LIVE)
    postgres.psql('DROP ROLE "soon gone"')
    yield opened
    postgres.psql(f'DROP DATABASE IF EXISTS "{LIVE}" WITH (FORCE)')
    postgres.psql('DROP ROLE IF EXISTS "soon gone"')


@pytest.fixture(autouse=True)
def as_before(postgres: Protected, held: tuple[Opened, ...]) -> Iterator[None]:
    """Leave no database behind that a test made."""
    before = postgres.databases()
    yield
    for name in postgres.databases() - before:
        postgres.psql(f'DROP DATABASE "{name}" WITH (FORCE)')
    if before - postgres.databases():
        postgres.psql(f'CREATE DATABASE "{LIVE}"')


def count(postgres: Protected, table: str, database: str = LIVE) -> int:
    return int(postgres.psql(f"SELECT count(*) FROM {table}", database))


def about(postgres: Protected) -> dict[str, Any]:
    """Return what belongs to the database itself."""
    sql = f"""SELECT jsonb_build_object('owner', pg_get_userbyid(datdba), 'comment',
        shobj_description(oid, 'pg_database'), 'reader connects', datacl::text LIKE '%read only%=c/app%')
      || (SELECT jsonb_object_agg(setrole::regrole, setconfig) FROM pg_db_role_setting WHERE setdatabase = d.oid)
      FROM pg_database d WHERE datname = '{LIVE}'"""
    found: dict[str, Any] = json.loads(postgres.psql(sql))
    return found


def with_programs(postgres: Protected, folder: Path, **scripts: str) -> LocalPlace:
    """Return the server's place, in which these programs are found first."""
    found_first = folder / "bin"
    found_first.mkdir()
    for name, script in scripts.items():
        (found_first / name).write_text(f"#!/bin/sh\n{script}\n")
        (found_first / name).chmod(0o755)
    return postgres.place(PATH=f"{found_first}:{postgres.env()['PATH']}")


def changed(opened: tuple[Opened, ...], **evidence: Any) -> tuple[Opened, ...]:
    """Return the captured, whose database claims other evidence."""

    def other(one: Opened) -> Opened:
        if "database" not in one.artifact.settings:
            return one
        claimed = {"evidence": {**one.artifact.evidence, **evidence}}
        return one.model_copy(update={"artifact": one.artifact.model_copy(update=claimed)})

    return tuple(other(one) for one in opened)


def test_a_live_database_with_connections_is_replaced_whole_and_kept_beside(
    postgres: Protected, host: Host, held: tuple[Opened, ...], tmp_path: Path
) -> None:
    postgres.psql("DELETE FROM transfer; DROP VIEW rich; UPDATE account SET balance = 0", LIVE)
    postgres.psql(f"ALTER ROLE app PASSWORD 'changed since'; ALTER DATABASE \"{LIVE}\" RESET search_path")
    client = postgres.client(LIVE)
    work = work_of(SOURCE, held, tmp_path)

    plan = SOURCE.preview(host, work)
    said = SOURCE.apply(host, work)

    (kept,) = [name for name in postgres.databases() if name.startswith(f"{LIVE}_before_")]
    assert client.communicate(b"SELECT 'still here';\n")[0] == b""
    assert count(postgres, "transfer") == 300
    assert count(postgres, "transfer", kept) == 0
    assert count(postgres, "rich") == 50
    assert postgres.psql("SHOW search_path", LIVE) == '"$user", public'
    assert postgres.psql("SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'transfer'", LIVE) == "app"
    assert postgres.psql("SELECT has_table_privilege('soon gone', 'account', 'SELECT')", LIVE) == "t"
    assert postgres.psql("SELECT length(lo_get(4711))", LIVE) == "20000"
    assert about(postgres) == {
        "owner": "app",
        "comment": "the app's own",
        "reader connects": True,
        "app": ["work_mem=8MB"],
        "-": ['search_path="$user", public'],
    }
    assert SOURCE.target(work) == "backend-mainnet/postgres-0"
    assert plan[0] == "made: roles and tablespaces soon gone"
    assert plan[1].startswith(f"replaced: {LIVE}: 5 tables with 442 rows, 2 sequences, ")
    assert "1 connections, which are ended" in plan[1]
    assert said[0].startswith(f"{LIVE}: evidence equal: 5 tables with 442 rows")
    assert said[1] == f"{LIVE}: what was there is kept as database {kept}"


def test_a_database_that_is_gone_is_made_again(
    postgres: Protected, host: Host, held: tuple[Opened, ...], tmp_path: Path
) -> None:
    postgres.psql(f'DROP DATABASE "{LIVE}"')
    work = work_of(SOURCE, held, tmp_path, databases=[LIVE])

    plan = SOURCE.preview(host, work)
    SOURCE.apply(host, work)

    assert plan[-1].startswith(f"made: {LIVE}: 5 tables")
    assert count(postgres, "account") == 100


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("cut", RestoreError, "nothing live was touched"),
        ("counts", IntegrityError, "table public.account: expected 7, seen 100"),
    ],
)
def test_a_restore_that_fails_leaves_everything_as_it_was(
    postgres: Protected, host: Host, held: tuple[Opened, ...], tmp_path: Path, fault: str, error: Any, words: str
) -> None:
    before = (postgres.databases(), postgres.psql("SELECT array_agg(rolname ORDER BY 1) FROM pg_roles"))
    broken = held if fault == "cut" else changed(held, tables={"public.account": 7})
    if fault == "cut":
        whole = b"".join(only(held, LIVE).packed.chunks())
        cut = whole[: len(whole) * 6 // 10]
        broken = tuple(
            Opened(
                artifact=one.artifact.model_copy(update={"plain_size_bytes": len(cut)}),
                file=packed(tmp_path / "cut.dump", cut),
            )
            if "database" in one.artifact.settings
            else one
            for one in held
        )

    with pytest.raises(error, match="database|pg_restore") as caught:
        SOURCE.apply(host, work_of(SOURCE, broken, tmp_path))

    assert words in str(caught.value)
    assert before == (postgres.databases(), postgres.psql("SELECT array_agg(rolname ORDER BY 1) FROM pg_roles"))


def test_a_restore_killed_in_the_middle_and_run_again_ends_well(
    postgres: Protected, held: tuple[Opened, ...], tmp_path: Path
) -> None:
    script = f'[ "$*" = --list ] && exit; echo begun >{tmp_path}/begun; exec sleep 600'
    stuck = with_programs(postgres, tmp_path, pg_restore=script)
    slow = host_with(pod=stuck)
    work = work_of(SOURCE, held, tmp_path)
    child = os.fork()
    if not child:
        try:
            SOURCE.apply(slow, work)
        finally:
            os._exit(1)
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert beside_name(LIVE) in postgres.databases()
    assert list(postgres.folder.glob("data/pgsql_tmp.gx-restore"))

    SOURCE.apply(host_with(pod=postgres.place()), work)

    assert beside_name(LIVE) not in postgres.databases()
    assert count(postgres, "account") == 100
    assert not list(postgres.folder.glob("data/pgsql_tmp.gx-restore"))


def test_without_room_for_the_file_the_archive_is_streamed(
    postgres: Protected, held: tuple[Opened, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "BEGINNINGS_BYTES", (1000, 100_000))
    place = with_programs(postgres, tmp_path, df=DF.format(free=0, total=1000))

    said = SOURCE.apply(host_with(pod=place), work_of(SOURCE, held, tmp_path))

    assert said[0].startswith(f"{LIVE}: evidence equal")
    assert list(postgres.tmp.glob("gx-restore.*")) == []


@pytest.mark.parametrize(
    ("tmp_disk_kib", "processors", "is_copied"), [(2**40, 4, False), (2**40 - 1, 4, True), (2**40 - 1, 2, False)]
)
def test_an_archive_is_copied_only_where_it_is_read_in_parallel_and_the_servers_own_disk_keeps_the_room_it_needs(
    postgres: Protected, held: tuple[Opened, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    tmp_disk_kib: int, processors: int, is_copied: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(loading, "BEGINNINGS_BYTES", (1000, 100_000))
    archive = only(held, LIVE)
    enough_for_the_databases = 2 * int(str(archive.artifact.evidence["size_bytes"])) + loading.SPARE_BYTES
    free_kib = (enough_for_the_databases + archive.artifact.plain_size_bytes // 2) // 1024
    place = with_programs(
        postgres,
        tmp_path,
        df=f'case "$2" in .) total={tmp_disk_kib} ;; *) total={2**40} ;; esac\n'
        f'echo Filesystem; echo "overlay $total 1 {free_kib} 1% /"',
        pg_restore=f'echo "$@" >>{tmp_path}/asked; exec {programs()}/pg_restore "$@"',
        nproc=f"echo {processors}",
    )

    said = SOURCE.apply(host_with(pod=place), work_of(SOURCE, held, tmp_path))

    assert said[0].startswith(f"{LIVE}: evidence equal")
    asked = (tmp_path / "asked").read_text()
    assert f"--jobs={processors} " in asked
    assert ("--section=post-data" not in asked) == is_copied


@pytest.mark.parametrize("status", [0, 1])
def test_a_small_archive_is_loaded_by_one_command_that_leaves_nothing_there(
    postgres: Protected, held: tuple[Opened, ...], tmp_path: Path, status: int
) -> None:
    left = postgres.tmp / "gx-restore.killed"
    left.mkdir()
    loads = f'case "$*" in *--dbname=*) [ {status} = 0 ] || exit {status};; esac'
    place = with_programs(
        postgres, tmp_path,
        pg_restore=f'echo "$@" >>{tmp_path}/asked; {loads}; exec {programs()}/pg_restore "$@"',
    )  # fmt: skip

    with nullcontext() if status == 0 else pytest.raises(RestoreError, match="seen exit status 1"):
        SOURCE.apply(host_with(pod=place), work_of(SOURCE, held, tmp_path))

    (loaded,) = [line for line in (tmp_path / "asked").read_text().splitlines() if "--dbname=" in line]
    assert "--section=" not in loaded
    assert list(postgres.tmp.glob("gx-restore.*")) == []
    assert beside_name(LIVE) not in postgres.databases()
    assert count(postgres, "account") == 100


def test_an_archive_whose_list_is_too_long_is_not_put_where_there_is_no_room_for_it(
    postgres: Protected, held: tuple[Opened, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "BEGINNINGS_BYTES", (500, 1000))
    before = postgres.databases()
    place = with_programs(postgres, tmp_path, df=DF.format(free=0, total=1000))

    with pytest.raises(RestoreRefusedError, match="expected its list in its first 1000 bytes, or room"):
        SOURCE.apply(host_with(pod=place), work_of(SOURCE, held, tmp_path))

    assert postgres.databases() == before


@pytest.mark.parametrize("since", [12, 99])
def test_the_log_is_not_filled_with_zeros_first_by_a_server_that_knows_of_that(
    postgres: Protected, held: tuple[Opened, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, since: int
) -> None:
    monkeypatch.setattr(loading, "UNFILLED_SINCE", since)
    script = f'echo "$PGOPTIONS" >>{tmp_path}/options; exec {programs()}/pg_restore "$@"'
    place = with_programs(postgres, tmp_path, pg_restore=script)

    SOURCE.apply(host_with(pod=place), work_of(SOURCE, held, tmp_path))

    options = (tmp_path / "options").read_text()
    assert "synchronous_commit=off" in options
    assert ("wal_init_zero=off" in options) == (since == 12)


def test_one_database_or_one_table_is_put_beside_the_live_ones(
    postgres: Protected, host: Host, held: tuple[Opened, ...], tmp_path: Path
) -> None:
    postgres.psql('DELETE FROM "S p"."tab.le"', LIVE)
    whole = work_of(SOURCE, held, tmp_path, point=LIVE, to="as it was")
    table = work_of(SOURCE, held, tmp_path, point=f'{LIVE}."S p"."tab.le"', to="one table")

    plan = SOURCE.preview(host, table)
    said = [*SOURCE.apply(host, whole), *SOURCE.apply(host, table)]

    assert plan[-1].startswith('made beside it: database one table from "S p"."tab.le" of ')
    assert said[-1] == 'one table: evidence equal: table "S p"."tab.le" with 2 rows'
    assert SOURCE.target(table) == "backend-mainnet/postgres-0 database one table"
    assert count(postgres, "transfer", "as it was") == 300
    assert count(postgres, '"S p"."tab.le"', "one table") == 2
    assert count(postgres, "account", "one table") == 0
    assert count(postgres, '"S p"."tab.le"') == 0
    with pytest.raises(RestoreRefusedError, match="'one table': expected none of that name"):
        SOURCE.preview(host, table)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"databases": ["nope"]}, "database 'nope': not in this snapshot"),
        ({"point": f"{LIVE}.public.nope", "to": "x"}, "holds no such database or table"),
        ({"point": LIVE}, "`to` must name the new database"),
        ({"point": LIVE, "to": "x", "databases": [LIVE]}, "give one of them"),
    ],
)
def test_options_that_name_nothing_are_refused(held: tuple[Opened, ...], options: Any, words: str) -> None:
    with pytest.raises(RestoreRefusedError, match=words):
        SOURCE.select([one.artifact for one in held], options)


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        ({"size_bytes": 2**60}, "bytes free for the databases beside the live ones"),
        ({"extensions": {"plpgsql": "1.0", "postgis": "3.3"}}, "needs the extensions postgis"),
    ],
)
def test_what_would_fail_is_refused_by_the_preview(
    host: Host, held: tuple[Opened, ...], tmp_path: Path, evidence: dict[str, Any], words: str
) -> None:
    with pytest.raises(RestoreRefusedError, match=words):
        SOURCE.preview(host, work_of(SOURCE, changed(held, **evidence), tmp_path))


def test_a_dump_of_a_newer_server_is_refused(host: Host, held: tuple[Opened, ...], tmp_path: Path) -> None:
    newer = tuple(
        one.model_copy(
            update={"artifact": one.artifact.model_copy(
                update={"settings": {**one.artifact.settings, "server_version": "17.2"}}
            )}
        )
        for one in held
    )  # fmt: skip

    with pytest.raises(RestoreRefusedError, match="expected PostgreSQL 17 or newer, seen 15"):
        SOURCE.preview(host, work_of(SOURCE, newer, tmp_path))
