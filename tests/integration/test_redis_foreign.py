"""A file that somebody copied over a real server's RDB is not taken for its save."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gxbackup.errors import CollectError
from tests.integration.redis_servers import LocalRedis, making_servers, source
from tests.integration.test_redis_source import taken


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Any]:
    """Make servers of a test's own."""
    with making_servers(tmp_path) as make:
        yield make


def foreign(own: Any) -> LocalRedis:
    other: LocalRedis = own("--save", "", name="foreign")
    other.cli("SET", "foreign", "key")
    other.cli("SAVE")
    return other


@pytest.mark.parametrize("age", ["older", "newer", "of the same second"])
def test_a_foreign_file_in_the_place_of_the_save_is_seen_and_another_save_taken(own: Any, age: str) -> None:
    redis = own("--save", "")
    redis.fill()
    if age == "older":
        other = foreign(own)
        time.sleep(4)
    taken(redis)
    if age == "newer":
        time.sleep(4)
    if age != "older":
        other = foreign(own)
    shutil.copy(other.path / "dump.rdb", redis.path / "dump.rdb")  # newer than the save, by its time

    _, rdb, end = taken(redis)

    assert b"foreign" not in rdb
    assert end.evidence["keys"] == 1008


def test_a_foreign_file_that_stays_where_the_server_does_not_save_is_refused(own: Any, tmp_path: Path) -> None:
    redis = own("--save", "")
    redis.fill()
    other = foreign(own)
    time.sleep(4)
    elsewhere = tmp_path / "elsewhere.rdb"
    shutil.copy(other.path / "dump.rdb", elsewhere)
    elsewhere.touch()
    later = time.time() + 60
    os.utime(elsewhere, (later, later))

    with pytest.raises(CollectError, match="expected created between .* seen"):
        source(redis, file=str(elsewhere)).collect(redis.host(), "redis-mainnet")


def test_keys_that_have_expired_since_need_no_other_save(own: Any) -> None:
    redis = own("--save", "")
    redis.fill()
    redis.cli("SET", "gone-soon", "x", "PX", "300")
    _, first, _ = taken(redis)
    saves = redis.server().info()["rdb_saves"]
    time.sleep(1)

    _, again, _ = taken(redis)

    assert again == first
    assert redis.server().info()["rdb_saves"] == saves
