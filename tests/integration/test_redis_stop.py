"""A Redis that a restore stops: what it held is kept as of just before the stop, whatever a stop saves by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from estate import await_condition

from gxbackup.errors import RestoreError
from gxbackup.redis import restore, swap
from gxbackup.sources.base import Opened
from tests.integration.redis_servers import (
    FILES,
    LocalRedis,
    holds,
    process_of,
    put,
)

SLOW = ("--rdb-key-save-delay", "1500")  # of 1000 keys: a save takes more than a second
STUCK = ("--rdb-key-save-delay", "60000")


def require_all_back(redis: LocalRedis, given: Opened) -> None:
    """Restore what does not load, to a server with the usual keys and a newer one: all of them are there again."""
    given.file.write_bytes(given.file.read_bytes()[:-20])

    with pytest.raises(RestoreError, match="what was there is back: .*does not load the RDB"):
        put(redis, given)

    assert (redis.cli("GET", "newer"), redis.cli("DBSIZE")) == ("than-any-save", "1007")


@contextmanager
def writing(redis: LocalRedis) -> Iterator[list[int]]:
    """Count a key up as fast as it answers; gives the numbers that it has confirmed."""
    confirmed: list[int] = []
    done = threading.Event()

    def count() -> None:
        with subprocess.Popen(
            ["redis-cli", "-p", str(redis.port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        ) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            while not done.is_set():
                client.stdin.write("INCR counted\n")
                answer = client.stdout.readline().strip()
                if not answer.isdigit():
                    break
                confirmed.append(int(answer))
            client.kill()

    writer = threading.Thread(target=count)
    writer.start()
    try:
        await_condition("a first write", lambda: bool(confirmed), 20)
        yield confirmed
    finally:
        done.set()
        writer.join(30)


@pytest.mark.parametrize(
    ("settings", "grace_seconds"),
    [(("--save", ""), 30), (("--save", "3600 1", *SLOW), 0.2)],
    ids=["a stop saves nothing", "a stop is killed while it saves"],
)
def test_what_was_there_is_kept_as_of_the_stop_although_the_stop_does_not_save(
    own: Any, given: Opened, settings: tuple[str, ...], grace_seconds: float
) -> None:
    redis = own(*settings)
    redis.cli("SET", "saved", "long ago")
    redis.cli("SAVE")
    redis.fill()
    redis.cli("SET", "newer", "than-any-save")
    redis.grace_seconds = grace_seconds

    put(redis, given)

    [kept] = redis.path.glob("before-restore-*")
    assert redis.cli("EXISTS", "newer") == "0"
    assert holds(kept, redis, "newer")


@pytest.mark.parametrize("settings", [(), ("--appendonly", "yes")], ids=["saves", "appends"])
def test_a_restore_that_fails_puts_back_all_that_was_there(own: Any, given: Opened, settings: tuple[str, ...]) -> None:
    redis = own("--save", "", *settings)
    redis.fill()
    redis.cli("SET", "newer", "than-any-save")
    redis.grace_seconds = 0.0

    require_all_back(redis, given)


@pytest.mark.parametrize("settings", [(), ("--appendonly", "yes")], ids=["saves", "appends"])
def test_what_clients_write_until_the_stop_is_in_what_was_there(
    own: Any, given: Opened, settings: tuple[str, ...]
) -> None:
    redis = own("--save", "", *SLOW, *settings)
    redis.fill()
    redis.grace_seconds = 0.0

    with writing(redis) as confirmed:
        put(redis, given)

    [kept] = redis.path.glob("before-restore-*")
    redis.stop()
    other = LocalRedis(kept, *redis.settings)
    other.start()
    counted = other.cli("GET", "counted")
    other.stop()
    assert counted in (str(confirmed[-1]), str(confirmed[-1] + 1))  # its last answer may have been lost


def test_an_append_only_file_that_is_still_written_for_the_first_time_is_waited_for(own: Any, given: Opened) -> None:
    redis = own("--save", "", *SLOW)
    redis.fill()
    redis.cli("CONFIG", "SET", "appendonly", "yes")  # whole after a second
    redis.settings += ["--appendonly", "yes"]
    redis.grace_seconds = 0.2
    redis.cli("SET", "newer", "than-any-save")

    require_all_back(redis, given)


def test_a_server_that_appends_until_its_next_start_alone_gets_back_all_that_was_there(own: Any, given: Opened) -> None:
    redis = own("--save", "")
    redis.fill()
    redis.cli("CONFIG", "SET", "appendonly", "yes")  # its configuration file does not know: it will load the RDB
    redis.cli("SET", "newer", "than-any-save")

    require_all_back(redis, given)


def test_an_append_only_file_holds_it_all_where_no_save_succeeds(own: Any, given: Opened) -> None:
    redis = own("--save", "", *STUCK, "--appendonly", "yes")
    redis.fill()

    told = put(redis, given, save_timeout_seconds=1)

    [kept] = redis.path.glob("before-restore-*")
    assert [line for line in told if "append-only file alone" in line]
    assert holds(kept, redis, "key:999")


@pytest.mark.parametrize("crash", ["ended", "stands still", "loads for ever"])
def test_a_server_that_does_not_answer_is_restored_from_what_its_disk_holds(
    own: Any, given: Opened, crash: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = own("--save", "")
    redis.fill()
    redis.cli("SET", "saved", "here")
    redis.cli("SAVE")
    redis.grace_seconds = 0.2
    if crash == "stands still":
        monkeypatch.setattr("gxbackup.redis.server.CALL_TIMEOUT_SECONDS", 1)
        os.kill(int(process_of(redis)), signal.SIGSTOP)
    else:
        redis.kill()
    if crash == "loads for ever":
        slow = ["--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024"]
        redis.settings, usual = [*redis.settings, *slow], redis.settings
        redis.spawn()
        redis.settings = usual
        asked = ["redis-cli", "-p", str(redis.port), "INFO", "persistence"]

        def loads() -> bool:
            return "loading:1" in subprocess.run(asked, capture_output=True, text=True, check=False).stdout

        await_condition("that it loads", loads, 20)

    told = restore.put_in_place(redis, given.file, FILES, given.artifact.evidence)

    [kept] = redis.path.glob("before-restore-*")
    assert [line for line in told if "what its disk held" in line]
    assert (redis.cli("DBSIZE"), redis.cli("EXISTS", "saved")) == ("1006", "0")
    assert holds(kept, redis, "saved")


@pytest.mark.parametrize(
    "settings",
    [("--rename-command", "CLIENT", ""), ("--user", "default", "on", "nopass", "~*", "&*", "+@all", "-client|pause")],
    ids=["an old Redis", "forbidden"],
)
def test_a_server_that_cannot_hold_off_writes_is_saved_without_and_that_is_told(
    own: Any, given: Opened, settings: tuple[str, ...]
) -> None:
    redis = own("--save", "", *settings)
    redis.fill()
    redis.cli("SET", "newer", "than-any-save")

    told = put(redis, given)

    [kept] = redis.path.glob("before-restore-*")
    assert [line for line in told if "writes could not be held off" in line]
    assert holds(kept, redis, "newer")


def test_clients_write_on_where_the_stop_itself_is_forbidden(
    own: Any, given: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = own("--save", "")
    redis.fill()

    def forbidden() -> None:
        raise RestoreError("statefulset redis: expected to be allowed, seen 403")

    monkeypatch.setattr(redis, "stop", forbidden)
    with pytest.raises(RestoreError, match="seen 403"):
        put(redis, given)

    monkeypatch.undo()
    assert redis.cli("SET", "after", "the refusal") == "OK"


def test_what_the_restored_server_was_told_until_it_was_undone_is_kept_beside(
    own: Any, given: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = own("--save", "")
    redis.fill()

    def failed(*_: object) -> list[str]:
        redis.cli("SET", "meanwhile", "written")
        raise RestoreError("its last step fails")

    monkeypatch.setattr(swap, "keep", failed)
    with pytest.raises(RestoreError, match="what was there is back"):
        put(redis, given)

    [aside] = redis.path.glob("before-restore-*")
    assert redis.cli("EXISTS", "meanwhile") == "0"
    assert holds(aside, redis, "meanwhile")
