"""
Plain bytes to sealed files and back, in one pass and flat memory: zstd, age to two recipients, both hashes in flight.

Knows nothing of sources or remotes. Opened with nothing of ours: `cat NAME.* | age -d -i KEY | zstd -d`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import zstandard

from gxbackup import layout
from gxbackup.adapters import process
from gxbackup.adapters.process import Child
from gxbackup.errors import CollectError, EmptyArtifactError, IntegrityError, SealingError, SetupError, StagingError
from gxbackup.model import Artifact, Capture, Part, SealedFile
from gxbackup.ports import PlainStream

CHUNK_BYTES = 1024 * 1024
AGE_HINT = "install the Debian package age (README, Set up a host)"
# Two workers keep the two cores of the smallest host busy; more only cost memory.
ZSTD_THREADS = max(1, min(4, os.cpu_count() or 1))


def check_recipients(recipients: Sequence[str]) -> None:
    """
    Seal nothing to these recipients, so that a wrong one is known before anything is read.

    Raises: SealingError with age's own words, SetupError where age is missing.
    """
    process.find_program("age", AGE_HINT)
    done = process.run(["age", *_recipient_words(recipients)], timeout_seconds=30, stdin=b"", check=False)
    if done.returncode != 0:
        raise SealingError(
            f"recipients: age refuses them: {done.complaint()}",
            "compare recipients in the inventory with the public key that `age-keygen -y IDENTITY_FILE` prints",
        )


def seal(
    stream: PlainStream,
    capture: Capture,
    path: str,
    staging: Path,
    recipients: Sequence[str],
    zstd_level: int,
    part_size_bytes: int,
) -> SealedFile:
    """
    Read a stream once to its end and leave it sealed at `staging/path`, in parts where it is large.

    On failure nothing of it is left in staging.

    Raises: EmptyArtifactError, CollectError (the producer's), SealingError, StagingError where the disk is full.
    """
    target = staging / path
    target.parent.mkdir(parents=True, exist_ok=True)
    writer = _PartWriter(target, part_size_bytes)
    plain = hashlib.sha256()
    plain_size_bytes = 0
    try:
        with process.start(
            ["age", *_recipient_words(recipients)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as age:
            assert age.stdin and age.stdout and age.stderr
            compressor = zstandard.ZstdCompressor(
                level=zstd_level, threads=ZSTD_THREADS, write_checksum=True
            ).compressobj()
            drain = _Drain(age.stdout, writer)
            drain.start()
            try:
                buffer = memoryview(bytearray(CHUNK_BYTES))
                while count := stream.readinto(buffer):
                    plain.update(buffer[:count])
                    plain_size_bytes += count
                    _write(age.stdin, compressor.compress(buffer[:count]))
                ending = stream.finish()
                if plain_size_bytes == 0:
                    raise EmptyArtifactError(
                        f"{capture.data_type}: {capture.name}: expected data, seen 0 bytes",
                        "an empty artifact would look like a backup; is the source really empty?",
                    )
                _write(age.stdin, compressor.flush())
                age.stdin.close()
            except BrokenPipeError:
                drain.join()
                raise drain.failure or SealingError(
                    f"{capture.name}: age ended early: {age.stderr.read().decode('utf-8', 'replace').strip()}"
                ) from None
            drain.join()
            if drain.failure is not None:
                raise drain.failure
            if (status := age.wait(60)) != 0:
                raise SealingError(
                    f"{capture.name}: age: expected exit status 0, seen {status}: "
                    f"{age.stderr.read().decode('utf-8', 'replace').strip()}"
                )
        parts = writer.close(path)
    except BaseException:
        writer.discard()
        raise
    return SealedFile(
        capture=capture,
        path=path,
        parts=parts,
        sealed_size_bytes=writer.size_bytes,
        sealed_sha256=writer.whole.hexdigest(),
        plain_size_bytes=plain_size_bytes,
        plain_sha256=plain.hexdigest(),
        evidence={**capture.evidence, **ending.evidence},
        shortfalls=ending.shortfalls,
    )


@contextmanager
def unseal(artifact: Artifact, files: Sequence[Path], identity_file: Path) -> Iterator[Iterator[bytes]]:
    """
    Give the plain bytes of an artifact whose sealed files were checked already.

    The last step of the iterator compares size and sha256 of all that it gave and raises where they differ: what was
    made of the bytes must not be used before the iterator ended (a cut age file yields plausible output first).

    Raises: SealingError (wrong identity), IntegrityError.
    """
    check_identity(identity_file)
    read_end, write_end = os.pipe()
    feeder = _Feeder(files, write_end)
    try:
        with process.start(
            ["age", "--decrypt", "--identity", identity_file],
            stdin=read_end,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as age:
            os.close(read_end)
            read_end = -1
            feeder.start()
            yield _opened(artifact, age)
    finally:
        if read_end >= 0:
            os.close(read_end)
        feeder.stop()


def check_identity(identity_file: Path | None) -> Path:
    """Return the age identity file that restores read; SetupError where it is unset, absent or open to others."""
    hint = "set GX_IDENTITY_FILE to the recovery (or rehearsal) identity, a file of mode 0600"
    if identity_file is None:
        raise SetupError("age identity: GX_IDENTITY_FILE is not set", hint)
    try:
        mode = identity_file.stat().st_mode
    except OSError as error:
        raise SetupError(f"age identity {identity_file}: cannot be read: {error.strerror}", hint) from None
    if mode & 0o077:
        raise SetupError(f"age identity {identity_file}: expected mode 0600, seen {mode & 0o777:04o}", hint)
    return identity_file


def _opened(artifact: Artifact, age: Child) -> Iterator[bytes]:
    assert age.stdout and age.stderr
    digest = hashlib.sha256()
    size_bytes = 0
    fault: str | None = None
    try:
        with zstandard.ZstdDecompressor().stream_reader(
            age.stdout, read_size=CHUNK_BYTES, read_across_frames=True, closefd=False
        ) as reader:
            while chunk := reader.read(CHUNK_BYTES):
                digest.update(chunk)
                size_bytes += len(chunk)
                yield chunk
    except zstandard.ZstdError as error:
        fault = f"zstd: {error}"
    age.stdout.close()
    complaint = age.stderr.read().decode("utf-8", "replace").strip()
    status = age.wait(60)
    if "no identity matched" in complaint:
        raise SealingError(
            f"{artifact.path}: sealed to other recipients than this identity",
            "was the right identity file given? recipients are listed in the inventory",
        )
    if status != 0 and fault is None:
        fault = f"age: exit status {status}: {complaint}"
    if fault is None and (size_bytes, digest.hexdigest()) != (artifact.plain_size_bytes, artifact.plain_sha256):
        fault = (
            f"expected {artifact.plain_size_bytes} plain bytes with sha256 {artifact.plain_sha256}, "
            f"seen {size_bytes} with {digest.hexdigest()}"
        )
    if fault is not None:
        raise IntegrityError(f"{artifact.path}: {fault}", "choose an older snapshot; this one is not to be trusted")


def _recipient_words(recipients: Sequence[str]) -> list[str]:
    return [word for recipient in recipients for word in ("--recipient", recipient)]


def _write(pipe: IO[bytes], data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[pipe.write(rest) :]


class _PartWriter:
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


class _Drain(threading.Thread):
    """Carries age's output to the part writer, beside the thread that feeds age."""

    def __init__(self, pipe: IO[bytes], writer: _PartWriter) -> None:
        super().__init__(name="sealed bytes", daemon=True)
        self.failure: Exception | None = None
        self._pipe = pipe
        self._writer = writer

    def run(self) -> None:
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


class _Feeder(threading.Thread):
    """Joins the parts of an artifact into age's input."""

    def __init__(self, files: Sequence[Path], pipe: int) -> None:
        super().__init__(name="sealed parts", daemon=True)
        self._files = files
        self._pipe = pipe

    def run(self) -> None:
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
