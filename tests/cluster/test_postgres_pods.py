"""PostgreSQL in real pods and a real container: captured through exec, rehearsed here, put back in place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

from gxbackup.adapters.cluster import Cluster
from gxbackup.adapters.containers import Containers
from gxbackup.adapters.host import Host
from gxbackup.adapters.pods import _PodRunning
from gxbackup.errors import CommandError, RestoreError
from gxbackup.ports import Place
from gxbackup.sources.postgres import Postgres
from tests.cluster.conftest import IMAGE, CuttableApi
from tests.cluster.scratch_api import kubectl
from tests.integration.postgres_server import backed_up, only, read_all, work_of
from tests.kubeconfigs import turn_to

pytestmark = pytest.mark.cluster
PASSWORD = "hunter2-in-the-pod-alone"
CONTAINER = f"gxt-postgres.ca-{os.getpid()}"
LARGER_THAN_ANY_SQL = 64 * 1024
HOST = Host(Containers(), Cluster())
# As an image is where local connections need the password too.
_ASK_FOR_IT = "sed -i 's/^local .* trust/local all all scram-sha-256/' \"$PGDATA/pg_hba.conf\" && kill -HUP 1"
ENVIRONMENT = {
    "GX_DATABASES": "backend explorer",
    "GX_SIZE_MB": "8",
    "PGDATA": "/var/lib/postgresql/data/pgdata",
    "POSTGRES_PASSWORD": PASSWORD,
}


def ask_for_the_password(place: Place) -> None:
    place.run(["sh", "-c", _ASK_FOR_IT], timeout_seconds=60)


@pytest.fixture(scope="module")
def pod() -> Iterator[str]:
    """Give a namespace with a PostgreSQL `postgres-0` of our own."""
    namespace = f"gxt-pg-{os.getpid()}"
    container = {
        "name": "postgres",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["gx-postgres"],
        "env": [{"name": name, "value": value} for name, value in ENVIRONMENT.items()],
        "readinessProbe": {"exec": {"command": ["pg_isready", "-q", "-h", "127.0.0.1"]}, "periodSeconds": 1},
    }
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "postgres-0"},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    }
    kubectl("create", "namespace", namespace)
    try:
        kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(manifest))
        kubectl("wait", "-n", namespace, "--for=condition=Ready", "pod/postgres-0", "--timeout=120s")
        ask_for_the_password(Cluster().place(namespace, "postgres-0"))
        yield namespace
    finally:
        kubectl("delete", "namespace", namespace, "--wait=false")


def psql(place: Place, sql: str, database: str = "backend") -> str:
    words = [
        "sh",
        "-c",
        'PGPASSWORD="$POSTGRES_PASSWORD" exec psql -XqAtU postgres -d "$1" -c "$2"',
        "sh",
        database,
        sql,
    ]
    return place.run(words, timeout_seconds=60).text()


def test_a_pods_databases_are_captured_rehearsed_and_put_back_under_live_connections(pod: str, tmp_path: Path) -> None:
    source = Postgres(namespace=pod, pod="postgres-0")
    place = Cluster().place(pod, "postgres-0")
    opened = backed_up(source, HOST, tmp_path / "plain")
    work = work_of(source, opened, tmp_path)
    psql(place, "DELETE FROM transfer; DROP TABLE filler; CREATE TABLE intruder (a int)")

    rehearsed = source.rehearse(HOST, work)
    with place.start(["psql", "-XqAtU", "postgres", "-h", "127.0.0.1", "-d", "backend"], stdin=True):
        done = source.apply(HOST, work_of(source, opened, tmp_path, databases=["backend"]))

    backend: Any = only(opened, "backend").artifact.evidence
    assert backend["tables"] == {"public.account": 500, "public.filler": 128, "public.transfer": 2000}
    assert backend["large_objects"]["count"] == 1
    assert [line.split(":")[0] for line in rehearsed if "evidence equal" in line] == ["backend", "explorer"]
    assert done[0].startswith("backend: evidence equal: 3 tables with 2628 rows")
    assert psql(place, "SELECT count(*) FROM transfer") == "2000"
    assert psql(place, "SELECT to_regclass('intruder') IS NULL") == "t"
    assert psql(place, "SELECT count(*) FROM pg_database WHERE datname LIKE 'backend_before_%'") == "1"
    assert place.run(["sh", "-c", "ls -d /tmp/gx-restore.* || true"], timeout_seconds=60).text() == ""


def test_a_connection_cut_in_a_dump_or_a_restore_is_an_error_and_the_next_try_ends_well(
    pod: str, tmp_path: Path, cuttable: CuttableApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn_to(cuttable.kubeconfig, monkeypatch)
    source = Postgres(namespace=pod, pod="postgres-0")
    opened = backed_up(source, HOST, tmp_path / "plain", only="explorer")
    work = work_of(source, opened, tmp_path, databases=["explorer"])
    capture = next(each for each in source.collect(HOST, "pg") if each.settings.get("database") == "explorer")
    write = _PodRunning.write

    def cut_after_the_first_piece(running: _PodRunning, data: bytes | memoryview) -> None:
        write(running, data)
        if len(data) > LARGER_THAN_ANY_SQL:
            cuttable.cut()

    with source.open(HOST, capture) as stream:
        assert stream.readinto(memoryview(bytearray(1000)))
        cuttable.cut()
        with pytest.raises(CommandError, match="cut off"):
            read_all(stream)
    with monkeypatch.context() as patched:
        patched.setattr(_PodRunning, "write", cut_after_the_first_piece)
        with pytest.raises(RestoreError, match="nothing live was touched"):
            source.apply(HOST, work)

    said = source.apply(HOST, work)

    assert said[0].startswith("explorer: evidence equal: 3 tables with 2628 rows")


def test_the_estates_own_database_comes_back_equal_on_a_scratch_server(tmp_path: Path) -> None:
    source = Postgres(namespace="backend-mainnet", pod="postgres-0")

    opened = backed_up(source, HOST, tmp_path / "plain")

    said = source.rehearse(HOST, work_of(source, opened, tmp_path))
    # What earlier restores kept there comes back too.
    assert {"backend", "explorer"} <= {line.split(":")[0] for line in said if "evidence equal" in line}


def test_a_pod_deleted_in_the_middle_of_a_dump_is_an_error(pod: str, tmp_path: Path) -> None:
    source = Postgres(namespace=pod, pod="postgres-0")
    # More than what is under way in pipes and sockets, also packed.
    much = """CREATE TABLE much AS SELECT i, (SELECT string_agg(md5((i * j)::text), '') FROM generate_series(1, 1000) j)
        FROM generate_series(1, 4000) i"""
    psql(Cluster().place(pod, "postgres-0"), much)
    capture = next(each for each in source.collect(HOST, "pg") if each.settings.get("database") == "backend")

    with source.open(HOST, capture) as stream:
        assert stream.readinto(memoryview(bytearray(1000)))
        kubectl("delete", "pod", "-n", pod, "postgres-0", "--timeout=120s")  # returns once it is gone
        with pytest.raises(CommandError):
            read_all(stream)


def test_a_databases_container_is_captured_and_put_back_too(tmp_path: Path) -> None:
    source = Postgres(namespace="backend-mainnet", pod="no-such-pod", docker_container=CONTAINER)
    engine = docker.from_env()
    container = engine.containers.run(
        IMAGE, ["gx-postgres"], name=CONTAINER, detach=True, network_mode="none",
        environment={**ENVIRONMENT, "GX_SCHEMA": "fabric-ca", "GX_DATABASES": "fabric_ca"},
    )  # fmt: skip
    try:
        place = Containers().place(CONTAINER)
        wait = "until [ -e $PGDATA/gx-filled ] && pg_isready -q; do sleep 0.1; done"
        place.run(["sh", "-c", wait], timeout_seconds=120)
        ask_for_the_password(place)
        opened = backed_up(source, HOST, tmp_path / "plain")
        psql(place, "DELETE FROM certificates", "fabric_ca")

        said = source.apply(HOST, work_of(source, opened, tmp_path))

        assert psql(place, "SELECT count(*) FROM certificates", "fabric_ca") == "50"
        assert "globals.docker.sql.zst" in {one.file.name for one in opened}
        assert any(line.startswith("fabric_ca: evidence equal: 5 tables") for line in said)
    finally:
        container.remove(force=True, v=True)
        engine.close()
