"""
A running Redis before a restore stops it: what can be refused is refused, its writes wait, and all it holds is saved.

What a stop saves by itself is not relied on: nothing where there are no save points, half a file where its pod is
killed meanwhile. What was there would be as old as the last save, and so would be what a failed restore puts back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from gxbackup.errors import BackupError, CollectError, CommandError, RestoreRefusedError, SourceMissingError, words
from gxbackup.redis import swap
from gxbackup.redis.server import POLL_LAST_SECONDS, RedisServer
from gxbackup.redis.swap import DataFiles
from gxbackup.scratch.redis import require_programs

# Longer than a stop takes. A worker that is killed meanwhile leaves clients waiting for no longer than this.
HOLD_SECONDS = 300
ASKED_TIMES = 3
ASKED_AGAIN_SECONDS = 1.0


class Running(Protocol):
    """What of a restore's target is asked while it runs."""

    @property
    def name(self) -> str:
        """Name it for people."""
        ...

    @property
    def folder(self) -> str:
        """Where its data lies, as it sees it itself."""
        ...

    def server(self) -> RedisServer:
        """Return the running server; SourceMissingError where it does not run."""
        ...


def hold(target: Running, files: DataFiles, new: Path, save_timeout_seconds: float) -> list[str]:
    """
    Have a server's clients wait and all it holds saved, so that it can be stopped now; say what that leaves open.

    Its writes wait for HOLD_SECONDS from the end of the save, or until `let_go`. One that does not answer is left as
    it is. Raises: RestoreRefusedError where it answers and what it holds cannot be saved, or the new data could not be
    put beside; nothing was stopped then, and its clients write on.
    """
    try:
        server = _answering(target)
        if server is None:
            return [f"{target.name} did not answer before the stop: what was there is what its disk held"]
        require_programs(server.place)
        swap.require_room(server.place, target.folder, files, new)
        told = _saved(server, save_timeout_seconds)
        swap.require_room(server.place, target.folder, files, new)  # the save may have taken of it
    except BaseException as error:
        let_go(target)
        if not isinstance(error, BackupError):
            raise
        raise RestoreRefusedError(
            f"{target.name}: what it holds could not be made safe, and nothing was stopped: {words(error)}",
            *error.hints,
        ) from None
    return told


def let_go(target: Running) -> None:
    """Let a server's clients write on, where it still runs and answers."""
    with suppress(BackupError):
        target.server().let_writes_go_on()


def _answering(target: Running) -> RedisServer | None:
    """
    Return the server if it answers with its data; asked again, since one cut connection must not cost what it holds.

    Raises: CollectError where it answers and does not let us in; SetupError where its place has no client to ask with.
    """
    for number in range(ASKED_TIMES):
        if number:
            time.sleep(ASKED_AGAIN_SECONDS)
        with suppress(SourceMissingError, CommandError):
            server = target.server()
            # While it loads it has nothing that its disk does not hold, and may never come to its end.
            return server if server.info().get("loading") != "1" else None
    with suppress(SourceMissingError, CommandError):
        require_programs(target.server().place)
    return None


def _saved(server: RedisServer, timeout_seconds: float) -> list[str]:
    """Hold off writes and save; say what that leaves open."""
    refused = server.hold_writes(HOLD_SECONDS)

    def hold_on() -> None:
        if not refused:
            server.hold_writes(HOLD_SECONDS)

    if server.info().get("aof_enabled") == "1":
        _await_appended(server, not refused, timeout_seconds, hold_on)
        told = []
        try:  # it may load its RDB when it starts again, where it was told to append while it ran
            server.save(timeout_seconds, hold_on)
        except CollectError as error:
            told = [f"what was there is whole in its append-only file alone: {error.message}"]
    else:
        server.save(timeout_seconds, hold_on)
        lacks = f"its writes could not be held off ({refused}): what came between its save and its end is lost"
        told = [lacks] if refused else []
    hold_on()
    return told


def _await_appended(server: RedisServer, held: bool, timeout_seconds: float, meanwhile: Callable[[], None]) -> None:
    """
    Wait until the append-only file holds all there is: it was written to its end once, and nothing waits for the disk.

    Raises: CollectError where it cannot be written, or is not written in time.
    """
    deadline = time.monotonic() + timeout_seconds
    pause = 0.05
    while True:
        info = server.info()
        if (status := info["aof_last_write_status"]) != "ok":
            raise CollectError(
                f"{server.place.name}: expected its append-only file written, seen aof_last_write_status {status}",
                "is its disk full? make room, and it writes what it lacks by itself",
            )
        is_rewriting = info["aof_rewrite_in_progress"] != "0" or info["aof_rewrite_scheduled"] != "0"
        if not is_rewriting and (not held or info.get("aof_buffer_length", "0") == "0"):
            return
        if time.monotonic() > deadline:
            raise CollectError(
                f"{server.place.name}: its append-only file was not written within source.save_timeout_seconds",
                "the server's own log says why",
            )
        meanwhile()
        time.sleep(pause)
        pause = min(2 * pause, POLL_LAST_SECONDS)
