"""
What every kind of source guarantees. No knowledge of sealing, remotes or Prefect.

A source is the inventory entry itself: its settings, and how they are collected and restored. Adding a kind is one
file here, one name in `sources/__init__.py`, one inventory entry and one test; `tests/conformance` runs for it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import ClassVar

from gxbackup.adapters.host import Host
from gxbackup.model import Capture, Frozen
from gxbackup.ports import PlainStream, StreamEnd


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


__all__ = ["PlainStream", "Source", "StreamEnd"]
