"""PostgreSQL, captured from a real server and rehearsed on another: all of it, of one instant, or an error."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from pydantic import JsonValue

from gxbackup import staging
from gxbackup.adapters import containers
from gxbackup.adapters.containers import Containers
from gxbackup.adapters.host import Host
from gxbackup.errors import (
    CollectError,
    CommandError,
    IntegrityError,
    RestoreError,
    SetupError,
    SourceMissingError,
    StagingError,
)
from gxbackup.model import Capture
from gxbackup.scratch import postgres as scratch
from gxbackup.sources.postgres import Postgres
from tests.integration.postgres_server import (
    ODD,
    PASSWORD,
    Protected,
    backed_up,
    captured,
    database,
    host_with,
    only,
    read_all,
    work_of,
)

SOURCE = Postgres(namespace="backend-mainnet", pod="postgres-0", lock_timeout_seconds=0.3)


@pytest.fixture
def host(postgres: Protected) -> Host:
    return host_with(pod=postgres.place())


@pytest.fixture
def scratch_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give scratch servers a folder of this test's own: others may run at the same time."""
    with TemporaryDirectory(prefix="gx-test-scratch-", dir="/var/tmp") as made:
        Path(made).chmod(0o711)
        monkeypatch.setattr(scratch, "FOLDER", Path(made))
        yield Path(made)


def capture_of(host: Host, name: str) -> Capture:
    return next(each for each in SOURCE.collect(host, "pg") if each.settings.get("database") == name)


def test_every_database_is_captured_and_comes_back_equal_on_a_scratch_server(
    host: Host, tmp_path: Path, scratch_folder: Path
) -> None:
    opened = backed_up(SOURCE, host, tmp_path / "plain")
    left = scratch_folder / f"{scratch.PREFIX}of-a-killed-rehearsal"
    left.mkdir()
    (left / ".in-use").touch()

    said = SOURCE.rehearse(host, work_of(SOURCE, opened, tmp_path))

    names = {one.file.name.removesuffix(".zst") for one in opened}
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
    assert [*scratch_folder.iterdir()] == []


def test_unchanged_content_has_the_same_name_and_changed_content_another(postgres: Protected, host: Host) -> None:
    with database(postgres, "still", "CREATE TABLE t AS SELECT 1 AS a"):
        roles, before = SOURCE.collect(host, "pg")[0], capture_of(host, "still")
        first, first_roles = captured(SOURCE, host, before), captured(SOURCE, host, roles)
        second = time.time() // 1
        while time.time() // 1 == second:  # an archive tells the second it was made in
            time.sleep(0.02)

        again, again_roles = captured(SOURCE, host, before, 7), captured(SOURCE, host, roles)
        postgres.psql("UPDATE t SET a = 2", "still")
        changed = captured(SOURCE, host, before)

        assert first[0] != again[0]
        assert first[1].content_sha256 == again[1].content_sha256 != changed[1].content_sha256
        assert first_roles[0] != again_roles[0]
        assert first_roles[1].content_sha256 == again_roles[1].content_sha256


def test_what_is_counted_is_what_is_dumped_though_rows_go_meanwhile(
    postgres: Protected, host: Host, tmp_path: Path
) -> None:
    large = "SELECT lo_from_bytea(0, decode(repeat('00ff00aa', 5 * 1024 * 1024), 'hex'))"
    with database(postgres, "moving", f"CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i; {large}"):
        with SOURCE.open(host, capture_of(host, "moving")) as stream:
            postgres.psql("DELETE FROM t WHERE i > 10; DROP TABLE IF EXISTS other; SELECT lo_unlink(oid) FROM "
                          "pg_largeobject_metadata", "moving")  # fmt: skip
            commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
            plain, ending = read_all(stream)
        opened = backed_up(SOURCE, host, tmp_path / "plain", only="moving", instead=(plain, ending))

        said = SOURCE.rehearse(host, work_of(SOURCE, opened, tmp_path))

        assert ending.evidence["tables"] == {"public.t": 1000}
        assert ending.evidence["large_objects"] == {"count": 1, "bytes": 20 * 1024**2}
        assert said == [
            "moving: evidence equal: 1 tables with 1000 rows, 0 sequences, 0 other objects, 1 large objects"
        ]
        assert any(b"pg_dump" in command for command in commands)
        assert not any(PASSWORD.encode() in command for command in commands)


def test_a_rehearsal_without_room_to_unpack_says_so(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = backed_up(SOURCE, host, tmp_path / "plain", only="app")
    monkeypatch.setattr(staging, "SPARE_BYTES", 2**60)

    with pytest.raises(StagingError, match=r"app\.dump\.zst, unpacked, needs up to \d+ bytes"):
        SOURCE.rehearse(host, work_of(SOURCE, opened, tmp_path))


def test_a_rehearsal_names_the_first_difference_and_leaves_nothing(
    host: Host, tmp_path: Path, scratch_folder: Path
) -> None:
    opened = backed_up(SOURCE, host, tmp_path / "plain", only="app")
    artifact = only(opened, "app").artifact
    tables = {**artifact.evidence["tables"], "public.account": 101}  # type: ignore[dict-item]
    claimed = artifact.model_copy(update={"evidence": {**artifact.evidence, "tables": tables}})
    lying = tuple(one.model_copy(update={"artifact": claimed}) if one.artifact == artifact else one for one in opened)

    with pytest.raises(IntegrityError, match="database 'app': table public.account: expected 101, seen 100"):
        SOURCE.rehearse(host, work_of(SOURCE, lying, tmp_path))

    assert [*scratch_folder.iterdir()] == []


def test_a_scratch_server_is_refused_without_programs_or_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RestoreError, match="needs .* bytes"), scratch.running_postgres("postgres", 2**60):
        pass
    monkeypatch.setattr(scratch, "PROGRAMS", tmp_path)
    with pytest.raises(SetupError, match="expected its programs"), scratch.running_postgres("postgres", 0):
        pass


def test_a_wrong_password_is_told_plainly_and_not_tried_again(postgres: Protected, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="password authentication failed") as caught:
        SOURCE.collect(host_with(pod=postgres.place(POSTGRES_PASSWORD="wr0ng")), "pg")

    assert not caught.value.retryable
    assert "source.password_variable" in str(caught.value)
    assert "wr0ng" not in str(caught.value)


def test_the_password_may_lie_in_a_file_of_the_place(postgres: Protected, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(PASSWORD + "\n")

    assert SOURCE.collect(host_with(pod=postgres.place(POSTGRES_PASSWORD="", POSTGRES_PASSWORD_FILE=str(secret))), "pg")


def test_a_database_dropped_before_or_during_its_dump_is_an_error(postgres: Protected, host: Host) -> None:
    filler = "CREATE TABLE t AS SELECT repeat(md5(i::text), 100) FROM generate_series(1, 10000) i"
    with database(postgres, "doomed", filler):
        capture = capture_of(host, "doomed")
        with SOURCE.open(host, capture) as stream:
            assert stream.readinto(memoryview(bytearray(1000)))
            postgres.psql("DROP DATABASE doomed WITH (FORCE)")

            with pytest.raises(CommandError, match="terminat|closed the connection") as caught:
                read_all(stream)
            assert caught.value.retryable

    with pytest.raises(CommandError, match='database "doomed" does not exist'), SOURCE.open(host, capture):
        pass


def test_a_table_that_stays_locked_is_told_within_the_limit(postgres: Protected, host: Host) -> None:
    with database(postgres, "busy", "CREATE TABLE t (a int)"):
        client = postgres.client("busy")
        assert client.stdin and client.stdout
        client.stdin.write(b"BEGIN; LOCK TABLE t; SELECT 'locked';\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"locked\n"

        with pytest.raises(CommandError, match="lock timeout") as caught, SOURCE.open(host, capture_of(host, "busy")):
            pass

        client.communicate()
        assert caught.value.retryable
        assert "pg_locks" in str(caught.value)


def test_a_database_that_refuses_connections_is_missing_and_costs_the_others_nothing(
    postgres: Protected, host: Host
) -> None:
    with database(postgres, "shut", "SELECT 1"):
        postgres.psql("ALTER DATABASE shut ALLOW_CONNECTIONS false")

        captures = SOURCE.collect(host, "pg")

        ending = captured(SOURCE, host, captures[0])[1]
        names = [each.settings.get("database") for each in captures]
        assert ending.shortfalls == (
            "pod backend/postgres-0: database 'shut' refuses connections (datallowconn = false)",
        )
        assert ending.evidence["roles"]["app"] == "login"  # type: ignore[index, call-overload]
        assert "app" in names
        assert "shut" not in names
        assert "template0" not in names


def test_a_pg_dump_older_than_its_server_is_refused(postgres: Protected, tmp_path: Path) -> None:
    older = tmp_path / "pg_dump"
    older.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 14.9 (Debian 14.9-1)'\n")
    older.chmod(0o755)
    place = postgres.place(PATH=f"{tmp_path}:{postgres.env()['PATH']}")

    with pytest.raises(CollectError, match="expected pg_dump of version 15 or newer, seen .*14.9"):
        SOURCE.collect(host_with(pod=place), "pg")


def test_found_in_a_container_and_in_a_pod_each_is_captured_and_found_nowhere_is_missing(postgres: Protected) -> None:
    both = Postgres(namespace="fabric", pod="postgres-0", docker_container="postgres.ca")
    place = postgres.place()

    names = {each.name for each in both.collect(host_with(pod=place, docker=place), "postgres-ca")}
    single = both.collect(host_with(docker=place), "postgres-ca")

    assert {"globals.pod.sql", "globals.docker.sql", "app.pod.dump", "app.docker.dump"} <= names
    assert single[0].settings["absent"] == ["pod postgres-0: expected, seen none of that name"]
    assert {each.settings["where"] for each in single} == {"docker"}
    with pytest.raises(SourceMissingError, match="container postgres.ca: .* pod postgres-0: expected"):
        both.collect(host_with(), "postgres-ca")


def test_a_pod_that_is_there_but_not_ready_is_missing_beside_a_good_container(postgres: Protected) -> None:
    both = Postgres(namespace="fabric", pod="postgres-0", docker_container="postgres.ca")
    fault = SourceMissingError("pod fabric/postgres-0: expected ready, seen CrashLoopBackOff", retryable=True)
    host = host_with(docker=postgres.place(), pod_fault=fault)

    captures = both.collect(host, "postgres-ca")

    assert captured(both, host, captures[0])[1].shortfalls == (fault.message,)


@pytest.fixture
def without_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be on a host where no Docker Engine ever was; give the folder in which its socket would be."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(containers, "PROGRAM", str(tmp_path / "dockerd"))
    monkeypatch.setattr(containers, "DEFAULT_SOCKET", f"unix://{tmp_path}/docker.sock")
    monkeypatch.setattr(containers, "DATA_ROOT", tmp_path / "docker")
    monkeypatch.setattr(containers, "CALL_TIMEOUT_SECONDS", 1)
    return tmp_path


def beside_a_good_pod(postgres: Protected) -> dict[str, JsonValue]:
    """Look for the CA's database; return what is told of the roles' capture."""
    both = Postgres(namespace="fabric", pod="postgres-0", docker_container="postgres.ca")
    captures = both.collect(Host(Containers(), host_with(pod=postgres.place()).cluster), "postgres-ca")
    assert {"globals.pod.sql", "app.pod.dump"} <= {each.name for each in captures}
    return captures[0].settings


def test_a_host_that_never_had_an_engine_holds_no_container_and_costs_nothing(
    postgres: Protected, without_engine: Path
) -> None:
    told = beside_a_good_pod(postgres)

    assert told["shortfalls"] == []
    assert "docker engine: cannot be reached" in str(told["absent"])


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # the SDK drops a socket that never answers
@pytest.mark.parametrize("left", ["its data", "its program", "DOCKER_HOST", "a dead socket", "a stuck engine"])
def test_an_engine_that_does_not_answer_may_hold_the_database_and_is_missing_beside_a_good_pod(
    postgres: Protected, without_engine: Path, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as listening:
        if left == "its data":
            (without_engine / "docker").mkdir()
        elif left == "its program":
            (without_engine / "dockerd").touch(mode=0o755)
        elif left == "DOCKER_HOST":
            monkeypatch.setenv("DOCKER_HOST", f"unix://{without_engine}/named.sock")
        else:
            listening.bind(str(without_engine / "docker.sock"))
        if left == "a stuck engine":
            listening.listen()

        told = beside_a_good_pod(postgres)

    assert "docker engine: cannot be reached" in str(told["shortfalls"])
    assert "absent" not in told
