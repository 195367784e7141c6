"""A PlainStream out of chunks that are made as they are read. Knows no source."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gxbackup.ports import StreamEnd


class ChunkStream:
    """Hands on what an iterator gives, in flat memory, and what `end` says once it gave all."""

    def __init__(self, chunks: Iterator[bytes | memoryview], end: Callable[[], StreamEnd]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self._end = end

    def readinto(self, buffer: memoryview) -> int:
        """See `PlainStream`."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def finish(self) -> StreamEnd:
        """See `PlainStream`."""
        return self._end()
