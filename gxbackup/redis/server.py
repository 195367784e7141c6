"""
A Redis server as its own client in its own place sees it: what it says about itself, and a save that is waited for.

Each reply is looked at: redis-cli of older versions ends with status 0 whatever the server answered.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import NamedTuple

from gxbackup.errors import CollectError, CommandError
from gxbackup.ports import Place

CALL_TIMEOUT_SECONDS = 60
SAVE_TIMEOUT_SECONDS = 900
POLL_FIRST_SECONDS = 0.05
POLL_LAST_SECONDS = 2.0
# The password is where the server has it, and goes to the client in a variable of its own.
_CLIENT = """[ -z "$1" ] || cd "$1" || exit
if [ -n "$2" ]; then
    eval "password=\\${$2-} file=\\${$2_FILE-}"
    [ -n "$password" ] || [ -z "$file" ] || password=$(cat "$file") || exit
    [ -z "$password" ] || export REDISCLI_AUTH="$password"
fi
shift 2
exec redis-cli "$@\""""
_KEYSPACE = re.compile(r"keys=(\d+),expires=(\d+)")
_FORBIDDEN = "NOPERM"
_LATER = ("LOADING", "BUSY", "MASTERDOWN")
_BUSY = ("in progress", "rewriting", "another child process", "is active")


class KeyCount(NamedTuple):
    """How many keys a database holds, and how many of them expire."""

    keys: int
    expires: int


class RedisServer:
    """One server; `connection` are redis-cli's words for reaching it, relative to `folder`."""

    def __init__(
        self, place: Place, password_variable: str = "", connection: tuple[str, ...] = (), folder: str = ""
    ) -> None:
        self.place = place
        self._password_variable = password_variable
        self._connection = connection
        self._folder = folder

    def call(self, *words: str) -> str:
        """
        Return what the server replies.

        Raises: CommandError (retryable) where it does not answer or is loading; CollectError where it wants a password,
        or this user may not ask that.
        """
        reply = self._reply(*words)
        if reply.startswith(_FORBIDDEN):
            raise CollectError(
                f"{self.place.name}: redis-cli {' '.join(words)}: expected to be allowed, seen {reply}",
                "its ACL forbids that to this user: give it +info +time +bgsave +config|get, or name another as "
                "source.user",
            )
        return reply

    def _reply(self, *words: str) -> str:
        """Return a reply, also that this user may not ask."""
        argv = ["sh", "-c", _CLIENT, "sh", self._folder, self._password_variable, *self._connection, *words]
        ended = self.place.run(argv, timeout_seconds=CALL_TIMEOUT_SECONDS, check=False)
        reply = ended.text().replace("\r\n", "\n").strip()
        name = f"{self.place.name}: redis-cli {' '.join(words)}"
        if reply.startswith(("NOAUTH", "WRONGPASS")):
            raise CollectError(
                f"{name}: expected to be let in, seen {reply.splitlines()[0]} {ended.complaint()}".rstrip(),
                f"is its password in the variable {self._password_variable or '(none)'} there? "
                "source.password_variable names another one",
            )
        if ended.returncode != 0 or reply.startswith(_LATER):
            seen = f"{reply} {ended.complaint()}".strip() or f"exit status {ended.returncode}"
            raise CommandError(f"{name}: expected an answer, seen {seen}")
        return reply

    def info(self) -> dict[str, str]:
        """Return all that INFO says. Raises: CommandError, CollectError (see `call`)."""
        reply = self.call("INFO")
        if "redis_version:" not in reply:
            raise CollectError(f"{self.place.name}: redis-cli INFO: expected redis_version, seen {reply[:200]!r}")
        return dict(line.split(":", 1) for line in reply.splitlines() if ":" in line and not line.startswith("#"))

    def setting(self, name: str) -> str | None:
        """Return a setting; None where CONFIG is renamed or refused."""
        lines = self._reply("CONFIG", "GET", name).split("\n")
        return (lines[1] if len(lines) > 1 else "") if lines[0] == name else None

    def set(self, name: str, value: str) -> None:
        """Change a setting of the running server. Raises: CommandError."""
        reply = self.call("CONFIG", "SET", name, value)
        if reply != "OK":
            raise CommandError(f"{self.place.name}: CONFIG SET {name} {value}: expected OK, seen {reply!r}")

    def keyspace(self) -> dict[str, KeyCount]:
        """Return how many keys each database holds now; empty ones are not named."""
        return keyspace(self.info())

    def hold_writes(self, seconds: int) -> str:
        """
        Have its clients' writes wait for so long from now, or until `let_writes_go_on`; return what it refuses with.

        Redis before 6.2 cannot. Raises: CommandError, CollectError (see `call`).
        """
        reply = self._reply("CLIENT", "PAUSE", str(seconds * 1000), "WRITE")
        return "" if reply == "OK" else reply

    def let_writes_go_on(self) -> None:
        """End what `hold_writes` began, if it did. Raises: CommandError, CollectError (see `call`)."""
        self._reply("CLIENT", "UNPAUSE")

    def save(self, timeout_seconds: float, meanwhile: Callable[[], None] = lambda: None) -> int:
        """
        Have the server write its RDB, wait until that very save ended well, and return the server's time before it.

        A save or a rewrite of others that is under way is waited for. `meanwhile` is called while it is waited. Raises:
        CollectError where the save failed, or takes longer.
        """
        deadline = time.monotonic() + timeout_seconds
        before = self._settled(deadline, meanwhile)
        while "rdb_saves" not in before and int(self.call("TIME").split()[0]) <= int(before["rdb_last_save_time"]):
            time.sleep(0.2)  # its clock tells seconds alone: two saves within one could not be told apart
        began = int(self.call("TIME").split()[0])
        while "started" not in (reply := self.call("BGSAVE")):
            if not any(word in reply for word in _BUSY):
                raise self._failed(f"BGSAVE answers {reply!r}")
            before = self._settled(deadline, meanwhile)
        after = self._settled(deadline, meanwhile)
        if after["rdb_last_bgsave_status"] != "ok":
            raise self._failed(f"rdb_last_bgsave_status is {after['rdb_last_bgsave_status']!r}")
        counter = "rdb_saves" if "rdb_saves" in after else "rdb_last_save_time"
        if int(after[counter]) <= int(before[counter]):
            raise self._failed(f"{counter} stays {after[counter]}")
        return began

    def _settled(self, deadline: float, meanwhile: Callable[[], None]) -> dict[str, str]:
        """Wait until neither a save nor a rewrite is under way; return what INFO then says."""
        pause = POLL_FIRST_SECONDS
        while True:
            info = self.info()
            if info["rdb_bgsave_in_progress"] == "0" and info["aof_rewrite_in_progress"] == "0":
                return info
            if time.monotonic() > deadline:
                raise CollectError(
                    f"{self.place.name}: a save was not finished within source.save_timeout_seconds",
                    "is its disk stuck, or the dataset larger than it used to be?",
                    retryable=True,
                )
            meanwhile()
            time.sleep(pause)
            pause = min(2 * pause, POLL_LAST_SECONDS)

    def _failed(self, seen: str) -> CollectError:
        folder = self.setting("dir") or "."
        room = self.place.run(["df", "-Pk", folder], timeout_seconds=CALL_TIMEOUT_SECONDS, check=False).text()
        return CollectError(
            f"{self.place.name}: expected a finished save, seen {seen}; its disk: {' '.join(room.splitlines()[-1:])}",
            "the server's own log says why: no room in its folder, or no memory to fork "
            "(vm.overcommit_memory=1 helps there)",
            retryable=True,
        )


def keyspace(info: dict[str, str]) -> dict[str, KeyCount]:
    """Return the keys of each database as INFO tells them."""
    found = {
        name.removeprefix("db"): _KEYSPACE.match(value) for name, value in info.items() if re.match(r"db\d+$", name)
    }
    return {name: KeyCount(int(match[1]), int(match[2])) for name, match in found.items() if match}


def unchanged_since_a_save(info: dict[str, str]) -> bool:
    """Tell whether the RDB on disk is one that this very process has finished, and holds all there is."""
    return (
        int(info.get("rdb_saves", "0")) > 0
        and info["rdb_changes_since_last_save"] == "0"
        and info["rdb_last_bgsave_status"] == "ok"
        and info["rdb_bgsave_in_progress"] == "0"
    )
