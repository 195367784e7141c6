"""A file read as the stream of a source."""

from __future__ import annotations

import os

from gxbackup.errors import CollectError
from gxbackup.ports import StreamEnd


class FileStream:
    """A PlainStream: one file, open as `handle`, that nobody changes."""

    def __init__(self, handle: int, size_bytes: int, ending: StreamEnd, label: str) -> None:
        self._handle = handle
        self._left_bytes = size_bytes
        self._ending = ending
        self._label = label

    def readinto(self, buffer: memoryview) -> int:
        """See `PlainStream`."""
        count = os.readv(self._handle, [buffer])
        self._left_bytes -= count
        return count

    def finish(self) -> StreamEnd:
        """See `PlainStream`; CollectError where its size is another one than it was."""
        if self._left_bytes:
            raise CollectError(f"{self._label}: it changed its size by {-self._left_bytes} bytes while it was read")
        return self._ending
