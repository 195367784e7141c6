"""The seams between sources and the world: a stream of plain bytes, a place where commands run. No implementation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from gxbackup.model import Evidence
from gxbackup.packed import PackedFile


@dataclass(frozen=True)
class StreamEnd:
    """
    What a stream says once its last byte was read and its producer ended well.

    `content_sha256` names the content where the bytes alone do not: two dumps of an unchanged database differ in the
    time that their header tells. None: equal content means equal bytes.
    """

    evidence: Evidence = field(default_factory=dict)
    shortfalls: tuple[str, ...] = ()
    content_sha256: str | None = None


class PlainStream(Protocol):
    """The plain bytes of one capture, read once from the first to the last."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill as much of the buffer as there is, at least one byte; 0 at the end."""
        ...

    def finish(self) -> StreamEnd:
        """
        Wait for the producer and judge it, after readinto returned 0.

        `shortfalls` name what it could not read although it went on: the artifact is kept, and the data type counts
        as missing. Raises CollectError where what was read is not usable at all.
        """
        ...


@dataclass(frozen=True)
class Ended:
    """How a command in a place ended, and all it printed."""

    returncode: int
    stdout: bytes
    stderr: bytes

    def text(self) -> str:
        """Return what it printed, without the last newline."""
        return self.stdout.decode("utf-8", "replace").rstrip("\n")

    def complaint(self) -> str:
        """Return the end of what it said on stderr, as one text for people."""
        return self.stderr[-8192:].decode("utf-8", "replace").strip()


# A dump that waits for a lock says nothing; a node that died says nothing either.
SILENCE_SECONDS = 900.0


class Running(Protocol):
    """One command that runs in a place."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer from its stdout, at least one byte; 0 at the end. Raises CollectError where it is cut."""
        ...

    def write(self, data: bytes | memoryview) -> None:
        """Send all of this to its stdin; it must have been started with one. Raises CollectError where it is gone."""
        ...

    def wait(self, timeout_seconds: float) -> int:
        """
        Return its exit status, once stdout was read to its end.

        Raises: CommandError where it runs longer, or the connection was cut before it told its status.
        """
        ...

    def stderr(self) -> bytes:
        """Return the end of what it has said on stderr so far."""
        ...

    def stop(self) -> None:
        """End it, also from another thread than the one that reads it."""
        ...


class Place(Protocol):
    """
    Where a server's own programs run: a pod, a Docker container, or this host.

    Commands get the place's own environment, in which its passwords lie: a shell line there may use them, so that they
    never travel. Nothing secret may be in an argv.
    """

    @property
    def name(self) -> str:
        """Name it for people: `pod backend-mainnet/postgres-0`."""
        ...

    def start(
        self, argv: Sequence[str], *, stdin: bool = False, silence_seconds: float = SILENCE_SECONDS
    ) -> AbstractContextManager[Running]:
        """
        Start a command; leaving the block ends it, however it was left.

        Where it says nothing for longer than `silence_seconds`, a place that cannot see its end takes it for cut.
        """
        ...

    def run(
        self, argv: Sequence[str], *, timeout_seconds: float, stdin: bytes | None = None, check: bool = True
    ) -> Ended:
        """
        Run a command to its end and keep what it printed; for small output.

        Raises: CommandError where it takes longer, is cut off or, with `check`, ends with a status other than 0.
        """
        ...

    def read(self, argv: Sequence[str]) -> AbstractContextManager[PlainStream]:
        """
        Read a command's output, digested where it is made and compared here at the end: fast, and never short.

        `finish` raises CommandError where the command failed, IntegrityError (retryable) where bytes were lost.
        """
        ...

    def write(self, argv: Sequence[str], file: Path | PackedFile, *, timeout_seconds: float) -> Ended:
        """
        Run a command with the plain bytes of a file as its stdin, digested again where they arrive.

        Raises: CommandError where it failed, IntegrityError where other bytes arrived: what it made of them is bad.
        """
        ...
