"""Redis, on real servers: what a save must have been, what an RDB tells of itself, and how it is put back."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from estate import await_condition

from gxbackup.errors import (
    CollectError,
    CommandError,
    IntegrityError,
    RestoreRefusedError,
)
from gxbackup.inventory import DataType
from gxbackup.ports import StreamEnd
from gxbackup.sources.redis import Redis
from tests.integration.redis_servers import (
    LocalRedis,
    source,
    taken,
    work,
)

SECRET = "hunter2 'with\"quotes$"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    redis = LocalRedis(tmp_path_factory.mktemp("redis"), "--enable-protected-configs", "yes", password=SECRET)
    redis.start()
    yield redis
    redis.stop()


@pytest.fixture
def redis(shared: LocalRedis) -> LocalRedis:
    """The shared server, filled anew."""
    shared.cli("FLUSHALL")
    shared.fill()
    return shared


def test_a_save_is_taken_with_the_keys_of_each_database(redis: LocalRedis) -> None:
    capture, rdb, end = taken(redis)

    assert rdb == (redis.path / "dump.rdb").read_bytes()
    assert end.evidence["databases"] == {"0": {"keys": 1006, "expires": 1}, "7": {"keys": 2, "expires": 1}}
    assert (end.evidence["keys"], end.evidence["expires"]) == (1008, 2)
    assert capture.evidence["redis_version"] == redis.server().info()["redis_version"]
    assert capture.expected_size_bytes == len(rdb)


def test_a_run_with_nothing_changed_reads_the_same_bytes_without_another_save(redis: LocalRedis) -> None:
    _, first, _ = taken(redis)
    saves = redis.server().info()["rdb_saves"]

    _, again, _ = taken(redis)

    assert again == first
    assert redis.server().info()["rdb_saves"] == saves


def test_a_save_by_others_with_nothing_changed_has_the_same_content(redis: LocalRedis) -> None:
    _, first, before = taken(redis)
    while redis.server().call("TIME").split()[0] == str(before.evidence["rdb_created_at"]):
        time.sleep(0.1)
    redis.cli("SAVE")

    _, again, after = taken(redis)
    redis.cli("SET", "one", "more")
    _, _, changed = taken(redis)

    assert again != first
    assert after.content_sha256 == before.content_sha256
    assert changed.content_sha256 != before.content_sha256


def test_the_save_holds_what_was_written_just_before_it(redis: LocalRedis) -> None:
    for number in range(3):  # each within the same second: LASTSAVE alone would not tell them apart
        redis.cli("SET", f"marker-{number}", "here")
        _, rdb, _ = taken(redis)
        assert f"marker-{number}".encode() in rdb


def test_a_save_of_others_that_is_under_way_is_waited_for(own: Any) -> None:
    redis = own("--rdb-key-save-delay", "500", "--save", "")
    redis.fill()
    redis.cli("BGSAVE")  # takes half a second
    redis.cli("SET", "marker", "written-meanwhile")

    _, rdb, _ = taken(redis)

    assert b"written-meanwhile" in rdb


def test_the_password_is_used_where_it_lies_and_never_in_an_argv(redis: LocalRedis) -> None:
    seen: list[str] = []
    start = redis.place.start
    redis.place.start = lambda argv, **more: (seen.extend(argv), start(argv, **more))[1]  # type: ignore[method-assign, assignment]
    try:
        taken(redis)
    finally:
        del redis.place.start  # type: ignore[attr-defined]

    assert "redis-cli" in " ".join(seen)
    assert SECRET not in " ".join(seen)


def test_a_wrong_password_is_told_with_the_variable_that_held_it(redis: LocalRedis) -> None:
    with pytest.raises(CollectError, match="expected to be let in, seen NOAUTH") as raised:
        source(redis, password_variable="HOME").collect(redis.host(), "redis-mainnet")

    assert "variable HOME" in str(raised.value)
    assert not raised.value.retryable


def test_a_server_that_is_not_there_is_tried_again(redis: LocalRedis) -> None:
    kind = Redis(namespace="backend", pod="redis-0", port=1)

    with pytest.raises(CommandError, match="Could not connect") as raised:
        kind.collect(redis.host(), "redis-mainnet")

    assert raised.value.retryable


def test_a_server_that_is_still_loading_is_not_captured(own: Any) -> None:
    redis = own("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024", "--save", "")
    redis.fill()
    redis.cli("SAVE")
    redis.stop()
    redis.spawn()  # loads for a second

    deadline = time.monotonic() + 10
    while "LOADING" not in (said := subprocess.run(
        ["redis-cli", "-p", str(redis.port), "PING"], capture_output=True, text=True, check=False
    ).stdout):  # fmt: skip
        assert time.monotonic() < deadline, said
    with pytest.raises(CommandError, match="loading") as raised:
        source(redis).collect(redis.host(), "redis-mainnet")

    assert raised.value.retryable


def test_a_disk_without_room_fails_the_save_and_says_so(redis: LocalRedis, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "gx-test", disk], check=True)
    try:
        redis.cli("CONFIG", "SET", "dir", str(disk))
        with pytest.raises(CollectError, match="rdb_last_bgsave_status is 'err'; its disk: gx-test"):
            source(redis).collect(redis.host(), "redis-mainnet")
    finally:
        redis.cli("CONFIG", "SET", "dir", redis.folder)
        subprocess.run(["umount", disk], check=True)

    taken(redis)


def test_a_save_that_the_kernel_kills_for_want_of_memory_is_no_save(own: Any) -> None:
    redis = own("--rdb-key-save-delay", "20000", "--save", "")
    redis.fill()
    with ThreadPoolExecutor(1) as pool:
        collected = pool.submit(source(redis).collect, redis.host(), "redis-mainnet")
        redis.kill_its_save(collected)

        with pytest.raises(CollectError, match="rdb_last_bgsave_status is 'err'.*") as raised:
            collected.result(30)

    assert "no memory to fork" in str(raised.value)


def test_a_save_that_is_stuck_ends_at_its_limit(own: Any) -> None:
    redis = own("--rdb-key-save-delay", "60000", "--save", "")
    redis.fill()

    with pytest.raises(CollectError, match="source.save_timeout_seconds") as raised:
        source(redis, save_timeout_seconds=1).collect(redis.host(), "redis-mainnet")

    assert raised.value.retryable


def test_a_damaged_file_is_not_captured(redis: LocalRedis) -> None:
    kind = source(redis)
    [capture] = kind.collect(redis.host(), "redis-mainnet")
    file = redis.path / "dump.rdb"
    file.write_bytes(file.read_bytes()[:-500])

    with pytest.raises(CommandError, match="it is damaged"), kind.open(redis.host(), capture):
        pass


def test_an_old_file_under_the_right_name_is_not_the_save(redis: LocalRedis, tmp_path: Path) -> None:
    old = tmp_path / "old.rdb"
    old.write_bytes((redis.path / "dump.rdb").read_bytes())
    subprocess.run(["touch", "-d", "2020-01-01", old], check=True)

    with pytest.raises(CollectError, match="expected written after"):
        source(redis, file=str(old)).collect(redis.host(), "redis-mainnet")


def test_a_place_without_the_tool_still_gives_a_whole_file(redis: LocalRedis, tmp_path: Path, monkeypatch: Any) -> None:
    for program in ("sh", "cat", "stat", "redis-cli", "tee", "sha256sum", "b2sum", "setpriv", "head", "df"):
        (tmp_path / program).symlink_to(subprocess.run(["which", program], capture_output=True, text=True,
                                                       check=True).stdout.strip())  # fmt: skip
    monkeypatch.setenv("PATH", str(tmp_path))

    _, rdb, end = taken(redis)

    assert rdb.startswith(b"REDIS")
    assert "keys" not in end.evidence


def test_two_places_at_once_are_refused_by_the_inventory() -> None:
    with pytest.raises(ValueError, match="namespace and pod, or docker_container"):
        Redis(namespace="backend", pod="redis-0", docker_container="redis")
    assert isinstance(
        DataType.model_validate({"source": {"kind": "redis", "namespace": "a", "pod": "redis-0"}, "rpo_hours": 6,
                                 "keep_days": 7}).source, Redis
    )  # fmt: skip


def test_a_rehearsal_serves_the_file_and_compares_every_database(redis: LocalRedis, tmp_path: Path) -> None:
    redis.cli("SET", "gone-soon", "x", "PX", "1500")
    capture, rdb, end = taken(redis)
    # What expires between save and rehearsal is no loss.
    await_condition("the key to expire", lambda: redis.cli("EXISTS", "gone-soon").strip() == "0", 10)

    told = source(redis).rehearse(redis.host(), work(tmp_path / "area", capture, rdb, end))

    assert told == ["1008 keys in 2 databases equal what was saved; 1 more have expired since"]
    assert not (tmp_path / "area" / "scratch-redis" / "redis.sock").exists()


def test_a_rehearsal_that_is_killed_leaves_no_server_behind(redis: LocalRedis, tmp_path: Path) -> None:
    taken(redis)
    shutil.copy(redis.path / "dump.rdb", tmp_path / "dump.rdb")
    killed = (
        "import os, signal, sys\n"
        "from gxbackup.adapters.places import LocalPlace\n"
        "from gxbackup.scratch.redis import running_redis\n"
        "with running_redis(LocalPlace('scratch'), sys.argv[1], 'dump.rdb', {}) as server:\n"
        "    print(server.info()['process_id'], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    ended = subprocess.run([sys.executable, "-c", killed, tmp_path], capture_output=True, text=True, check=False)

    assert ended.returncode == -signal.SIGKILL, ended.stderr
    process, deadline = Path("/proc", ended.stdout.strip()), time.monotonic() + 10
    while process.exists() and process.joinpath("cmdline").read_bytes():
        assert time.monotonic() < deadline, "it serves on"
        time.sleep(0.02)


def test_a_rehearsal_sees_a_single_key_that_is_missing(redis: LocalRedis, tmp_path: Path) -> None:
    _, rdb, _ = taken(redis)
    redis.cli("SET", "one", "more")
    capture, _, end = taken(redis)

    with pytest.raises(IntegrityError, match="database 0: expected 1007 keys, 1 of them with an end, seen 1006 and 1"):
        source(redis).rehearse(redis.host(), work(tmp_path / "area", capture, rdb, end))


def test_a_snapshot_without_counts_is_compared_with_those_of_its_file(redis: LocalRedis, tmp_path: Path) -> None:
    capture, rdb, _ = taken(redis)
    bare = work(tmp_path / "area", capture, rdb, StreamEnd({}))

    told = source(redis).rehearse(redis.host(), bare)

    assert told == ["1008 keys in 2 databases equal what is counted in the file; the snapshot tells none"]


def test_a_container_is_not_restored_in_place(tmp_path: Path, redis: LocalRedis) -> None:
    capture, rdb, end = taken(redis)
    kind = Redis(docker_container="redis")

    with pytest.raises(RestoreRefusedError, match="needs a pod"):
        kind.preview(redis.host(), work(tmp_path / "area", capture, rdb, end))
