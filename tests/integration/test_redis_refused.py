"""What stands in the way of a restore of Redis is seen while it still serves: it is not stopped, nothing is lost."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gxbackup.errors import RestoreRefusedError
from gxbackup.redis import restore
from gxbackup.sources.base import Opened
from tests.integration.redis_servers import (
    FILES,
    process_of,
    put,
)

SLOW = ("--rdb-key-save-delay", "1500")  # of 1000 keys: a save takes more than a second
STUCK = ("--rdb-key-save-delay", "60000")


def test_a_server_that_cannot_save_is_not_stopped_and_clients_write_on(own: Any, given: Opened) -> None:
    redis = own("--save", "", *STUCK)
    redis.fill()
    before = process_of(redis)
    with ThreadPoolExecutor(1) as pool:
        restored = pool.submit(put, redis, given)
        redis.kill_its_save(restored)
        with pytest.raises(RestoreRefusedError, match="nothing was stopped: .*rdb_last_bgsave_status is 'err'") as said:
            restored.result(30)

    assert "no memory to fork" in str(said.value)
    assert redis.cli("SET", "after", "the refusal") == "OK"
    assert process_of(redis) == before
    assert not list(redis.path.glob("before-restore-*"))


def test_a_save_that_takes_too_long_refuses_the_restore_with_its_limit(own: Any, given: Opened) -> None:
    redis = own("--save", "", *STUCK)
    redis.fill()
    before = process_of(redis)

    with pytest.raises(RestoreRefusedError, match="source.save_timeout_seconds"):
        put(redis, given, save_timeout_seconds=1)

    assert redis.cli("SET", "after", "the refusal") == "OK"
    assert process_of(redis) == before


def test_an_append_only_file_that_cannot_be_written_refuses_the_restore(
    own: Any, given: Opened, tmp_path: Path
) -> None:
    disk = tmp_path / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "gx-test", disk], check=True)
    try:
        redis = own("--save", "", "--appendonly", "yes", name="small/redis")
        redis.cli("SET", "big", "x" * 50_000)
        number = 0
        while redis.server().info()["aof_last_write_status"] == "ok":
            redis.server().call("SET", f"big:{(number := number + 1)}", "x" * 50_000)
        given.file.write_bytes(given.file.read_bytes()[:1])  # so that it is not the restore's own room that lacks
        before = process_of(redis)

        with pytest.raises(RestoreRefusedError, match="aof_last_write_status err"):
            put(redis, given)

        assert process_of(redis) == before
        redis.kill()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_no_room_is_seen_before_anything_is_stopped(own: Any, given: Opened) -> None:
    redis = own()
    redis.fill()
    before = process_of(redis)
    with given.file.open("ab") as file:
        file.truncate(2**42)  # a hole

    with pytest.raises(RestoreRefusedError, match="expected room for"):
        put(redis, given)

    assert redis.cli("SET", "after", "the refusal") == "OK"
    assert process_of(redis) == before


def test_a_wrong_password_is_seen_before_anything_is_stopped(own: Any, given: Opened) -> None:
    redis = own()
    before = process_of(redis)
    redis.cli("CONFIG", "SET", "requirepass", "another")

    with pytest.raises(RestoreRefusedError, match="expected to be let in, seen NOAUTH"):
        restore.put_in_place(redis, given.file, FILES, given.artifact.evidence)

    redis.password = "another"
    assert f"process_id:{before}" in redis.cli("INFO", "server")


def test_a_place_without_redis_own_tools_is_seen_before_anything_is_stopped(
    own: Any, given: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = own("--save", "")
    before = process_of(redis)
    bare = tmp_path / "bin"
    bare.mkdir()
    for program in ("sh", "cat", "setpriv"):
        (bare / program).symlink_to(f"/usr/bin/{program}")

    monkeypatch.setenv("PATH", str(bare))
    with pytest.raises(RestoreRefusedError, match="'redis-check-rdb': not found"):
        restore.put_in_place(redis, given.file, FILES, given.artifact.evidence)

    monkeypatch.undo()
    assert process_of(redis) == before
