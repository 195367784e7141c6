"""The seam between sources and the pipeline: a stream of plain bytes, and how it ends. No implementation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from gxbackup.model import Evidence


@dataclass(frozen=True)
class StreamEnd:
    """What a stream says once its last byte was read and its producer ended well."""

    evidence: Evidence = field(default_factory=dict)
    shortfalls: tuple[str, ...] = ()


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
