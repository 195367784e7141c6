"""
Plain bytes to sealed files and back, in one pass and flat memory: zstd, age to two recipients, both hashes in flight.

Knows nothing of sources or remotes. Opened with nothing of ours: `cat NAME.* | age -d -i KEY | zstd -d`.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import subprocess
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import zstandard

from gxbackup.adapters import process
from gxbackup.adapters.process import Child
from gxbackup.errors import EmptyArtifactError, IntegrityError, SealingError, SetupError
from gxbackup.model import Artifact, Capture, SealedFile
from gxbackup.parts import CHUNK_BYTES, DigestBeside, Drain, Feeder, PartWriter, widen
from gxbackup.ports import PlainStream

AGE_HINT = "install the Debian package age (README, Set up a host)"
# age names the file before its own reason; what it says of an artifact never begins so.
_IDENTITY_UNREAD = re.compile(r'^age: error: reading ".*?": (?:failed to read ".*?": )?(.*)$', re.MULTILINE)
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
    writer = PartWriter(target, part_size_bytes)
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
            widen(age.stdin, age.stdout)
            compressor = zstandard.ZstdCompressor(
                level=zstd_level, threads=ZSTD_THREADS, write_checksum=True
            ).compressobj()
            drain = Drain(age.stdout, writer)
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
                _write(age.stdin, None)
            except _AgeEndedError:
                drain.join()
                raise drain.failure or SealingError(
                    f"{capture.name}: age ended early: {age.stderr.read().decode('utf-8', 'replace').strip()}"
                ) from None
            except BaseException:
                # Whatever went wrong, nobody writes any more when the files are taken away.
                process.end(age)
                raise
            finally:
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
        content_sha256=ending.content_sha256 or plain.hexdigest(),
        evidence={**capture.evidence, **ending.evidence},
        shortfalls=ending.shortfalls,
    )


@contextmanager
def unseal(
    artifact: Artifact,
    files: Sequence[Path],
    identity_file: Path,
    packed: IO[bytes] | None = None,
) -> Iterator[Iterator[bytes]]:
    """
    Give the plain bytes of an artifact whose sealed files were checked already.

    The last step of the iterator compares size and sha256 of all that it gave and raises where they differ: what was
    made of the bytes must not be used before the iterator ended (a cut age file yields plausible output first). What
    zstd packed is kept in `packed`, where one is given.

    Raises: SetupError (no identity), SealingError (another identity), IntegrityError.
    """
    check_identity(identity_file)
    read_end, write_end = os.pipe()
    feeder = Feeder(files, write_end)
    try:
        with process.start(
            ["age", "--decrypt", "--identity", identity_file],
            stdin=read_end,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as age:
            os.close(read_end)
            read_end = -1
            assert age.stdout
            widen(write_end, age.stdout)
            feeder.start()
            chunks = _opened(artifact, age, identity_file, packed)
            try:
                yield chunks
            finally:
                chunks.close()  # where the block failed, its thread would live as long as the error that holds it
    finally:
        if read_end >= 0:
            os.close(read_end)
        feeder.stop()


def check_identity(identity_file: Path | None) -> Path:
    """
    Return the age identity file that restores read, after age itself has read it.

    Raises: SetupError where it is unset, absent, open to others, or age cannot read it as an identity.
    """
    hint = "set GX_IDENTITY_FILE to the recovery (or rehearsal) identity, a file of mode 0600"
    if identity_file is None:
        raise SetupError("age identity: GX_IDENTITY_FILE is not set", hint)
    try:
        mode = identity_file.stat().st_mode
    except OSError as error:
        raise SetupError(f"age identity {identity_file}: cannot be read: {error.strerror}", hint) from None
    if mode & 0o077:
        raise SetupError(f"age identity {identity_file}: expected mode 0600, seen {mode & 0o777:04o}", hint)
    if stat.S_ISDIR(mode):
        raise SetupError(f"age identity {identity_file}: expected a file, seen a folder", hint)
    if not stat.S_ISFIFO(mode):  # a pipe gives its bytes once, and who opens the first artifact needs them
        _require_identity(identity_file)
    return identity_file


def _require_identity(identity_file: Path) -> None:
    """Have age read the identity before anything is fetched: it does so before it misses the artifact's header."""
    process.find_program("age", AGE_HINT)
    words = ["age", "--decrypt", "--identity", str(identity_file)]
    _blame_identity(identity_file, process.run(words, timeout_seconds=30, stdin=b"", check=False).complaint())


def _blame_identity(identity_file: Path, complaint: str) -> None:
    """Raise SetupError where age says that it is the identity file which it cannot read."""
    if (unread := _IDENTITY_UNREAD.search(complaint)) is None:
        return
    raise SetupError(
        f"age identity {identity_file}: expected a line AGE-SECRET-KEY-1…, seen none that age can read: {unread[1]}",
        "type it again: one line, capitals, no blank before it, and not the public key (age1…)",
        f"`age-keygen -y {identity_file}` prints its public key once it is right; the inventory lists it in recipients",
    )


def _opened(artifact: Artifact, age: Child, identity_file: Path, packed: IO[bytes] | None) -> Generator[bytes]:
    assert age.stdout and age.stderr
    digest = DigestBeside()
    size_bytes = 0
    digest.start()
    fault: str | None = None
    source = cast(IO[bytes], _Kept(age.stdout, packed)) if packed else age.stdout
    try:
        with zstandard.ZstdDecompressor().stream_reader(
            source, read_size=CHUNK_BYTES, read_across_frames=True, closefd=False
        ) as reader:
            while chunk := reader.read(CHUNK_BYTES):
                size_bytes += len(chunk)
                digest.add(chunk)
                yield chunk
    except zstandard.ZstdError as error:
        fault = f"zstd: {error}"
    finally:
        digest.stop()
    age.stdout.close()
    complaint = age.stderr.read().decode("utf-8", "replace").strip()
    status = age.wait(60)
    _blame_identity(identity_file, complaint)
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


class _Kept:
    """What is read of a pipe, kept in a file too."""

    def __init__(self, pipe: IO[bytes], file: IO[bytes]) -> None:
        self._pipe = pipe
        self._file = file

    def read(self, size_bytes: int) -> bytes:
        """Return the next bytes; empty at the end."""
        piece = self._pipe.read(size_bytes)
        _write(self._file, piece)
        return piece


def _recipient_words(recipients: Sequence[str]) -> list[str]:
    return [word for recipient in recipients for word in ("--recipient", recipient)]


class _AgeEndedError(Exception):
    """Nobody reads age's input any more. A producer may meet a broken pipe of its own, which is another matter."""


def _write(pipe: IO[bytes], data: bytes | None) -> None:
    """Write all of it to age; with None, say that this was all."""
    try:
        if data is None:
            pipe.close()
            return
        rest = memoryview(data)
        while rest:
            rest = rest[pipe.write(rest) :]
    except BrokenPipeError:
        raise _AgeEndedError from None
