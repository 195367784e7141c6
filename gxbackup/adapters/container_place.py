"""A Docker container as a place: commands in it through the Engine's exec, whose frames carry stdout and stderr."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from gxbackup.adapters.places import STDERR_KEPT_BYTES, ExecPlace
from gxbackup.errors import CommandError
from gxbackup.ports import SILENCE_SECONDS, Running

if TYPE_CHECKING:
    from docker import DockerClient

HEADER = struct.Struct(">BxxxL")
STDOUT = 1


class ContainerPlace(ExecPlace):
    """One running container of the Engine."""

    def __init__(self, engine: Callable[[], AbstractContextManager[DockerClient]], container: str) -> None:
        self._engine = engine
        self.container = container

    @property
    def name(self) -> str:
        """See `Place`."""
        return f"container {self.container}"

    @contextmanager
    def start(
        self, argv: Sequence[str], *, stdin: bool = False, silence_seconds: float = SILENCE_SECONDS
    ) -> Iterator[Running]:
        """See `Place`."""
        with self._engine() as engine:
            connection: Any = None
            identity = ""
            try:
                created = engine.api.exec_create(self.container, list(argv), stdin=stdin, tty=False)
                identity = created["Id"]
                connection = engine.api.exec_start(identity, socket=True)
                connection._sock.settimeout(silence_seconds)  # noqa: SLF001 - the SDK gives no other way to it
                yield _ContainerRunning(engine, identity, connection._sock, self.name)  # noqa: SLF001
            finally:
                if connection is not None:
                    with suppress(OSError):
                        connection._sock.shutdown(socket.SHUT_RDWR)  # noqa: SLF001
                    connection._sock.close()  # noqa: SLF001
                    connection.close()


class _ContainerRunning:
    def __init__(self, engine: DockerClient, identity: str, connection: socket.socket, label: str) -> None:
        self._engine = engine
        self._identity = identity
        self._socket = connection
        self._label = label
        self._left = 0
        self._stderr = bytearray()

    def readinto(self, buffer: memoryview) -> int:
        while not self._left:
            header = self._exactly(HEADER.size)
            if not header:
                return 0
            kind, size_bytes = HEADER.unpack(header)
            if kind == STDOUT:
                self._left = size_bytes
            else:
                self._stderr += self._exactly(size_bytes)
                del self._stderr[:-STDERR_KEPT_BYTES]
        count = self._received_into(buffer[: min(len(buffer), self._left)])
        if not count:
            raise CommandError(f"{self._label}: cut off in the middle of its output")
        self._left -= count
        return count

    def write(self, data: bytes | memoryview) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise CommandError(f"{self._label}: it ended before it had read its input: {error}") from None

    def wait(self, timeout_seconds: float) -> int:
        self._socket.settimeout(timeout_seconds)
        if self.readinto(memoryview(bytearray(1))):
            raise CommandError(f"{self._label}: asked how it ended before all was read")
        status = self._engine.api.exec_inspect(self._identity)["ExitCode"]
        if status is None:
            raise CommandError(f"{self._label}: cut off: the connection ended while it still runs")
        return int(status)

    def stderr(self) -> bytes:
        return bytes(self._stderr)

    def stop(self) -> None:
        """Close the connection; the command meets a closed pipe."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _exactly(self, size_bytes: int) -> bytes:
        """Read so many bytes; nothing at a clean end."""
        got = bytearray(size_bytes)
        filled = 0
        while filled < size_bytes:
            count = self._received_into(memoryview(got)[filled:])
            if not count:
                if filled:
                    raise CommandError(f"{self._label}: cut off in the middle of its output")
                return b""
            filled += count
        return bytes(got)

    def _received_into(self, buffer: memoryview) -> int:
        try:
            return self._socket.recv_into(buffer)
        except OSError as error:
            raise CommandError(
                f"{self._label}: cut off: {error}", "was the container stopped, or the Engine restarted?"
            ) from None
