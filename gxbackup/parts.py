"""
The threads and files around age: sealed bytes into parts on the disk, and parts back into one stream.

Knows nothing of what is sealed. `cat NAME.*` joins the parts.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import queue
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from gxbackup import layout
from gxbackup.errors import CollectError, StagingError
from gxbackup.model import Part

CHUNK_BYTES = 1024 * 1024
PIECES_AHEAD = 4


def widen(*pipes: int | IO[bytes]) -> None:
    """Let pipes hold a whole chunk each: at the kernel's 64 KiB, age and its neighbours mostly wait for each other."""
    for pipe in pipes:
        with suppress(PermissionError):  # a user other than root has a limit for all pipes together
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, CHUNK_BYTES)


class PartWriter:
    """Writes sealed bytes to one file, or to parts once it passes the part size; hashes each and the whole."""

    def __init__(self, target: Path, part_size_bytes: int) -> None:
        self.target = target
        self.part_size_bytes = part_size_bytes
        self.size_bytes = 0
        self.whole = hashlib.sha256()
        self._parts: list[tuple[int, str]] = []
        self._files: list[Path] = []
        self._begin()

    def _begin(self) -> None:
        number = len(self._parts)
        if number == 1:
            first = Path(layout.part_path(str(self.target), 0))
            self.target.rename(first)
            self._files[0] = first
        file = Path(layout.part_path(str(self.target), number)) if number else self.target
        self._files.append(file)
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._digest = hashlib.sha256()
        self._size = 0

    def write(self, chunk: memoryview) -> None:
        """Append a chunk, beginning a new part wherever one is full."""
        while chunk:
            if self._size == self.part_size_bytes:
                self._end()
                self._begin()
            piece = chunk[: self.part_size_bytes - self._size]
            count = os.write(self._file, piece)
            self.whole.update(piece[:count])
            if self._parts:  # the digest of the first part is the whole's own, as far as it has come
                self._digest.update(piece[:count])
            self._size += count
            self.size_bytes += count
            chunk = chunk[count:]

    def _end(self) -> None:
        os.close(self._file)
        digest = self._digest if self._parts else self.whole
        self._parts.append((self._size, digest.copy().hexdigest()))
        self._file = -1

    def close(self, path: str) -> tuple[Part, ...]:
        """End the last part and return all, with paths relative to the snapshot."""
        self._end()
        many = len(self._parts) > 1
        return tuple(
            Part(path=layout.part_path(path, number) if many else path, size_bytes=size, sha256=sha256)
            for number, (size, sha256) in enumerate(self._parts)
        )

    def discard(self) -> None:
        """Leave nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        for file in self._files:
            file.unlink(missing_ok=True)


class Drain(threading.Thread):
    """Carries age's output to the part writer, beside the thread that feeds age."""

    def __init__(self, pipe: IO[bytes], writer: PartWriter) -> None:
        super().__init__(name="sealed bytes", daemon=True)
        self.failure: Exception | None = None
        self._pipe = pipe
        self._writer = writer

    def run(self) -> None:
        """Carry to the end; what went wrong is left in `failure`."""
        buffer = memoryview(bytearray(CHUNK_BYTES))
        try:
            while count := self._pipe.readinto(buffer):  # type: ignore[attr-defined]
                self._writer.write(buffer[:count])
        except OSError as error:
            self.failure = _staging_failure(error, self._writer.target)
            self._pipe.close()  # age is told by SIGPIPE, and whoever feeds it in turn
        except ValueError as error:
            self.failure = CollectError(f"{self._writer.target.name}: cut short: {error}")


def _staging_failure(error: OSError, target: Path) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StagingError(
            f"staging {target.parent}: no room left while writing {target.name}",
            "make room, or set GX_STAGING_DIR to a larger disk",
        )
    return StagingError(f"staging {target}: {error.strerror}", "is the disk healthy? see dmesg", retryable=True)


class DigestBeside(threading.Thread):
    """Takes the sha256 of pieces beside the thread that hands them on: neither waits for the other, but for a few."""

    def __init__(self) -> None:
        super().__init__(name="sha256", daemon=True)
        self._digest = hashlib.sha256()
        self._pieces: queue.Queue[bytes | None] = queue.Queue(PIECES_AHEAD)

    def add(self, piece: bytes) -> None:
        """Take the next piece."""
        self._pieces.put(piece)

    def run(self) -> None:
        """Digest until `hexdigest` or `stop`."""
        while (piece := self._pieces.get()) is not None:
            self._digest.update(piece)

    def hexdigest(self) -> str:
        """Return the digest of all that was added; nothing may be added after it."""
        self.stop()
        return self._digest.hexdigest()

    def stop(self) -> None:
        """End; once is enough, and more do no harm."""
        if self.is_alive():
            self._pieces.put(None)
            self.join()


class Feeder(threading.Thread):
    """Joins the parts of an artifact into age's input."""

    def __init__(self, files: Sequence[Path], pipe: int) -> None:
        super().__init__(name="sealed parts", daemon=True)
        self._files = files
        self._pipe = pipe

    def run(self) -> None:
        """Feed until the last part ends or the reader goes."""
        try:
            for file in self._files:
                with file.open("rb", buffering=0) as source:
                    while os.splice(source.fileno(), self._pipe, CHUNK_BYTES):
                        pass
        except OSError:
            # The reader has gone, or the file cannot be read: either way age sees a cut input and says so.
            return
        finally:
            os.close(self._pipe)

    def stop(self) -> None:
        """Wait for the end; whoever reads the pipe has gone already."""
        if self.ident is None:
            os.close(self._pipe)
        else:
            self.join()
