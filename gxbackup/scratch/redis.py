"""
A Redis of our own on a folder: on a socket in it, on no port, writing nothing by itself; gone with the block.

Used where rehearsals run, and beside a stopped server's data, where it proves an RDB before that server sees it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from gxbackup.errors import BackupError, CommandError, IntegrityError, RestoreError, SetupError
from gxbackup.model import Evidence
from gxbackup.ports import Place
from gxbackup.redis import rdb
from gxbackup.redis.rdb import CheckedRdb
from gxbackup.redis.server import KeyCount, RedisServer

LOAD_TIMEOUT_SECONDS = 3600
POLL_SECONDS = 0.05
USUAL_DATABASES = 16
# redis-server and redis-check-rdb are one program under two names; Debian's redis-tools has it without a service.
# Whatever ends it leaves its exit status, so that who waits for it sees that it will never answer. A shell that is
# killed with its worker takes it along, where there is a setpriv that can.
_SERVE = """cd "$1" || exit; shift
rm -f redis.sock ended
server=$(command -v redis-server) || { server=./redis-server; ln -sf "$(command -v redis-check-rdb)" $server; }
with=; ! setpriv --pdeathsig KILL -- true 2>/dev/null || with="setpriv --pdeathsig KILL --"
$with $server "$@" >/dev/null; echo $? >ended"""
_LOOK = 'cd "$1" && cat ended 2>/dev/null && tail -n 5 redis.log'
_LACKS = "command -v redis-cli >/dev/null && command -v redis-check-rdb >/dev/null"


@contextmanager
def running_redis(place: Place, folder: str, file_name: str, settings: dict[str, str]) -> Iterator[RedisServer]:
    """
    Serve the RDB of a private folder, once it is loaded; ended without a save when the block is left.

    Raises: SetupError where the place has no Redis; RestoreError with its last words where it does not load.
    """
    require_programs(place)
    options = {
        "port": "0", "unixsocket": "redis.sock", "unixsocketperm": "700", "logfile": "redis.log", "daemonize": "no",
        "save": "", "stop-writes-on-bgsave-error": "no", "appendonly": "no", "dbfilename": file_name, "dir": "./",
        **settings,
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    server = RedisServer(place, connection=("-s", "redis.sock"), folder=folder)
    with place.start(["sh", "-c", _SERVE, "sh", folder, *words]):
        _await_loaded(server, place, folder)
        try:
            yield server
        finally:
            with suppress(BackupError):
                server.call("SHUTDOWN", "NOSAVE")


def databases_of(place: Place, file: str, evidence: Evidence) -> dict[str, str]:
    """
    Return the setting that lets a Redis serve each database of an RDB: as the evidence counts them, else the file.

    Raises: CommandError where the file must be read and is damaged.
    """
    told = evidence.get("databases")
    names = told if isinstance(told, dict) else rdb.check(place, file).database_offsets
    return {"databases": str(max([USUAL_DATABASES, *(int(name) + 1 for name in names)]))}


def require_programs(place: Place) -> None:
    """Raise SetupError where a place lacks what `running_redis` runs there."""
    if place.run(["sh", "-c", _LACKS], timeout_seconds=60, check=False).returncode != 0:
        raise SetupError(
            f"{place.name}: program 'redis-check-rdb': not found", "install the Debian package redis-tools"
        )


def _await_loaded(server: RedisServer, place: Place, folder: str) -> None:
    deadline = time.monotonic() + LOAD_TIMEOUT_SECONDS
    while True:
        try:
            if server.call("PING") == "PONG":
                return
        except CommandError:
            ended = place.run(["sh", "-c", _LOOK, "sh", folder], timeout_seconds=60, check=False)
            if ended.returncode == 0 and ended.stdout:
                raise RestoreError(
                    f"{place.name}: redis-server does not load the RDB: {' '.join(ended.text().split())}",
                    "was it saved by a newer Redis than this one, or by one with modules?",
                ) from None
            if time.monotonic() > deadline:
                raise
        time.sleep(POLL_SECONDS)


def compare(evidence: Evidence, seen: dict[str, KeyCount], checked: CheckedRdb, label: str) -> list[str]:
    """
    Compare what a server holds with what its RDB held; `checked` tells how many keys have lived out their time since.

    Keys without an end are compared exactly; where the snapshot tells no counts, all keys with those that are counted
    in the file. Raises: IntegrityError naming the first database that differs.
    """
    # Without the tool nobody tells.
    expired = checked.expired if checked.keys is not None else 2**62
    told = evidence.get("databases")
    lost = 0
    total = sum(one.keys for one in seen.values())
    if not isinstance(told, dict):  # it was saved where there is no redis-check-rdb, and proven by its bytes alone
        if checked.keys is None:
            return [f"{total} keys in {len(seen)} databases; nothing tells counts to compare with"]
        if not checked.keys - expired <= total <= checked.keys:
            raise IntegrityError(f"{label}: expected the {checked.keys} keys of the file, seen {total}")
        return [f"{total} keys in {len(seen)} databases equal what is counted in the file; the snapshot tells none"]
    expected = {name: _count(one) for name, one in told.items()}
    for name in sorted({*expected, *seen}, key=int):
        was, now = expected.get(name, KeyCount(0, 0)), seen.get(name, KeyCount(0, 0))
        lost += was.keys - now.keys
        if was.keys - was.expires != now.keys - now.expires or now.keys > was.keys:
            raise IntegrityError(
                f"{label}: database {name}: expected {was.keys} keys, {was.expires} of them with an end, "
                f"seen {now.keys} and {now.expires}"
            )
    if lost > expired:
        raise IntegrityError(f"{label}: expected {expired} keys to have expired since the save, seen {lost}")
    words = f"{total} keys in {len(seen)} databases equal what was saved"
    return [f"{words}; {lost} more have expired since" if lost else words]


def _count(told: object) -> KeyCount:
    if not isinstance(told, dict):
        raise IntegrityError(f"expected the counts of a database, seen {told!r}")
    return KeyCount(int(told["keys"]), int(told["expires"]))
