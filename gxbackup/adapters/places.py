"""
What every place does alike, once it can start a command: run, read and write without losing a byte; and this host.

A stream that ends early looks like one that ended. Therefore each command's output is digested beside the command, and
both the digest and the exit status are told on stderr: where either is absent, the stream was cut.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from gxbackup.adapters import process
from gxbackup.errors import CommandError, IntegrityError
from gxbackup.ports import Ended, PlainStream, Running, StreamEnd

CHUNK_BYTES = 1024 * 1024


class Digest(Protocol):
    """A digest under way."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take more bytes."""

    def hexdigest(self) -> str:
        """Spell it as sha256sum and b2sum do."""
        ...


STDERR_KEPT_BYTES = 64 * 1024
# How long a command may take to end once all its output was read.
END_TIMEOUT_SECONDS = 120
# b2sum takes a third of the time of sha256sum, which busybox has alone; both are made to see loss, not malice.
_DIGESTS: dict[str, Callable[[], Digest]] = {"b2sum": hashlib.blake2b, "sha256sum": hashlib.sha256}
_CHOOSE = "command -v b2sum >/dev/null && echo b2sum || echo sha256sum"
# tee opens a pipe that this shell made itself: the one that leads out may belong to another user.
_READ = """exec 4>&1; digest=$1; shift
{ { "$@" 3>&- 4>&-; echo "gx-status $?" >&2; } | tee /dev/fd/3 >&4; } 3>&1 |
    "$digest" | { read -r sum _; echo "gx-digest $sum" >&2; }"""
# Where stdin cannot be ended, its length is told first.
_WRITE = """exec 4>&1; digest=$1; size=$2; shift 2
{ head -c "$size" | tee /dev/fd/3 | { "$@" >&4 3>&- 4>&-; echo "gx-status $?" >&2; }; } 3>&1 |
    "$digest" | { read -r sum _; echo "gx-digest $sum" >&2; }"""
_WORD = re.compile(rb"^gx-(status|digest) (\w+)\n?", re.MULTILINE)


class ExecPlace(ABC):
    """A place in which commands can be started; the rest follows."""

    _program: str | None = None

    @property
    @abstractmethod
    def name(self) -> str:
        """See `Place`."""

    @abstractmethod
    def start(self, argv: Sequence[str], *, stdin: bool = False) -> AbstractContextManager[Running]:
        """See `Place`."""

    def run(
        self, argv: Sequence[str], *, timeout_seconds: float, stdin: bytes | None = None, check: bool = True
    ) -> Ended:
        """See `Place`."""
        words = list(argv) if stdin is None else ["sh", "-c", 'size=$1; shift; head -c "$size" | "$@"', "sh",
                                                  str(len(stdin)), *argv]  # fmt: skip
        with self.start(words, stdin=stdin is not None) as running:
            if stdin:
                running.write(stdin)
            ended = _to_the_end(running, timeout_seconds, f"{self.name}: {argv[0]}")
        if check and ended.returncode != 0:
            raise CommandError(self._failed(argv, ended.returncode, ended.complaint()))
        return ended

    @contextmanager
    def read(self, argv: Sequence[str]) -> Iterator[PlainStream]:
        """See `Place`."""
        program = self._digest_program()
        with self.start(["sh", "-c", _READ, "sh", program, *argv]) as running:
            yield _Digested(running, f"{self.name}: {argv[0]}", _DIGESTS[program]())

    def write(self, argv: Sequence[str], file: Path, *, timeout_seconds: float) -> Ended:
        """See `Place`."""
        program = self._digest_program()
        words = ["sh", "-c", _WRITE, "sh", program, str(file.stat().st_size), *argv]
        with self.start(words, stdin=True) as running:
            feeder = _Feeder(running, file, _DIGESTS[program]())
            feeder.start()
            try:
                ended = _to_the_end(running, timeout_seconds, f"{self.name}: {argv[0]}")
            finally:
                feeder.end()
            said = _words(ended.stderr)
        complaint = _WORD.sub(b"", ended.stderr).decode("utf-8", "replace").strip()
        if (status := said.get("status")) != "0":
            seen = f"exit status {status}" if status else "no end"
            raise CommandError(f"{self.name}: {argv[0]}: expected exit status 0, seen {seen}: {complaint}")
        if feeder.failure is not None or said.get("digest") != feeder.digest.hexdigest():
            raise IntegrityError(
                f"{self.name}: {argv[0]}: expected input with {program} {feeder.digest.hexdigest()}, "
                f"seen {said.get('digest', 'none')}",
                retryable=True,
            )
        return Ended(0, ended.stdout, complaint.encode())

    def _digest_program(self) -> str:
        if self._program is None:
            self._program = self.run(["sh", "-c", _CHOOSE], timeout_seconds=60).text()
        return self._program

    def _failed(self, argv: Sequence[str], status: int, complaint: str) -> str:
        return f"{self.name}: {' '.join(argv)[:200]}: expected exit status 0, seen {status}: {complaint}"


class _Feeder(threading.Thread):
    """Sends a file beside whoever reads the answers: a command may print more than a pipe holds before it reads on."""

    def __init__(self, running: Running, file: Path, digest: Digest) -> None:
        super().__init__(name="input", daemon=True)
        self.digest = digest
        self.failure: Exception | None = None
        self._running = running
        self._file = file

    def run(self) -> None:
        """Send to the end; what went wrong is left in `failure`, and the command's own words say why."""
        try:
            with self._file.open("rb", buffering=0) as source:
                while chunk := source.read(CHUNK_BYTES):
                    self.digest.update(chunk)
                    self._running.write(chunk)
        except (CommandError, OSError) as error:
            self.failure = error

    def end(self) -> None:
        """Wait a moment for the last bytes; a command that has ended reads no more, and no one tells its sender."""
        self.join(1)
        if self.is_alive():
            _stop(self._running)
            self.join()


class _Digested:
    """A PlainStream whose producer told the digest of what it sent."""

    def __init__(self, running: Running, label: str, digest: Digest) -> None:
        self._running = running
        self._label = label
        self._digest = digest
        self._size_bytes = 0

    def readinto(self, buffer: memoryview) -> int:
        count = self._running.readinto(buffer)
        self._digest.update(buffer[:count])
        self._size_bytes += count
        return count

    def finish(self) -> StreamEnd:
        self._running.wait(END_TIMEOUT_SECONDS)
        stderr = self._running.stderr()
        said = _words(stderr)
        complaint = _WORD.sub(b"", stderr)[-8192:].decode("utf-8", "replace").strip()
        status, sent = said.get("status"), said.get("digest")
        if status is not None and status != "0":
            raise CommandError(f"{self._label}: expected exit status 0, seen {status}: {complaint}")
        if status is None or sent is None:
            raise CommandError(
                f"{self._label}: cut off after {self._size_bytes} bytes: it never told its end: {complaint}",
                "was the pod or container restarted, evicted or out of memory?",
            )
        if sent != self._digest.hexdigest():
            raise IntegrityError(
                f"{self._label}: expected the digest {sent} as it was sent, seen {self._digest.hexdigest()} "
                f"in {self._size_bytes} bytes",
                retryable=True,
            )
        return StreamEnd()


def _words(stderr: bytes) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in _WORD.findall(stderr)}


def _to_the_end(running: Running, timeout_seconds: float, label: str) -> Ended:
    """Read all output within a limit; CommandError where it takes longer."""
    deadline = time.monotonic() + timeout_seconds
    out = bytearray()
    buffer = memoryview(bytearray(CHUNK_BYTES))
    guard = threading.Timer(timeout_seconds, lambda: _stop(running))
    guard.daemon = True
    guard.start()
    try:
        while count := running.readinto(buffer):
            out += buffer[:count]
        status = running.wait(max(1.0, deadline - time.monotonic()))
    except CommandError:
        if time.monotonic() < deadline:
            raise
        raise CommandError(f"{label}: not finished after {timeout_seconds:g} s") from None
    finally:
        guard.cancel()
    if time.monotonic() >= deadline and status != 0:
        raise CommandError(f"{label}: not finished after {timeout_seconds:g} s")
    return Ended(status, bytes(out), running.stderr())


def _stop(running: Running) -> None:
    stop = getattr(running, "stop", None)
    assert stop is not None, "what runs in a place can be stopped"
    stop()


class LocalPlace(ExecPlace):
    """This host: its own programs, with the variables given (never secret ones)."""

    def __init__(self, name: str, env: Mapping[str, str] | None = None) -> None:
        self._name = name
        self._env = dict(env or {})

    @property
    def name(self) -> str:
        """See `Place`."""
        return self._name

    @contextmanager
    def start(self, argv: Sequence[str], *, stdin: bool = False) -> Iterator[Running]:
        """See `Place`."""
        with process.start(
            argv,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._env,
        ) as child:
            running = _LocalRunning(child, self._name)
            try:
                yield running
            finally:
                process.end(child)
                running.join()


class _LocalRunning:
    def __init__(self, child: process.Child, label: str) -> None:
        assert child.stdout and child.stderr
        fcntl.fcntl(child.stdout, fcntl.F_SETPIPE_SZ, CHUNK_BYTES)
        self._child = child
        self._stdout = child.stdout.fileno()
        self._label = label
        self._stderr = bytearray()
        self._listener = threading.Thread(target=self._listen, name="stderr", daemon=True)
        self._listener.start()

    def readinto(self, buffer: memoryview) -> int:
        return os.readv(self._stdout, [buffer])

    def write(self, data: bytes | memoryview) -> None:
        assert self._child.stdin
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._child.stdin.write(rest) :]
        except BrokenPipeError:
            raise CommandError(f"{self._label}: it ended before it had read its input") from None

    def wait(self, timeout_seconds: float) -> int:
        try:
            status = self._child.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise CommandError(f"{self._label}: not finished after {timeout_seconds:g} s") from None
        self._listener.join(timeout_seconds)
        return status

    def stderr(self) -> bytes:
        return bytes(self._stderr)

    def stop(self) -> None:
        process.end(self._child)

    def join(self) -> None:
        self._listener.join()

    def _listen(self) -> None:
        assert self._child.stderr
        while piece := os.read(self._child.stderr.fileno(), CHUNK_BYTES):
            self._stderr += piece
            del self._stderr[:-STDERR_KEPT_BYTES]
