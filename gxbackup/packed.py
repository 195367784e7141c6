"""A file as zstd packed it, read as what it unpacks to: it lies on the disk small, and goes on a slow way as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import zstandard

from gxbackup.errors import IntegrityError, StagingError

CHUNK_BYTES = 1024 * 1024
DISK_HINT = "start the restore again; is the disk of the staging area healthy? see dmesg"


class PackedFile(NamedTuple):
    """A packed file, whose plain bytes were proven when it was made."""

    path: Path
    plain_size_bytes: int

    def chunks(self) -> Iterator[bytes]:
        """Yield the plain bytes, in flat memory. Raises: IntegrityError where the disk gives back something else."""
        seen_bytes = 0
        try:
            with (
                self.path.open("rb", buffering=0) as packed,
                zstandard.ZstdDecompressor().stream_reader(
                    packed, read_size=CHUNK_BYTES, read_across_frames=True
                ) as reader,
            ):
                while chunk := reader.read(CHUNK_BYTES):
                    seen_bytes += len(chunk)
                    yield chunk
        except (OSError, zstandard.ZstdError) as error:
            raise IntegrityError(f"{self.path}: cannot be unpacked again: {error}", DISK_HINT, retryable=True) from None
        if seen_bytes != self.plain_size_bytes:
            raise IntegrityError(
                f"{self.path}: expected {self.plain_size_bytes} plain bytes, seen {seen_bytes}",
                DISK_HINT,
                retryable=True,
            )

    def beginning(self, size_bytes: int) -> bytes:
        """Return the first plain bytes, or all where there are no more. Raises: IntegrityError, see `chunks`."""
        begun = bytearray()
        for chunk in self.chunks():
            begun += chunk
            if len(begun) >= size_bytes:
                break
        return bytes(memoryview(begun)[:size_bytes])

    def unpack(self, file: Path) -> None:
        """Write the plain bytes to a new file. Raises: StagingError; IntegrityError, see `chunks`."""
        try:
            with file.open("xb", buffering=0) as plain:
                for chunk in self.chunks():
                    rest = memoryview(chunk)
                    while rest:
                        rest = rest[plain.write(rest) :]
        except OSError as error:
            raise StagingError(
                f"{file}: cannot be written: {error.strerror}", "make room, or set GX_STAGING_DIR to a larger disk"
            ) from None


def path_of(file: Path | PackedFile) -> Path:
    """Return where a file lies."""
    return file.path if isinstance(file, PackedFile) else file


def plain_size_bytes(file: Path | PackedFile) -> int:
    """Return how many plain bytes a file holds."""
    return file.plain_size_bytes if isinstance(file, PackedFile) else file.stat().st_size


def plain_pieces(file: Path | PackedFile) -> Iterator[bytes]:
    """Yield a file's plain bytes. Raises: OSError; IntegrityError where it cannot be unpacked."""
    if isinstance(file, PackedFile):
        yield from file.chunks()
        return
    with file.open("rb", buffering=0) as source:
        while chunk := source.read(CHUNK_BYTES):
            yield chunk
