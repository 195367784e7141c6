"""A PlainStream of lines that are made as they are read."""

from __future__ import annotations

from collections.abc import Iterator


class LineStream:
    """Lines of an iterator, as bytes; whoever derives from it says in `finish` how they ended."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self._line = memoryview(b"")

    def readinto(self, buffer: memoryview) -> int:
        """See `PlainStream`."""
        filled = 0
        while filled < len(buffer):
            if not self._line:
                self._line = memoryview(next(self._lines, b""))
                if not self._line:
                    break
            step = min(len(self._line), len(buffer) - filled)
            buffer[filled : filled + step] = self._line[:step]
            self._line = self._line[step:]
            filled += step
        return filled
