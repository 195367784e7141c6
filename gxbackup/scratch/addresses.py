"""Where a URL leads: two names of one server are found to be one, before a rehearsal takes it for scratch."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit


def addresses(url: str) -> set[tuple[str, int]]:
    """Return where a URL leads, by address and port; a name that nobody knows stands for itself."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        return {(str(found[4][0]), port) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError:
        return {(host, port)}
