"""A file that somebody copied over a real server's RDB is not taken for its save."""

from __future__ import annotations

import os
import shutil
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from estate import await_condition

from gxbackup.errors import CollectError
from tests.integration.redis_servers import (
    LocalRedis,
    source,
    taken,
)

# An auxiliary field of that name, with a 32-bit integer behind it.
CTIME = b"\x05ctime\xc2"


def foreign(own: Any, seconds: int) -> Path:
    """Return another server's RDB, which tells that it was created so many seconds from now."""
    other: LocalRedis = own("--save", "", "--rdbchecksum", "no", name="foreign")
    other.cli("SET", "foreign", "key")
    other.cli("SAVE")
    file = other.path / "dump.rdb"
    told = file.read_bytes()
    at = told.index(CTIME) + len(CTIME)
    created_at = struct.pack("<i", struct.unpack_from("<i", told, at)[0] + seconds)
    file.write_bytes(told[:at] + created_at + told[at + 4 :])
    return file


@pytest.mark.parametrize("seconds", [-10, 10, 0], ids=["older", "newer", "of the same second"])
def test_a_foreign_file_in_the_place_of_the_save_is_seen_and_another_save_taken(own: Any, seconds: int) -> None:
    redis = own("--save", "")
    redis.fill()
    taken(redis)
    shutil.copy(foreign(own, seconds), redis.path / "dump.rdb")  # newer than the save, by its time

    _, rdb, end = taken(redis)

    assert b"foreign" not in rdb
    assert end.evidence["keys"] == 1008


def test_a_foreign_file_that_stays_where_the_server_does_not_save_is_refused(own: Any, tmp_path: Path) -> None:
    redis = own("--save", "")
    redis.fill()
    elsewhere = tmp_path / "elsewhere.rdb"
    shutil.copy(foreign(own, -10), elsewhere)
    later = time.time() + 60
    os.utime(elsewhere, (later, later))

    with pytest.raises(CollectError, match="expected created between .* seen"):
        source(redis, file=str(elsewhere)).collect(redis.host(), "redis-mainnet")


def test_keys_that_have_expired_since_need_no_other_save(own: Any) -> None:
    redis = own("--save", "")
    redis.fill()
    left = redis.cli("DBSIZE")
    redis.cli("SET", "gone-soon", "x", "PX", "300")
    _, first, _ = taken(redis)
    saves = redis.server().info()["rdb_saves"]
    await_condition("its end", lambda: redis.cli("DBSIZE") == left, 20)

    _, again, _ = taken(redis)

    assert again == first
    assert redis.server().info()["rdb_saves"] == saves
