"""Redis in real pods: captured through exec, rehearsed here, put back on its claim while its StatefulSet is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from gxbackup.adapters.cluster import Cluster
from gxbackup.adapters.containers import Containers
from gxbackup.adapters.host import Host
from gxbackup.errors import CollectError, RestoreRefusedError, SourceMissingError
from gxbackup.sources.base import Work
from gxbackup.sources.redis import Redis
from tests.cluster.conftest import IMAGE
from tests.cluster.scratch_api import kubectl
from tests.integration.redis_servers import work

pytestmark = pytest.mark.cluster
NAMESPACE = f"gxt-redis-{os.getpid()}"
PASSWORD = "hunter2 in 'the pod' alone"
SOURCE = Redis(namespace=NAMESPACE, pod="redis-0")
HOST = Host(Containers(), Cluster())
KEYS = 301
# A worker that is killed just after the exchange; what it was given is read from its first argument.
KILLED_RESTORE = """
import os, signal, sys
from pathlib import Path
from gxbackup.redis import swap
from gxbackup.sources.base import Work
from gxbackup.sources.redis import Redis
from tests.cluster.test_redis_pods import HOST
exchange = swap.exchange
swap.exchange = lambda *words: (exchange(*words), os.kill(os.getpid(), signal.SIGKILL))
Redis.model_validate_json(sys.argv[2]).apply(HOST, Work.model_validate_json(Path(sys.argv[1]).read_text()))
"""


@pytest.fixture(scope="module", autouse=True)
def namespace() -> Iterator[None]:
    """Give a namespace with a Redis that wants a password and appends, on a claim."""
    serve = 'exec redis-server --dir /data/redis --appendonly yes --requirepass "$REDIS_PASSWORD" --protected-mode no'
    container = {
        "name": "redis",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", f"mkdir -p /data/redis; {serve}"],
        "env": [{"name": "REDIS_PASSWORD", "value": PASSWORD}],
        "readinessProbe": {"exec": {"command": ["sh", "-c", "redis-cli ping | grep -q NOAUTH"]}, "periodSeconds": 1},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    labels = {"app": "redis"}
    manifest = {
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "redis"},
        "spec": {
            "serviceName": "redis", "replicas": 1, "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 10},
            },
            "volumeClaimTemplates": [{
                "metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}},
            }],
        },
    }  # fmt: skip
    kubectl("create", "namespace", NAMESPACE)
    try:
        kubectl("apply", "-n", NAMESPACE, "-f", "-", stdin=yaml.safe_dump(manifest))
        kubectl("rollout", "status", "-n", NAMESPACE, "statefulset/redis", "--timeout=120s")
        cli("EVAL", f"for n = 1, {KEYS - 1} do redis.call('SET', 'key:' .. n, n) end", "0")
        cli("SET", "soon", "x", "EX", "864000")
        cli("-n", "5", "SET", "other", "1")
        yield
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def cli(*words: str, pod: str = "redis-0") -> str:
    line = 'REDISCLI_AUTH="$REDIS_PASSWORD" exec redis-cli -e "$@"'
    return Cluster().place(NAMESPACE, pod).run(["sh", "-c", line, "sh", *words], timeout_seconds=60).text()


def captured(folder: Path, source: Redis = SOURCE) -> Work:
    """Collect, read, and give it to a restore."""
    [capture] = source.collect(HOST, "redis-mainnet")
    out, buffer = bytearray(), memoryview(bytearray(65536))
    with source.open(HOST, capture) as stream:
        while count := stream.readinto(buffer):
            out += buffer[:count]
        return work(folder, capture, bytes(out), stream.finish())


def pods() -> list[str]:
    return [pod.name for pod in Cluster().pods(NAMESPACE)]


def test_it_is_captured_rehearsed_and_put_back_with_what_was_there_kept(tmp_path: Path) -> None:
    given = captured(tmp_path / "area")
    cli("FLUSHALL")
    cli("SET", "only", "this")

    rehearsed = SOURCE.rehearse(HOST, given)
    planned = SOURCE.preview(HOST, given)
    done = SOURCE.apply(HOST, given)

    assert given.opened[0].artifact.evidence["databases"] == {
        "0": {"keys": KEYS, "expires": 1}, "5": {"keys": 1, "expires": 0},
    }  # fmt: skip
    assert rehearsed == [f"{KEYS + 1} keys in 2 databases equal what was saved"]
    assert "it holds 1 keys now (Redis 7.0.15, append-only file on)" in planned
    assert "its append-only file was written anew from them" in done
    assert cli("DBSIZE") == str(KEYS)
    assert cli("GET", "key:300") == "300"
    assert pods() == ["redis-0"]
    kept = Cluster().place(NAMESPACE, "redis-0").run(["sh", "-c", "ls /data/redis"], timeout_seconds=60).text()
    assert "before-restore-" in kept
    assert "unfinished" not in kept


def test_a_worker_killed_in_a_restore_leaves_what_the_next_run_puts_right(tmp_path: Path) -> None:
    given = captured(tmp_path / "area")
    before = given.opened[0].artifact.evidence["databases"]["0"]["keys"]  # type: ignore[call-overload, index]
    cli("SET", "newer", "than-the-backup")
    (tmp_path / "work.json").write_text(given.model_dump_json())

    cut = subprocess.run(
        [sys.executable, "-c", KILLED_RESTORE, str(tmp_path / "work.json"), SOURCE.model_dump_json()],
        cwd=Path(__file__).resolve().parents[2], check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # as pytest found the modules of this test
    )  # fmt: skip
    replicas = Cluster().replicas(NAMESPACE, "redis")
    done = SOURCE.apply(HOST, given)

    assert (cut.returncode, replicas) == (-signal.SIGKILL, 0)
    assert done[0].startswith("a restore that was killed was undone first")
    assert (cli("DBSIZE"), cli("EXISTS", "newer")) == (str(before), "0")
    assert pods() == ["redis-0"]
    newest = done[-1].rpartition("/")[2]
    there = ["sh", "-c", f"cat /data/redis/{newest}/appendonlydir/*.incr.aof"]
    assert "newer" in Cluster().place(NAMESPACE, "redis-0").run(there, timeout_seconds=60).text()


def test_a_pods_full_disk_fails_the_save_and_the_next_run_is_good(tmp_path: Path) -> None:
    serve = 'exec redis-server --dir /dev/shm --requirepass "$REDIS_PASSWORD"'
    kubectl(
        "run", "-n", NAMESPACE, "full", f"--image={IMAGE}", f"--env=REDIS_PASSWORD={PASSWORD}", "--command", "--",
        "sh", "-c", serve,
    )  # fmt: skip
    kubectl("wait", "-n", NAMESPACE, "pod/full", "--for=condition=Ready", "--timeout=120s")
    place = Cluster().place(NAMESPACE, "full")
    answers = 'until REDISCLI_AUTH="$REDIS_PASSWORD" redis-cli -e SET key value; do sleep 0.1; done'
    place.run(["sh", "-c", answers], timeout_seconds=60)
    place.run(["sh", "-c", "cat /dev/zero >/dev/shm/fill"], timeout_seconds=60, check=False)

    with pytest.raises(CollectError, match="rdb_last_bgsave_status is 'err'; its disk: shm .*100% /dev/shm") as full:
        captured(tmp_path / "none", Redis(namespace=NAMESPACE, pod="full"))
    place.run(["rm", "/dev/shm/fill"], timeout_seconds=60)
    given = captured(tmp_path / "area", Redis(namespace=NAMESPACE, pod="full"))

    assert full.value.retryable
    assert given.opened[0].artifact.evidence["databases"] == {"0": {"keys": 1, "expires": 0}}


def test_a_pod_that_is_not_there_and_one_of_several_are_refused(tmp_path: Path) -> None:
    given = captured(tmp_path / "area")
    with pytest.raises(SourceMissingError, match="redis-7"):
        Redis(namespace=NAMESPACE, pod="redis-7").collect(HOST, "redis-mainnet")
    with pytest.raises(CollectError, match="expected to be let in"):
        Redis(namespace=NAMESPACE, pod="redis-0", password_variable="HOME").collect(HOST, "redis-mainnet")

    kubectl("scale", "-n", NAMESPACE, "statefulset/redis", "--replicas=2")
    with pytest.raises(RestoreRefusedError, match="expected the only pod of statefulset redis, seen 2"):
        SOURCE.preview(HOST, given)
