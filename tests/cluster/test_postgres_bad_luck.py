"""PostgreSQL in a real pod that is taken away in the middle of a dump, and on a disk that fills up under a restore."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from gxbackup.adapters.cluster import Cluster
from gxbackup.adapters.containers import Containers
from gxbackup.adapters.host import Host
from gxbackup.errors import BackupError, RestoreError, RestoreRefusedError
from gxbackup.model import Capture
from gxbackup.ports import Place
from gxbackup.postgres import refusals, reserve
from gxbackup.sources.postgres import Postgres
from tests.cluster.conftest import IMAGE
from tests.cluster.scratch_api import kubectl
from tests.integration.postgres_server import backed_up, read_all, work_of

pytestmark = pytest.mark.cluster
HOST = Host(Containers(), Cluster())
POD = "postgres-0"
DATA = "/data/pgdata"
DISK_MB = 512
LEFT_MB = 16 + reserve.SIZE_BYTES // 1024**2
# The log lies on another disk than the tables, so that it is a table that meets the full one.
START = """mkdir -p $PGDATA /var/run/postgresql; chown postgres: /data /log $PGDATA /var/run/postgresql
as() { HOME=/tmp exec setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }
[ -e $PGDATA/PG_VERSION ] || (as initdb -U postgres --auth=trust --locale=C.UTF-8 --waldir=/log/wal --no-sync)
as postgres -c fsync=off"""
BYTES = "SELECT string_agg(public.gen_random_bytes(1024), '') FROM generate_series(1, 64) WHERE $1 > 0"
FILL = (
    "CREATE EXTENSION pgcrypto",
    f"CREATE FUNCTION bytes(int) RETURNS bytea LANGUAGE sql AS $sql${BYTES}$sql$",
    "CREATE TABLE account AS SELECT i AS id, i * 7 AS balance FROM generate_series(1, 500) i",
    "CREATE TABLE filler AS SELECT i AS id, bytes(i) AS body FROM generate_series(1, 256) i",
)
# More than what is under way in pipes and sockets: the rest of it is never sent.
MUCH = "CREATE TABLE much AS SELECT bytes(i) FROM generate_series(1, 1600) i"
STATE = """SELECT string_agg(t::text, '' ORDER BY id) FROM (SELECT id, md5(body) FROM filler) t;
  SELECT md5(string_agg(a::text, '' ORDER BY id)) FROM account a"""


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    """Give a small disk of the node, which is this machine."""
    with tempfile.TemporaryDirectory(prefix="gxt-disk-", dir="/var/tmp") as made:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=0755", "gxt-disk", made], check=True)
        yield Path(made)
        subprocess.run(["umount", "--lazy", made], check=True)


@pytest.fixture(scope="module")
def namespace(disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give a namespace with a PostgreSQL whose data lies on that disk."""
    name, log = f"gxt-pg-luck-{os.getpid()}", tmp_path_factory.mktemp("log")
    kubectl("create", "namespace", name)
    try:
        kubectl("apply", "-n", name, "-f", "-", stdin=yaml.safe_dump(_server(disk, log)))
        _await_server(name)
        place = HOST.cluster.place(name, POD)
        psql(place, "CREATE DATABASE backend", database="postgres")
        psql(place, *FILL)
        yield name
    finally:
        kubectl("delete", "namespace", name, "--timeout=240s")


def _server(disk: Path, log: Path) -> dict[str, object]:
    container = {
        "name": "postgres", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["bash", "-ec", START],
        "env": [{"name": "PGDATA", "value": DATA}],
        "readinessProbe": {"exec": {"command": ["pg_isready", "-q"]}, "periodSeconds": 1, "timeoutSeconds": 10},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "log", "mountPath": "/log"}],
    }  # fmt: skip
    spec = {
        "containers": [container],
        "terminationGracePeriodSeconds": 5,
        "volumes": [
            {"name": "data", "hostPath": {"path": str(disk)}},
            {"name": "log", "hostPath": {"path": str(log)}},
        ],
    }
    template = {"metadata": {"labels": {"app": "postgres"}}, "spec": spec}
    selector = {"matchLabels": {"app": "postgres"}}
    return {
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "postgres"},
        "spec": {"serviceName": "postgres", "replicas": 1, "selector": selector, "template": template},
    }  # fmt: skip


def _await_server(namespace: str) -> None:
    kubectl("rollout", "status", "-n", namespace, "statefulset/postgres", "--timeout=240s")
    kubectl("wait", "-n", namespace, "--for=condition=Ready", f"pod/{POD}", "--timeout=120s")


def psql(place: Place, *statements: str, database: str = "backend") -> str:
    words = ["psql", "-XqAtU", "postgres", "-v", "ON_ERROR_STOP=1", "-d", database]
    return place.run([*words, *(f"-c{each}" for each in statements)], timeout_seconds=240).text()


def capture_of(source: Postgres, database: str) -> Capture:
    return next(each for each in source.collect(HOST, "pg") if each.settings.get("database") == database)


def evict(namespace: str) -> None:
    """Have the pod taken off its node, as a drain does it."""
    eviction = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": POD, "namespace": namespace}}
    path = f"/api/v1/namespaces/{namespace}/pods/{POD}/eviction"
    kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


def test_a_pod_evicted_in_mid_dump_and_replaced_by_its_like_is_an_error_and_the_next_dump_is_whole(
    namespace: str,
) -> None:
    source = Postgres(namespace=namespace, pod=POD)
    place = HOST.cluster.place(namespace, POD)
    psql(place, MUCH)
    before = kubectl("get", "pod", "-n", namespace, POD, "-o=jsonpath={.metadata.uid}")

    with source.open(HOST, capture_of(source, "backend")) as stream:
        assert stream.readinto(memoryview(bytearray(1000)))
        evict(namespace)
        kubectl("wait", "-n", namespace, "--for=delete", f"pod/{POD}", "--timeout=120s", check=False)
        _await_server(namespace)
        after = kubectl("get", "pod", "-n", namespace, POD, "-o=jsonpath={.metadata.uid}")
        with pytest.raises(BackupError, match="cut off|exit status|terminat|cannot run it") as caught:
            read_all(stream)

    assert before != after
    assert caught.value.retryable
    psql(HOST.cluster.place(namespace, POD), "DROP TABLE much", "CHECKPOINT")
    with source.open(HOST, capture_of(source, "backend")) as stream:
        plain, end = read_all(stream)
    assert end.shortfalls == ()
    assert end.evidence["tables"] == {"public.account": 500, "public.filler": 256}
    assert len(plain) > 256 * 64 * 1024


def test_a_disk_that_fills_up_under_a_restore_leaves_all_as_it_was_and_with_room_it_ends_well(
    namespace: str, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Postgres(namespace=namespace, pod=POD)
    place = HOST.cluster.place(namespace, POD)
    opened = backed_up(source, HOST, tmp_path / "plain", only="backend")
    work = work_of(source, opened, tmp_path, databases=["backend"])
    state = psql(place, *STATE.split(";"))
    ballast = disk / "ballast"
    free_bytes = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free_bytes - LEFT_MB * 1024**2)

    with pytest.raises(RestoreRefusedError, match=f"{DATA}: expected .* bytes free"):
        source.apply(HOST, work)
    with monkeypatch.context() as patch:
        patch.setattr(refusals, "require_room", lambda *_: None)  # as if others filled it only now
        with pytest.raises(RestoreError, match="No space left on device") as caught:
            source.apply(HOST, work)

    assert "nothing live was touched" in str(caught.value)
    assert "the disk of the server, or of the place's /tmp, is full" in str(caught.value)
    assert psql(place, *STATE.split(";")) == state
    assert psql(place, "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database") == (
        "backend postgres template0 template1"
    )
    assert not list(disk.glob("pgdata/gx-restore*"))
    ballast.unlink()
    psql(place, "DELETE FROM account")
    said = source.apply(HOST, work)
    assert said[0].startswith("backend: evidence equal: 2 tables")
    assert psql(place, *STATE.split(";")) == state
