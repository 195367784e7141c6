"""
A pod as a place: commands in it over the API server's WebSocket, frame by frame, fast and in flat memory.

The client's own stream reads until the socket is idle and keeps all it has read: 0.5 MB/s, and growing. Frames are read
here one by one. A connection that ends without the status that Kubernetes sends last was cut.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from gxbackup.adapters.places import STDERR_KEPT_BYTES, ExecPlace
from gxbackup.adapters.tls import SharedTls
from gxbackup.adapters.transfer import CHUNK_BYTES
from gxbackup.errors import CollectError, CommandError
from gxbackup.ports import SILENCE_SECONDS, Running

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

STDIN, STDOUT, STDERR, STATUS = 0, 1, 2, 3
FRAME_BYTES = 128 * 1024
HANDSHAKE_TIMEOUT_SECONDS = 60.0
# A kubelet may still take a pod that is ready for the one of its name that it ended just before: nothing ran then.
NOT_FOUND = "container not found"
FOUND_WITHIN_SECONDS = 10.0
SECONDS_BETWEEN_TRIES = 0.2
CUT_HINT = "was the pod restarted or evicted, or its node or the API server gone? `kubectl get events -n {}` tells"


class PodPlace(ExecPlace):
    """One container of one pod. Every byte goes through the API server twice encrypted, so they are packed first."""

    packs = True

    def __init__(
        self, api: Callable[[], AbstractContextManager[ApiClient]], namespace: str, pod: str, container: str
    ) -> None:
        self._api = api
        self.namespace = namespace
        self.pod = pod
        self.container = container

    @property
    def name(self) -> str:
        """See `Place`."""
        return f"pod {self.namespace}/{self.pod}"

    @contextmanager
    def start(
        self, argv: Sequence[str], *, stdin: bool = False, silence_seconds: float = SILENCE_SECONDS
    ) -> Iterator[Running]:
        """See `Place`."""
        with self._api() as api:
            connection = self._connect(api, argv, stdin)
            connection.settimeout(silence_seconds)
            running = _PodRunning(connection, self.name, self.namespace)
            try:
                yield running
            finally:
                running.stop()

    def _connect(self, api: ApiClient, argv: Sequence[str], stdin: bool) -> Any:
        from kubernetes.client import ApiException, CoreV1Api
        from kubernetes.stream import stream, ws_client
        from websocket import WebSocketException

        ws_client.WebSocket = _websocket  # type: ignore[assignment, attr-defined]
        deadline = time.monotonic() + FOUND_WITHIN_SECONDS
        client = None
        while client is None:
            try:
                client = stream(
                    CoreV1Api(api).connect_get_namespaced_pod_exec, self.pod, self.namespace,
                    container=self.container, command=list(argv), stdin=stdin, stdout=True, stderr=True, tty=False,
                    _preload_content=False, binary=True,
                )  # fmt: skip
            except ApiException as error:
                if NOT_FOUND in str(error.reason) and time.monotonic() < deadline:
                    time.sleep(SECONDS_BETWEEN_TRIES)
                    continue
                raise CommandError(
                    f"{self.name}: expected to run {argv[0]}, seen {_reason(error)}",
                    CUT_HINT.format(self.namespace),
                    "may this worker's ServiceAccount create pods/exec here?",
                ) from None
            except (OSError, WebSocketException) as error:
                raise CommandError(f"{self.name}: the API server cannot be reached: {error}") from None
        connection = client.sock
        if isinstance(connection.sock, ssl.SSLSocket):
            connection.sock = SharedTls(connection.sock)
        return connection


def _websocket(**options: Any) -> Any:
    """Make a WebSocket whose handshake ends: the client gives it no limit, also where an API server stands still."""
    from websocket import WebSocket

    made = WebSocket(**options)
    made.sock_opt.timeout = HANDSHAKE_TIMEOUT_SECONDS
    return made


class _PodRunning:
    """A command behind one WebSocket."""

    def __init__(self, connection: Any, label: str, namespace: str) -> None:
        self._connection = connection
        self._label = label
        self._namespace = namespace
        self._stdout = memoryview(b"")
        self._stderr = bytearray()
        self._status: int | None = None
        self._ended = False

    def readinto(self, buffer: memoryview) -> int:
        filled = 0
        while filled < len(buffer):
            if not self._stdout and ((filled and not self._is_more_there()) or not self._next_frame()):
                break
            count = min(len(self._stdout), len(buffer) - filled)
            buffer[filled : filled + count] = self._stdout[:count]
            self._stdout = self._stdout[count:]
            filled += count
        return filled

    def write(self, data: bytes | memoryview) -> None:
        from websocket import ABNF, WebSocketException

        rest = memoryview(data)
        try:
            while rest:
                self._connection.send(bytes([STDIN]) + rest[:FRAME_BYTES].tobytes(), ABNF.OPCODE_BINARY)
                rest = rest[FRAME_BYTES:]
        except (OSError, WebSocketException) as error:
            raise CommandError(f"{self._label}: it ended before it had read its input: {error}") from None

    def wait(self, timeout_seconds: float) -> int:
        self._connection.settimeout(timeout_seconds)
        while not self._ended:
            if self._next_frame():
                raise CollectError(f"{self._label}: asked how it ended before all was read")
        if self._status is None:
            raise CommandError(
                f"{self._label}: cut off: the connection ended without an exit status", CUT_HINT.format(self._namespace)
            )
        return self._status

    def stderr(self) -> bytes:
        return bytes(self._stderr)

    def stop(self) -> None:
        """Close the connection; the API server then ends the command's streams."""
        with suppress(OSError):
            if self._connection.sock is not None:
                self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._connection.shutdown()

    def _is_more_there(self) -> bool:
        """Tell whether another frame can be read without waiting for the pod."""
        sock = self._connection.sock
        return sock is not None and hasattr(sock, "pending") and sock.pending() > 0

    def _next_frame(self) -> bool:
        """Take frames until one brings output; False at the end."""
        from websocket import ABNF, WebSocketException

        while not self._ended:
            try:
                opcode, frame = self._connection.recv_data_frame(True)
            except (OSError, WebSocketException, AttributeError) as error:
                raise CommandError(
                    f"{self._label}: cut off: {str(error) or type(error).__name__}", CUT_HINT.format(self._namespace)
                ) from None
            if opcode == ABNF.OPCODE_CLOSE:
                self._ended = True
            elif opcode in (ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT) and len(frame.data) > 1:
                channel, data = frame.data[0], memoryview(frame.data)[1:]
                if channel == STDOUT:
                    self._stdout = data
                    return True
                if channel == STDERR:
                    self._stderr += data
                    del self._stderr[:-STDERR_KEPT_BYTES]
                elif channel == STATUS:
                    self._status = _exit_status(bytes(data), self._label, self._namespace)
                    self._ended = True
        return False


def _exit_status(told: bytes, label: str, namespace: str) -> int:
    """Read Kubernetes' last word; CommandError where the command was never run, or its container went meanwhile."""
    status = json.loads(told)
    if status.get("status") == "Success":
        return 0
    for cause in (status.get("details") or {}).get("causes") or ():
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    raise CommandError(f"{label}: cannot run it: {status.get('message', told[:200])}", CUT_HINT.format(namespace))


def _reason(error: Any) -> str:
    """Say what the API server answered; the client puts headers and body of the refused handshake into one text."""
    text = str(error.reason or "")
    told = re.search(r'"message":"(.*?)","', text)
    return told[1] if told else f"{error.status or ''} {text}".strip().splitlines()[0][:300]


assert FRAME_BYTES <= CHUNK_BYTES
