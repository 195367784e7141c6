"""Redis put back on real servers: what it survives, and what it is refused for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from estate import await_condition

from gxbackup.errors import (
    RestoreError,
    RestoreRefusedError,
)
from gxbackup.redis import restore
from tests.integration.redis_servers import APPENDING, FILES, LocalRedis, filled, pod_host, source, taken, work


def test_a_restore_survives_the_old_dataset_that_a_stop_writes(own: Any, tmp_path: Path) -> None:
    redis = own("--save", "3600 1")
    given = filled(redis, tmp_path / "area")
    redis.cli("FLUSHALL")
    redis.cli("SET", "only", "this")

    told = restore.put_in_place(redis, given.file, FILES, given.artifact.evidence)

    assert redis.cli("DBSIZE") == "1006"
    assert redis.cli("GET", "key:999") == "value-999"
    [kept] = redis.path.glob("before-restore-*")
    assert str(kept) in told[-1]
    other = LocalRedis(kept)
    other.start()
    assert other.cli("GET", "only") == "this"  # what was there is whole, as of its very last write
    other.stop()


def test_a_restore_survives_an_append_only_file(own: Any, tmp_path: Path) -> None:
    redis = own("--appendonly", "yes")
    given = filled(redis, tmp_path / "area")
    redis.cli("FLUSHALL")
    redis.cli("SET", "only", "this")

    told = restore.put_in_place(redis, given.file, APPENDING, given.artifact.evidence)

    assert "its append-only file was written anew from them" in told
    assert redis.cli("DBSIZE") == "1006"
    redis.cli("SET", "after", "restore")
    redis.stop()
    redis.start()
    assert (redis.cli("DBSIZE"), redis.cli("GET", "after")) == ("1007", "restore")


def test_a_file_that_is_not_what_was_saved_leaves_the_old_data_running(own: Any, tmp_path: Path) -> None:
    redis = own()
    redis.fill()
    capture, rdb, end = taken(redis)
    given = work(tmp_path / "area", capture, rdb[:-20], end).opened[0]
    redis.cli("SET", "newer", "than-the-backup")

    with pytest.raises(RestoreError, match="what was there is back: .*does not load the RDB"):
        restore.put_in_place(redis, given.file, FILES, given.artifact.evidence)

    assert redis.cli("GET", "newer") == "than-the-backup"
    assert sorted(path.name for path in redis.path.iterdir()) == ["dump.rdb", "redis.log"]


def test_a_server_that_loads_something_else_gets_its_old_data_back(own: Any, tmp_path: Path) -> None:
    redis = own("--appendonly", "yes")
    given = filled(redis, tmp_path / "area")
    redis.cli("SET", "newer", "than-the-backup")

    # It does append, and so it ignores the RDB and starts empty.
    with pytest.raises(RestoreError, match="back: .*database 0: expected 1005 keys without an end, seen 0"):
        restore.put_in_place(redis, given.file, FILES, given.artifact.evidence)

    assert redis.cli("GET", "newer") == "than-the-backup"


def test_a_server_that_loads_an_older_file_is_seen_by_its_counts(own: Any, tmp_path: Path) -> None:
    redis = own("--dbfilename", "other.rdb")
    redis.cli(text="SET key:1 old\nSET key:2 old\nSELECT 7\nSET other old\n")  # the databases are the same
    redis.cli("SAVE")
    elsewhere = LocalRedis(tmp_path / "elsewhere", "--save", "")
    elsewhere.start()
    elsewhere.fill()
    capture, rdb, end = taken(elsewhere)
    elsewhere.stop()
    given = work(tmp_path / "area", capture, rdb, end).opened[0]

    for evidence in (given.artifact.evidence, {}):  # also where the snapshot tells no counts
        with pytest.raises(RestoreError, match="database 0: expected 1005 keys without an end, seen 2 after the start"):
            restore.put_in_place(redis, given.file, FILES, evidence)

    assert redis.cli("GET", "key:1") == "old"


def test_what_clients_write_after_the_start_is_no_difference(
    own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = own()
    given = filled(redis, tmp_path / "area")
    start = redis.start
    monkeypatch.setattr(
        redis, "start", lambda: (start(), redis.cli("DEL", "key:1", "key:2"), redis.cli("SET", "a", "b"))
    )

    told = restore.put_in_place(redis, given.file, FILES, given.artifact.evidence)

    assert "started with 1007 keys" in told


def test_an_append_only_file_that_nobody_names_is_refused_before_anything_is_stopped(own: Any, tmp_path: Path) -> None:
    redis = own("--appendonly", "yes", "--rename-command", "CONFIG", "hidden")
    redis.fill()
    kind_file = {"file": str(redis.path / "dump.rdb")}
    capture, rdb, end = taken(redis, **kind_file)
    given = work(tmp_path / "area", capture, rdb, end)
    kind, host = source(redis, **kind_file), pod_host(redis)

    for refused in (kind.preview, kind.apply):
        with pytest.raises(RestoreRefusedError, match="expected CONFIG GET appendfilename to tell"):
            refused(host, given)
    assert redis.cli("DBSIZE") == "1006"
    redis.stop()  # the evidence alone tells it
    with pytest.raises(RestoreRefusedError, match="expected CONFIG GET appendfilename to tell"):
        kind.preview(host, given)


def test_a_replica_is_no_target_since_its_primarys_data_would_take_the_place_of_what_is_put_in(
    own: Any, tmp_path: Path
) -> None:
    primary = own(name="primary")
    primary.fill()
    replica = own("--replicaof", f"127.0.0.1 {primary.port}", name="replica")
    await_condition("the replica follows", lambda: replica.server().info()["master_link_status"] == "up", 30)
    given = work(tmp_path / "area", *taken(replica))

    for refused in (source(replica).preview, source(replica).apply):
        with pytest.raises(RestoreRefusedError, match=f"seen a replica of 127.0.0.1:{primary.port}"):
            refused(pod_host(replica), given)


def test_no_room_beside_the_old_data_is_seen_before_anything_is_exchanged(own: Any, tmp_path: Path) -> None:
    redis = own(name="full")
    given = filled(redis, tmp_path / "area")
    with given.file.open("ab") as file:
        file.truncate(2**42)  # a hole

    with pytest.raises(RestoreError, match="expected room for"):
        restore.put_in_place(redis, given.file, FILES, given.artifact.evidence)

    assert redis.cli("DBSIZE") == "1006"
