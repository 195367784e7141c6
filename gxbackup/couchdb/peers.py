"""The peers that use a CouchDB, stopped while it is restored, and given back the pods they had."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from gxbackup.errors import BackupError, RestoreError
from gxbackup.safety import require_private


class StatefulSets(Protocol):
    """What of a cluster is needed here."""

    def replicas(self, namespace: str, name: str) -> int:
        """Return how many pods one should have."""

    def scale(self, namespace: str, name: str, replicas: int) -> None:
        """Give one so many pods; BackupError where they do not become ready."""


@contextmanager
def peers_stopped(sets: StatefulSets, namespace: str, peers: Sequence[str], noted: Path) -> Iterator[None]:
    """
    Stop peers for the length of a block; each gets back the pods it had, and one that had none stays stopped.

    How many they had is in the file `noted` until all of them have them again: so that the run after a killed one
    knows. Every peer is started, whatever became of another. Raises: RestoreError where one does not become ready;
    the block's own error goes first and has the peers' as hints.
    """
    if not peers:
        yield
        return
    before = _noted(noted)
    pods = {name: sets.replicas(namespace, name) or before.get(name, 0) for name in peers}
    _note(noted, {**before, **pods})
    try:
        for name in peers:
            sets.scale(namespace, name, 0)
        yield
    except BaseException as error:
        failed = _start(sets, namespace, pods, noted)
        if isinstance(error, BackupError):
            error.hints = (*error.hints, *failed)
        else:
            for line in failed:
                error.add_note(line)
        raise
    if failed := _start(sets, namespace, pods, noted):
        raise RestoreError(f"the databases are restored, and not every peer is back: {failed[0]}", *failed[1:])


def _start(sets: StatefulSets, namespace: str, pods: dict[str, int], noted: Path) -> list[str]:
    """Give each peer its pods, one try each; say which are not ready. The note goes once all are."""
    failed = []
    for name, count in pods.items():
        try:
            sets.scale(namespace, name, count)
        except BackupError as error:
            failed.append(f"peer {name} was given {count} pods again: {error.message}")
    if not failed:
        noted.unlink()
    return failed


def _noted(noted: Path) -> dict[str, int]:
    counts: dict[str, int] = json.loads(noted.read_text()) if noted.exists() else {}
    return counts


def _note(noted: Path, pods: dict[str, int]) -> None:
    """Write it whole: it is on disk before the first peer is stopped."""
    require_private(noted.parent)
    half = noted.with_name(f"{noted.name}.half")
    with half.open("w") as file:
        json.dump(pods, file)
        file.flush()
        os.fsync(file.fileno())
    half.replace(noted)
