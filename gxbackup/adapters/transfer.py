"""
Bytes out of a place and into it that are never fewer than were sent: the shell lines beside a command, and their ends.

A stream that ends early looks like one that ended. Therefore each command's output is digested beside the command, and
both the digest and the exit status are told on stderr: where either is absent, the stream was cut. On a slow way it is
packed by the place's own zstd, and the digest is that of the packed bytes.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple, Protocol, cast

import zstandard

from gxbackup.errors import CommandError, IntegrityError
from gxbackup.packed import PackedFile, path_of, plain_pieces, plain_size_bytes
from gxbackup.ports import Running, StreamEnd

CHUNK_BYTES = 1024 * 1024
# How long a command may take to end once all its output was read.
END_TIMEOUT_SECONDS = 120
PACK_LEVEL = 1
# Packing must pay: what shrinks less than this goes as it is.
WORTH_PACKING = 0.9


class Digest(Protocol):
    """A digest under way."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take more bytes."""

    def hexdigest(self) -> str:
        """Spell it as sha256sum and b2sum do."""
        ...


# b2sum takes a third of the time of sha256sum, which busybox has alone; both are made to see loss, not malice.
_DIGESTS: dict[str, Callable[[], Digest]] = {"b2sum": hashlib.blake2b, "sha256sum": hashlib.sha256}
PROBE = "command -v b2sum >/dev/null && echo b2sum || echo sha256sum; command -v zstd >/dev/null && echo zstd || :"
# tee opens a pipe that this shell made itself: the one that leads out may belong to another user. Its own end is told
# too: were it killed behind a command that has ended, both sides would have the digest of the same too few bytes.
# Each word has a line of its own, whatever the command left unfinished on stderr.
_READ = """exec 4>&1; digest=$1; shift
{ { "$@" 3>&- 4>&-; printf '\\ngx-status %s\\n' "$?" >&2; } |
    { tee /dev/fd/3 >&4; printf '\\ngx-passed %s\\n' "$?" >&2; }; } 3>&1 |
    "$digest" | { read -r sum _; printf '\\ngx-digest %s\\n' "$sum" >&2; }"""
_READ_PACKED = """exec 4>&1; digest=$1; level=$2; shift 2
{ { "$@" 3>&- 4>&-; printf '\\ngx-status %s\\n' "$?" >&2; } |
    { zstd -q -c "-$level" 3>&- 4>&-; printf '\\ngx-packed %s\\n' "$?" >&2; } |
    { tee /dev/fd/3 >&4; printf '\\ngx-passed %s\\n' "$?" >&2; }; } 3>&1 |
    "$digest" | { read -r sum _; printf '\\ngx-digest %s\\n' "$sum" >&2; }"""
# Where stdin cannot be ended, its length is told first.
_WRITE = """exec 4>&1; digest=$1; size=$2; shift 2
{ head -c "$size" | tee /dev/fd/3 | { "$@" >&4 3>&- 4>&-; printf '\\ngx-status %s\\n' "$?" >&2; }; } 3>&1 |
    "$digest" | { read -r sum _; printf '\\ngx-digest %s\\n' "$sum" >&2; }"""
_WRITE_PACKED = """exec 4>&1; digest=$1; size=$2; shift 2
{ head -c "$size" | tee /dev/fd/3 | { zstd -q -d -c 3>&- 4>&-; printf '\\ngx-packed %s\\n' "$?" >&2; } |
    { "$@" >&4 3>&- 4>&-; printf '\\ngx-status %s\\n' "$?" >&2; }; } 3>&1 |
    "$digest" | { read -r sum _; printf '\\ngx-digest %s\\n' "$sum" >&2; }"""
_WORD = re.compile(rb"\n?^gx-(status|packed|passed|digest) (\w+)\n?", re.MULTILINE)


class Means(NamedTuple):
    """What a place has for transfers."""

    digest: str
    packs: bool

    @classmethod
    def told(cls, answer: str, *, may_pack: bool) -> Means:
        """Read what PROBE printed."""
        digest, *more = answer.split()
        return cls(digest, may_pack and "zstd" in more)

    def new_digest(self) -> Digest:
        """Begin the digest that the place takes too."""
        return _DIGESTS[self.digest]()

    def read_words(self, argv: Sequence[str]) -> list[str]:
        """Return the command that runs argv and tells status and digest of its output."""
        if self.packs:
            return ["sh", "-c", _READ_PACKED, "sh", self.digest, str(PACK_LEVEL), *argv]
        return ["sh", "-c", _READ, "sh", self.digest, *argv]


class Incoming:
    """A PlainStream of a command's output, proven at its end."""

    def __init__(self, running: Running, label: str, means: Means) -> None:
        self._running = running
        self._label = label
        self._digest = means.new_digest()
        self._received_bytes = 0
        self._unpacked: zstandard.ZstdDecompressionReader | None = None
        if means.packs:
            self._piece = memoryview(bytearray(CHUNK_BYTES))
            packed = cast(IO[bytes], self)  # of a file it needs `read` alone
            self._unpacked = zstandard.ZstdDecompressor().stream_reader(
                packed, read_size=CHUNK_BYTES, read_across_frames=True, closefd=False
            )

    def readinto(self, buffer: memoryview) -> int:
        """See `PlainStream`."""
        if self._unpacked is None:
            return self._received_into(buffer)
        try:
            return self._unpacked.readinto(buffer)
        except zstandard.ZstdError as error:
            raise IntegrityError(
                f"{self._label}: expected what zstd packed, seen after {self._received_bytes} bytes: {error}",
                retryable=True,
            ) from None

    def read(self, size_bytes: int = -1) -> bytes:
        """Give the next packed bytes to who unpacks them; empty at the end."""
        limit = len(self._piece) if size_bytes < 0 else min(size_bytes, len(self._piece))
        return bytes(self._piece[: self._received_into(self._piece[:limit])])

    def finish(self) -> StreamEnd:
        """See `PlainStream`; CommandError where the command failed, IntegrityError where bytes were lost."""
        while self._unpacked is not None and self.read():
            pass  # what lies behind the end of what was packed
        self._running.wait(END_TIMEOUT_SECONDS)
        stderr = self._running.stderr()
        said, complaint = words(stderr)
        status, sent = said.get("status"), said.get("digest")
        if status is not None and status != "0":
            raise CommandError(f"{self._label}: expected exit status 0, seen {status}: {complaint}")
        if status is None or sent is None:
            raise CommandError(
                f"{self._label}: cut off after {self._received_bytes} bytes: it never told its end: {complaint}",
                "was the pod or container restarted, evicted or out of memory?",
            )
        if self._unpacked is not None and said.get("packed") != "0":
            raise CommandError(f"{self._label}: zstd: expected exit status 0, seen {said.get('packed')}: {complaint}")
        if said.get("passed") != "0":
            raise CommandError(f"{self._label}: tee: expected exit status 0, seen {said.get('passed')}: {complaint}")
        if sent != self._digest.hexdigest():
            raise IntegrityError(
                f"{self._label}: expected the digest {sent} as it was sent, seen {self._digest.hexdigest()} "
                f"in {self._received_bytes} bytes",
                retryable=True,
            )
        return StreamEnd()

    def _received_into(self, buffer: memoryview) -> int:
        count = self._running.readinto(buffer)
        self._digest.update(buffer[:count])
        self._received_bytes += count
        return count


class Outgoing(threading.Thread):
    """Sends a file beside whoever reads the answers: a command may print more than a pipe holds before it reads on."""

    def __init__(self, file: Path | PackedFile, means: Means) -> None:
        super().__init__(name="input", daemon=True)
        self.digest = means.new_digest()
        self.failure: Exception | None = None
        self.lost: IntegrityError | None = None
        self._file = file
        self._running: Running | None = None
        self._means = means
        self._size_bytes = plain_size_bytes(file)
        self.packs = False
        if means.packs:
            packed_bytes = file.path.stat().st_size if isinstance(file, PackedFile) else sum(map(len, self._packed()))
            if packed_bytes < self._size_bytes * WORTH_PACKING:
                self.packs, self._size_bytes = True, packed_bytes

    def words(self, argv: Sequence[str]) -> list[str]:
        """Return the command that hands all of the file to argv's stdin, and tells how that ended."""
        line = _WRITE_PACKED if self.packs else _WRITE
        return ["sh", "-c", line, "sh", self._means.digest, str(self._size_bytes), *argv]

    def send_to(self, running: Running) -> None:
        """Begin to send."""
        self._running = running
        self.start()

    def run(self) -> None:
        """
        Send to the end; what went wrong is left in `failure`, and the command's own words say why.

        Where the file itself is at fault, `lost` says so, and the command is ended: it would wait for the rest.
        """
        assert self._running
        sent_bytes, failure = 0, ""
        try:
            for piece in self._packed() if self.packs else plain_pieces(self._file):
                self.digest.update(piece)
                self._running.write(piece)
                sent_bytes += len(piece)
        except CommandError as error:
            self.failure = error
            return
        except (OSError, IntegrityError) as error:
            failure = f": {error}"
        if failure or sent_bytes != self._size_bytes:
            self.lost = IntegrityError(
                f"{path_of(self._file)}: expected {self._size_bytes} bytes to send, seen {sent_bytes}{failure}",
                retryable=True,
            )
            self._running.stop()

    def end(self) -> None:
        """Wait a moment for the last bytes; a command that has ended reads no more, and no one tells its sender."""
        self.join(1)
        if self.is_alive():
            assert self._running
            self._running.stop()
            self.join()

    def _packed(self) -> Iterator[bytes]:
        """
        Pack the file as it is read, unless it is packed; each time the same bytes.

        Done twice, since the length must be told first: that is cheaper than the way to a pod is for what it saves.
        """
        if isinstance(self._file, PackedFile):
            yield from plain_pieces(self._file.path)
            return
        packer = zstandard.ZstdCompressor(level=PACK_LEVEL, write_checksum=True).compressobj()
        for chunk in plain_pieces(self._file):
            if piece := packer.compress(chunk):
                yield piece
        yield packer.flush()


def words(stderr: bytes) -> tuple[dict[str, str], str]:
    """Return what the shell lines told on stderr, and what the command itself complained of."""
    told = {key.decode(): value.decode() for key, value in _WORD.findall(stderr)}
    return told, _WORD.sub(b"", stderr)[-8192:].decode("utf-8", "replace").strip()
