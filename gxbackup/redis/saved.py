"""The file of a save: that it is the one which this very server has written, and no other that lies under its name."""

from __future__ import annotations

from gxbackup.errors import CollectError
from gxbackup.redis import rdb
from gxbackup.redis.server import RedisServer, keyspace, unchanged_since_a_save

# A file's time and the server's own are of one clock, but the disk may take its time to write the last bytes.
DISK_SECONDS = 60
# What is told in whole seconds may differ by one at either end.
CLOCK_SECONDS = 2


def saved(server: RedisServer, file: str, timeout_seconds: float, label: str) -> int:
    """
    Have a server save, unless the last save holds all there is and its file is that save; return the file's size.

    A foreign file in the place of the last save is seen by when it was created, and by its keys, and a save takes its
    place. Raises: CollectError where the save fails, or the file is still not that save.
    """
    info = server.info()
    if unchanged_since_a_save(info):
        since = int(info["rdb_last_save_time"]) - max(0, int(info["rdb_last_bgsave_time_sec"]))
        if not _differs(server, file, since, DISK_SECONDS) and _holds_the_same(server, file):
            return _times(server, file)[0]
    since = server.save(timeout_seconds)
    if seen := _differs(server, file, since, 1):
        raise CollectError(
            f"{label}: {server.place.name}: {file}: {seen}",
            "does the server save somewhere else? source.file names where",
            "does somebody copy files over it?",
            retryable=True,
        )
    return _times(server, file)[0]


def _differs(server: RedisServer, file: str, since: int, disk_seconds: int) -> str:
    """Return how a file's times are not those of a save that began then, or nothing."""
    written_at = _times(server, file)[1]
    if written_at < since - disk_seconds:
        return f"expected written after {since - disk_seconds}, seen {written_at}"
    created_at = rdb.created_at(server.place, file)
    until = int(server.info()["rdb_last_save_time"])  # asked after: others may have had it save meanwhile
    if not since - CLOCK_SECONDS <= created_at <= until + CLOCK_SECONDS:
        return f"expected created between {since} and {until}, seen {created_at}"
    return ""


def _holds_the_same(server: RedisServer, file: str) -> bool:
    """Tell whether a file is whole and has as many keys without an end as the server, in each database."""
    try:
        counted = rdb.counts(server.place, file)
    except CollectError:
        return False
    if counted is None:
        return True
    in_file, now = (
        {name: one.keys - one.expires for name, one in counts.items() if one.keys != one.expires}
        for counts in (counted, keyspace(server.info()))
    )
    return in_file == now


def _times(server: RedisServer, file: str) -> tuple[int, int]:
    told = server.place.run(["stat", "-c", "%s %Y", file], timeout_seconds=60).text().split()
    return int(told[0]), int(told[1])
