"""
Manifests that this host has read before, so that a run reads from the remote only those that it has not seen.

Found by the sha256 that the remote itself lists: one that was changed there has another, and is read anew. Nothing is
trusted for lying here: content is held against its name, and the signature is checked again, each time. A cache that
is lost, damaged or cannot be written costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from gxbackup.inventory import Inventory
from gxbackup.staging import staging_root


class ManifestCache:
    """The files of one server's manifests, each under the sha256 of its content."""

    def __init__(self, inventory: Inventory, server: str) -> None:
        key = hashlib.sha256(inventory.remote.path.encode()).hexdigest()[:12]
        self._folder = staging_root() / "manifests" / f"{server}-{key}"
        self._used: set[str] = set()

    def find(self, sha256: str | None) -> bytes | None:
        """Return the content with this hash, or None where it is not here, or no longer what it was."""
        if sha256 is None:
            return None
        try:
            body = (self._folder / sha256).read_bytes()
        except OSError:
            return None
        return body if hashlib.sha256(body).hexdigest() == sha256 else None

    def keep(self, sha256: str | None, file: Path) -> None:
        """Keep the content of a file that turned out to be trusted, where the remote told its hash."""
        if sha256 is None:
            return
        self._used.add(sha256)
        body = file.read_bytes()
        if self.find(sha256) is not None or hashlib.sha256(body).hexdigest() != sha256:
            return
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, growing = tempfile.mkstemp(dir=self._folder)
            with os.fdopen(handle, "wb") as written:
                written.write(body)
            Path(growing).rename(self._folder / sha256)

    def forget_others(self) -> None:
        """Drop all that was not kept since this cache was opened: it is no longer on the remote."""
        with suppress(OSError):
            for file in self._folder.iterdir():
                if file.name not in self._used:
                    file.unlink(missing_ok=True)
