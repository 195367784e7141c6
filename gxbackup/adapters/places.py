"""What every place does alike, once it can start a command: run it, read its output, feed it; and this host."""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import ClassVar

from gxbackup.adapters import process
from gxbackup.adapters.local_input import LocalInput
from gxbackup.adapters.transfer import CHUNK_BYTES, END_TIMEOUT_SECONDS, PROBE, Incoming, Means, Outgoing, words
from gxbackup.errors import CommandError, IntegrityError
from gxbackup.packed import PackedFile, plain_size_bytes
from gxbackup.ports import SILENCE_SECONDS, Ended, PlainStream, Running, StreamEnd

STDERR_KEPT_BYTES = 64 * 1024


class ExecPlace(ABC):
    """A place in which commands can be started; the rest follows."""

    # Whether the way to it is so slow that its output is packed there, where it has zstd.
    packs: ClassVar[bool] = False
    _means: Means | None = None

    @property
    @abstractmethod
    def name(self) -> str:
        """See `Place`."""

    @abstractmethod
    def start(
        self, argv: Sequence[str], *, stdin: bool = False, silence_seconds: float = SILENCE_SECONDS
    ) -> AbstractContextManager[Running]:
        """See `Place`."""

    def run(
        self, argv: Sequence[str], *, timeout_seconds: float, stdin: bytes | None = None, check: bool = True
    ) -> Ended:
        """See `Place`."""
        words = list(argv) if stdin is None else ["sh", "-c", 'size=$1; shift; head -c "$size" | "$@"', "sh",
                                                  str(len(stdin)), *argv]  # fmt: skip
        with self.start(words, stdin=stdin is not None, silence_seconds=timeout_seconds) as running:
            ended = _to_the_end(running, timeout_seconds, f"{self.name}: {argv[0]}", stdin)
        if check and ended.returncode != 0:
            raise CommandError(self._failed(argv, ended.returncode, ended.complaint()))
        return ended

    @contextmanager
    def read(self, argv: Sequence[str]) -> Iterator[PlainStream]:
        """See `Place`."""
        means = self._known_means()
        with self.start(means.read_words(argv)) as running:
            yield Incoming(running, f"{self.name}: {argv[0]}", means)

    def write(self, argv: Sequence[str], file: Path | PackedFile, *, timeout_seconds: float) -> Ended:
        """See `Place`."""
        means = self._known_means()
        outgoing = Outgoing(file, means)
        with self.start(outgoing.words(argv), stdin=True, silence_seconds=timeout_seconds) as running:
            outgoing.send_to(running)
            try:
                ended = _to_the_end(running, timeout_seconds, f"{self.name}: {argv[0]}")
            finally:
                outgoing.end()
                if outgoing.lost is not None:
                    raise outgoing.lost
        said, complaint = words(ended.stderr)
        if (status := said.get("status")) != "0":
            seen = f"exit status {status}" if status else "no end"
            raise CommandError(f"{self.name}: {argv[0]}: expected exit status 0, seen {seen}: {complaint}")
        sent, unpacked = outgoing.digest.hexdigest(), not outgoing.packs or said.get("packed") == "0"
        if outgoing.failure is not None or not unpacked or said.get("digest") != sent:
            raise IntegrityError(
                f"{self.name}: {argv[0]}: expected input with {means.digest} {sent}, "
                f"seen {said.get('digest', 'none')}: {complaint}",
                retryable=True,
            )
        return Ended(0, ended.stdout, complaint.encode())

    def _known_means(self) -> Means:
        if self._means is None:
            answer = self.run(["sh", "-c", PROBE], timeout_seconds=60).text()
            self._means = Means.told(answer, may_pack=self.packs)
        return self._means

    def _failed(self, argv: Sequence[str], status: int, complaint: str) -> str:
        return f"{self.name}: {' '.join(argv)[:200]}: expected exit status 0, seen {status}: {complaint}"


def _to_the_end(running: Running, timeout_seconds: float, label: str, stdin: bytes | None = None) -> Ended:
    """Give it its input and read all output within a limit; CommandError where it takes longer."""
    deadline = time.monotonic() + timeout_seconds
    out = bytearray()
    buffer = memoryview(bytearray(CHUNK_BYTES))
    expired = threading.Event()

    def give_up() -> None:
        expired.set()
        running.stop()

    guard = threading.Timer(timeout_seconds, give_up)
    guard.daemon = True
    guard.start()
    try:
        if stdin:
            running.write(stdin)
        while count := running.readinto(buffer):
            out += buffer[:count]
        status = running.wait(max(1.0, deadline - time.monotonic()))
    except CommandError:
        if not expired.is_set() and time.monotonic() < deadline:
            raise
        raise CommandError(f"{label}: not finished after {timeout_seconds:g} s") from None
    finally:
        guard.cancel()
    # A command may take the signal for a wish, and end with status 0 and half of its output.
    if expired.is_set():
        raise CommandError(f"{label}: not finished after {timeout_seconds:g} s")
    return Ended(status, bytes(out), running.stderr())


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
    def start(
        self, argv: Sequence[str], *, stdin: bool = False, silence_seconds: float = SILENCE_SECONDS
    ) -> Iterator[Running]:
        """See `Place`; the end of a process of this host is seen."""
        del silence_seconds
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

    @contextmanager
    def read(self, argv: Sequence[str]) -> Iterator[PlainStream]:
        """See `Place`; a pipe within this host is never cut, and the command's own end is known."""
        with self.start(argv) as running:
            yield _Output(running, f"{self.name}: {argv[0]}")

    def write(self, argv: Sequence[str], file: Path | PackedFile, *, timeout_seconds: float) -> Ended:
        """See `Place`."""
        with self.start(argv, stdin=True) as running:
            assert isinstance(running, _LocalRunning)
            feeder = running.feeder(file)
            feeder.start()
            try:
                ended = _to_the_end(running, timeout_seconds, f"{self.name}: {argv[0]}")
                read_bytes = feeder.read_bytes()
            finally:
                running.stop()
                feeder.end()
        label, complaint = f"{self.name}: {argv[0]}", ended.complaint()
        if ended.returncode != 0:
            complaint = f"{feeder.failure}{complaint}"
            raise CommandError(f"{label}: expected exit status 0, seen exit status {ended.returncode}: {complaint}")
        if feeder.failure or read_bytes != plain_size_bytes(file):
            raise IntegrityError(
                f"{label}: expected to read {plain_size_bytes(file)} bytes, seen {read_bytes}: "
                f"{feeder.failure}{complaint}",
                retryable=True,
            )
        return Ended(0, ended.stdout, complaint.encode())


class _Output:
    """A PlainStream of a local command."""

    def __init__(self, running: Running, label: str) -> None:
        self.readinto = running.readinto
        self._running = running
        self._label = label

    def finish(self) -> StreamEnd:
        status = self._running.wait(END_TIMEOUT_SECONDS)
        if status != 0:
            status = status if status > 0 else 128 - status
            complaint = Ended(status, b"", self._running.stderr()).complaint()
            raise CommandError(f"{self._label}: expected exit status 0, seen {status}: {complaint}")
        return StreamEnd()


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

    def feeder(self, file: Path | PackedFile) -> LocalInput:
        assert self._child.stdin
        return LocalInput(self._child.stdin, file)

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
