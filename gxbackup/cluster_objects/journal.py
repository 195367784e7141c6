"""
What a restore of objects overwrites and creates, kept so that it can be undone.

    SAFETY_DIR/objects-20261122T020000.000000Z/before.jsonl    each object as it was, one a line; Secrets too: 0600
    SAFETY_DIR/objects-20261122T020000.000000Z/created.jsonl   what was not there before

Opened with nothing of ours: `kubectl replace -f before.jsonl`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from gxbackup import clock
from gxbackup.adapters.kubernetes_objects import ObjectApi
from gxbackup.cluster_objects.naming import Kind, Object, name_of
from gxbackup.errors import BackupError
from gxbackup.safety import require_private


class Journal:
    """The safety copy of one run; `made` are the objects that it has created, in their order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._undo: list[tuple[str, Callable[[ObjectApi], None]]] = []
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

        def replace(api: ObjectApi) -> None:
            with self.copies.open("rb") as copies:
                copies.seek(begin)
                api.replace(kind, json.loads(copies.readline()))

        self._undo.append((name_of(live), replace))

    def created(self, kind: Kind, made: Object) -> None:
        """Note an object that this run has created."""
        metadata = made["metadata"]
        namespace, name, uid = metadata.get("namespace"), metadata["name"], metadata["uid"]
        noted = {key: metadata[key] for key in ("namespace", "name", "uid") if key in metadata}
        self.made.append((kind, {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": noted}))
        _append(self._created, self.made[-1][1])
        self._undo.append((name_of(made), lambda api: api.delete(kind, namespace, name, uid)))

    def put_back(self, api: ObjectApi) -> str:
        """
        Make all as it was, the last change first, as far as the server lets it; say how far that was.

        Never raises for an object: the others are put back too, and the failure that led here is the one to tell.
        """
        failed = []
        for name, undo in reversed(self._undo):
            try:
                undo(api)
            except BackupError as error:
                failed.append(f"{name}: {error.message}")
        if failed:
            return f"{len(failed)} objects could not be put back: {'; '.join(failed[:5])}; copies lie in {self._folder}"
        self.close()
        kept = f"; what was overwritten lies in {self.copies}" if self.copies.exists() else ""
        return f"all was put back as it was{kept}"

    def close(self) -> None:
        """Leave nothing behind of a run that overwrote and created nothing."""
        if not any(self._folder.iterdir()):
            self._folder.rmdir()


def _append(file: Path, line: Object) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as opened:
        opened.write(json.dumps(line, sort_keys=True, ensure_ascii=False).encode() + b"\n")
        opened.flush()
        os.fsync(opened.fileno())
