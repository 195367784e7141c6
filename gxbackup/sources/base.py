"""
What every kind of source guarantees. No knowledge of sealing, remotes or Prefect.

A source is the inventory entry itself: its settings, and how they are collected and restored. Adding a kind is one
file here, one name in `sources/__init__.py`, one inventory entry and one test; `tests/conformance` runs for it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

from gxbackup.adapters.host import Host
from gxbackup.model import Capture, Evidence, Frozen


@dataclass(frozen=True)
class StreamEnd:
    """What a stream says once its last byte was read and its producer ended well."""

    evidence: Evidence = field(default_factory=dict)
    shortfalls: tuple[str, ...] = ()


@runtime_checkable
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


class Source(Frozen):
    """
    How a kind of data is collected and opened for reading.

    Guarantees: `collect` changes nothing on the server that it does not undo, and raises SourceMissingError where
    there is nothing to capture; an empty result is an error (`seal` holds that); no secret in argv, logs or captures;
    a producer that ends badly raises in `finish`, never a shorter stream that looks whole.
    """

    default_folder: ClassVar[str]

    def collect(self, host: Host, data_type: str) -> list[Capture]:
        """Find the thing, make it consistent, take the evidence; one Capture for each artifact."""
        raise NotImplementedError

    def open(self, host: Host, capture: Capture) -> AbstractContextManager[PlainStream]:
        """Open a capture for its one reading; leaving the block ends the producer, however it was left."""
        raise NotImplementedError
