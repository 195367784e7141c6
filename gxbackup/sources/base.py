"""
What every kind of source guarantees. No knowledge of sealing, remotes or Prefect.

A source is the inventory entry itself: its settings, and how they are collected and restored. Adding a kind is one
file here, one name in `sources/__init__.py`, one inventory entry and one test; `tests/conformance` runs for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

from pydantic import Field, JsonValue

from gxbackup.adapters.host import Host
from gxbackup.fabric.heights import Held
from gxbackup.model import Artifact, Capture, Frozen
from gxbackup.opened import Opened, Opening
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

    def collect_since(self, host: Host, data_type: str, last_good: Sequence[Artifact]) -> list[Capture]:
        """
        Collect, knowing the artifacts of the newest good copy: a differential builds on them.

        Each of them names in `held_in` the snapshot that its files lie in; one that names none is not built upon.
        """
        del last_good
        return self.collect(host, data_type)

    def open(self, host: Host, capture: Capture) -> AbstractContextManager[PlainStream]:
        """Open a capture for its one reading; leaving the block ends the producer, however it was left."""
        raise NotImplementedError


class Work(Frozen):
    """What a restore works with."""

    data_type: str
    opened: tuple[Opened, ...]
    area: Path = Field(description="private staging of this run; gone after it")
    safety_dir: Path = Field(description="where safety copies go; they stay")
    options: dict[str, JsonValue] = Field(default_factory=dict, description="the flow's own parameters, by name")
    here: tuple[Held, ...] = Field(default=(), description="what this server itself holds of a Fabric network")
    elsewhere: tuple[Held, ...] = Field(
        default=(), description="what other servers hold of the same Fabric network, newest first"
    )
    registry_faults: tuple[str, ...] = Field(
        default=(), description="why the database that CAs keep their registry in is not of this snapshot's moment"
    )
    unread: tuple[str, ...] = Field(default=(), description="other servers that could not be asked, each with why")


class Restorable(Source):
    """
    A kind that puts its data back by a server's own programs; file trees have `exchange` and `overlay` instead.

    Called in this order: `select`, then `preview`; for scratch `rehearse`; in place, once a person approved, `apply`.
    """

    opens: ClassVar[Opening] = "plain"
    """
    How its artifacts lie in staging when it gets them: what is large is written out in full for a rehearsal alone.

    What is left sealed is proven by `preview`, and again where it is put back, before it takes anything's place.
    """

    def select(self, artifacts: Sequence[Artifact], options: dict[str, JsonValue]) -> tuple[Artifact, ...]:
        """Return the artifacts that a restore with these options needs; RestoreRefusedError where there is none."""
        del options
        return tuple(artifacts)

    def target(self, work: Work) -> str:
        """Spell what would be overwritten, on one line, as a person types it for approval."""
        raise NotImplementedError

    def preview(self, host: Host, work: Work) -> list[str]:
        """
        Say in a few lines what `apply` would do: what is overwritten, what is there now. Changes nothing.

        Raises: RestoreRefusedError for all that `apply` would refuse.
        """
        raise NotImplementedError

    def rehearse(self, host: Host, work: Work) -> list[str]:
        """
        Restore to a throwaway server that this starts and always removes, and compare evidence; say what was compared.

        Raises: RestoreError, IntegrityError naming the first difference. Never touches what is protected.
        """
        raise NotImplementedError

    def apply(self, host: Host, work: Work) -> list[str]:
        """
        Restore in place: safety copy, quiesce, put in, compare with the evidence, start again; say what was done.

        On failure the safety copy is put back; cut short (-9) and run again, it ends well. Raises: RestoreError,
        RestoreRefusedError before anything is touched.
        """
        raise NotImplementedError


__all__ = ["Opened", "PlainStream", "Restorable", "Source", "StreamEnd", "Work"]
