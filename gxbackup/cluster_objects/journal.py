"""
What a restore of objects overwrites and creates, kept so that it can be undone.

    SAFETY_DIR/objects-20261122T020000.000000Z/before.jsonl    each object as it was, one a line; Secrets too: 0600
    SAFETY_DIR/objects-20261122T020000.000000Z/created.jsonl   what was not there before

Opened with nothing of ours: `kubectl replace -f before.jsonl`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gxbackup import clock
from gxbackup.adapters.kubernetes_objects import ObjectApi
from gxbackup.cluster_objects import volumes
from gxbackup.cluster_objects.naming import Kind, Object, listed, name_of
from gxbackup.cluster_objects.strangers import strangers
from gxbackup.errors import BackupError, RestoreError
from gxbackup.safety import require_private

FINALIZERS_TIMEOUT_SECONDS = 30
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class _Step:
    """How one change is undone; `holds_data`: that deletes an object on which the data in a volume may depend."""

    name: str
    undo: Callable[[ObjectApi], None]
    holds_data: bool = False


class Journal:
    """The safety copy of one run; `made` are the objects that it has created, in their order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._undo: list[_Step] = []
        self._retained: list[str] = []
        self._in_use: dict[str, None] = {}  # volumes that this run has created, or has created a claim of
        self._ending: list[tuple[Kind, Object]] = []  # deleted, and waiting for their finalizers
        self.made: list[tuple[Kind, Object]] = []
        self.copies = folder / "before.jsonl"
        self._created = folder / "created.jsonl"

    @classmethod
    def begin(cls, safety_dir: Path) -> Journal:
        """Make the folder of a run; RestoreRefusedError where the directory is open to others."""
        require_private(safety_dir)
        folder = safety_dir / f"objects-{clock.now():%Y%m%dT%H%M%S.%fZ}"
        folder.mkdir(mode=0o700)
        return cls(folder)

    def keep(self, kind: Kind, live: Object) -> None:
        """Copy an object to safety before it is overwritten; it is on disk when this returns."""
        begin = self.copies.stat().st_size if self.copies.exists() else 0
        _append(self.copies, live)
        live_name = live["metadata"]["name"]

        def replace(api: ObjectApi) -> None:
            with self.copies.open("rb") as copies:
                copies.seek(begin)
                earlier = json.loads(copies.readline())
            if kind.kind == "PersistentVolume" and live_name in self._retained:
                earlier["spec"]["persistentVolumeReclaimPolicy"] = "Retain"
            api.replace(kind, earlier)

        self._undo.append(_Step(name_of(live), replace))

    def created(self, kind: Kind, made: Object) -> None:
        """Note an object that this run has created."""
        metadata = made["metadata"]
        namespace, name, uid = metadata.get("namespace"), metadata["name"], metadata["uid"]
        noted = {key: metadata[key] for key in ("namespace", "name", "uid") if key in metadata}
        self.made.append((kind, {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": noted}))
        _append(self._created, self.made[-1][1])
        if volume := volumes.volume_of(made):
            self._in_use[volume] = None

        def delete(api: ObjectApi) -> None:
            if kind.kind == "Namespace":
                self._require_own(api, name)
            if api.delete(kind, namespace, name, uid):
                self._ending.append((kind, made))

        self._undo.append(_Step(name_of(made), delete, kind.kind in volumes.HOLDING_DATA))

    def put_back(self, api: ObjectApi, *, is_patient: bool = True) -> str:
        """
        Make all as it was, the last change first, as far as the server lets it; say how far that was.

        Volumes get the reclaim policy Retain before anything is deleted; where one does not, no volume, claim and
        namespace is deleted. Nor is a namespace that holds what this run has not made. Never raises for an object: the
        others are put back too, and the failure that led here is the one to tell.

        `is_patient`: what waits for its finalizers is waited for; it is named where it is not gone then.
        """
        self._retained, failed = volumes.retain(api, self._in_use)
        is_data_at_risk = bool(failed)
        for step in reversed(self._undo):
            if step.holds_data and is_data_at_risk:
                failed.append(f"{step.name}: stays, so that no volume loses its data")
                continue
            try:
                step.undo(api)
            except BackupError as error:
                failed.append(f"{step.name}: {error.message}")
        made = {one["metadata"]["name"] for kind, one in self.made if kind.kind == "PersistentVolume"}
        others = [name for name in self._retained if name not in made]
        told = f"; reclaim policy Retain stays on PersistentVolume {', '.join(others)}" if others else ""
        waiting = self._await_gone(api, FINALIZERS_TIMEOUT_SECONDS if is_patient else 0)
        if waiting:
            told = f"; {len(waiting)} objects are being deleted, and still have finalizers: {listed(waiting)}{told}"
        if failed:
            first = "; ".join(failed[:5])
            return f"{len(failed)} objects could not be put back: {first}; copies lie in {self._folder}{told}"
        self.close()
        kept = f"; what was overwritten lies in {self.copies}" if self.copies.exists() else ""
        return f"{'the rest was' if waiting else 'all was'} put back as it was{kept}{told}"

    def _await_gone(self, api: ObjectApi, timeout_seconds: float) -> list[str]:
        """Wait for what was deleted until it is gone; return what is not in time, and what it waits for."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            held = [said for kind, made in self._ending if (said := _held(api, kind, made))]
            if not held or time.monotonic() > deadline:
                return held
            time.sleep(POLL_SECONDS)

    def _require_own(self, api: ObjectApi, namespace: str) -> None:
        """Raise RestoreError where a namespace holds what others have put there: it would go with it."""
        if found := strangers(api, namespace, [made for _, made in self.made]):
            raise RestoreError(f"stays, since it holds what this run has not made: {listed(found)}")

    def close(self) -> None:
        """Leave nothing behind of a run that overwrote and created nothing."""
        if not any(self._folder.iterdir()):
            self._folder.rmdir()


def _held(api: ObjectApi, kind: Kind, made: Object) -> str:
    """Name an object that is still there with its finalizers; one that is gone: empty."""
    metadata = made["metadata"]
    try:
        live = api.read(kind, metadata.get("namespace"), metadata["name"])
    except BackupError as error:
        return f"{name_of(made)} (cannot be told: {error.message})"
    if live is None or live["metadata"]["uid"] != metadata["uid"]:
        return ""
    return f"{name_of(made)} ({', '.join(live['metadata'].get('finalizers') or ('none is left',))})"


def _append(file: Path, line: Object) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as opened:
        opened.write(json.dumps(line, sort_keys=True, ensure_ascii=False).encode() + b"\n")
        opened.flush()
        os.fsync(opened.fileno())
