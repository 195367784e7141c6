"""One TLS connection that a thread reads while another writes. Knows no protocol above it."""

from __future__ import annotations

import select
import ssl
from collections.abc import Callable
from threading import Lock
from typing import Any, TypeVar

T = TypeVar("T")


class SharedTls:
    """
    An SSLSocket for two threads, as a WebSocket uses it: OpenSSL allows one call at a time on a connection.

    Python 3.11 does not see to that: bulk in both directions at once now and then ended as a lost connection. No call
    waits for the network while it holds the lock, so that neither direction can hold up the other.
    """

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._sock = sock
        self._lock = Lock()
        self._timeout_seconds = sock.gettimeout()
        sock.setblocking(False)

    def recv(self, size: int) -> bytes:
        """Return what is there, waiting for the first byte; b"" at the end. Raises: TimeoutError, OSError."""
        return self._once_ready(lambda: self._sock.recv(size))

    def send(self, data: bytes) -> int:
        """Send some of it and return how much. Raises: TimeoutError, OSError."""
        return self._once_ready(lambda: self._sock.send(data))

    def pending(self) -> int:
        """Return how many bytes can be read without waiting."""
        with self._lock:
            return self._sock.pending()

    def gettimeout(self) -> float | None:
        """Return how long a call waits for the network, in seconds; None: for ever."""
        return self._timeout_seconds

    def settimeout(self, timeout_seconds: float | None) -> None:
        """Set how long a call waits for the network."""
        self._timeout_seconds = timeout_seconds

    def __getattr__(self, name: str) -> Any:
        """Give everything else (fileno, shutdown, close) as the socket has it."""
        return getattr(self._sock, name)

    def _once_ready(self, act: Callable[[], T]) -> T:
        while True:
            with self._lock:
                try:
                    return act()
                except ssl.SSLWantReadError:
                    event = select.POLLIN
                except ssl.SSLWantWriteError:
                    event = select.POLLOUT
            waiting = select.poll()
            waiting.register(self._sock, event)
            timeout = self._timeout_seconds
            if not waiting.poll(None if timeout is None else max(1, int(timeout * 1000))):
                raise TimeoutError("timed out")
