"""
Reads the contents of files in a tar stream as it passes by, in flat memory; `tarstream` reads the headers alone.

For trees of small files whose contents are evidence: certificates, keys, settings. Unpacks nothing.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import threading
from collections.abc import Callable
from contextlib import suppress

from gxbackup.errors import CollectError

CHUNK_BYTES = 256 * 1024
KEPT_BYTES = 1024**2
_MODULUS = 1 << 256


class TarContents(threading.Thread):
    """
    Hands every regular file smaller than KEPT_BYTES to `on_file(name, content)`, from a thread of its own.

    `content_sha256` names the tree's content whatever its order and times: names, modes, owners and bytes. Read it
    after `finish`.
    """

    def __init__(self, on_file: Callable[[str, bytes], None]) -> None:
        super().__init__(name="tar contents", daemon=True)
        self._on_file = on_file
        self._reading, self._writing = os.pipe()
        self._sum = 0
        self._failure: Exception | None = None
        self._is_closed = False

    @property
    def content_sha256(self) -> str:
        """Return the digest of all that was read."""
        return f"{self._sum:064x}"

    def feed(self, chunk: memoryview) -> None:
        """Take the next bytes of the stream."""
        while chunk:
            chunk = chunk[os.write(self._writing, chunk) :]

    def finish(self) -> None:
        """Wait until all was read; CollectError (retryable) where it is no whole tar."""
        self.close()
        if self._failure is not None:
            raise CollectError(f"tar: cannot be read: {self._failure}", retryable=True)

    def close(self) -> None:
        """End the thread; harmless to call again."""
        if not self._is_closed:
            self._is_closed = True
            os.close(self._writing)
        self.join()

    def run(self) -> None:
        """Read to the end, whatever comes: who writes must not be held up."""
        with os.fdopen(self._reading, "rb") as stream:
            try:
                with tarfile.open(fileobj=stream, mode="r|") as tar:
                    for member in tar:
                        self._read(tar, member)
            except Exception as error:  # noqa: BLE001 - also of who looks at the files; `finish` tells it
                self._failure = error
            with suppress(OSError):
                while stream.read(CHUNK_BYTES):
                    pass

    def _read(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        digest = hashlib.sha256()
        content = tar.extractfile(member) if member.isreg() else None
        if content is not None:
            kept = bytearray()
            while piece := content.read(CHUNK_BYTES):
                digest.update(piece)
                if member.size < KEPT_BYTES:
                    kept += piece
            if member.size < KEPT_BYTES:
                self._on_file(member.name.removeprefix("./"), bytes(kept))
        told = f"{member.name} {member.type!r} {member.mode:o} {member.uid} {member.gid} {member.linkname}"
        one = hashlib.sha256(f"{told} {digest.hexdigest()}".encode("utf-8", "surrogateescape")).digest()
        self._sum = (self._sum + int.from_bytes(one, "big")) % _MODULUS
