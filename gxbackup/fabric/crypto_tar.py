"""A tar of keys and certificates: looked into on its way out, held against its evidence on its way back."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from gxbackup import clock, tally
from gxbackup.errors import CollectError, IntegrityError
from gxbackup.fabric.crypto import CryptoInventory
from gxbackup.ports import PlainStream, StreamEnd
from gxbackup.tally import Member
from gxbackup.tar_contents import TarContents
from gxbackup.tarstream import TarScanner

if TYPE_CHECKING:
    from gxbackup.sources.base import Opened

CHUNK_BYTES = 1024**2


class CryptoTar:
    """The tar of a CA's home, or of a claim's keys and certificates, as it is read."""

    def __init__(self, stream: PlainStream, label: str, faults: Callable[[CryptoInventory], list[str]]) -> None:
        self._stream = stream
        self._label = label
        self._faults = faults
        self._crypto = CryptoInventory()
        self._scanner = TarScanner(on_member=self._note)
        self._contents = TarContents(self._crypto.add)
        self._contents.start()

    def _note(self, member: Member) -> None:
        if member.kind in (tally.FILE, tally.HARD_LINK):
            self._crypto.note(os.fsdecode(member.name))

    def readinto(self, buffer: memoryview) -> int:
        """See `PlainStream`."""
        count = self._stream.readinto(buffer)
        self._scanner.feed(buffer[:count])
        self._contents.feed(buffer[:count])
        return count

    def finish(self) -> StreamEnd:
        """See `PlainStream`. The certificates are evidence; what could not be used after a restore is a shortfall."""
        self._stream.finish()
        self._contents.finish()
        try:
            tree = self._scanner.finish()
        except IntegrityError as error:
            raise CollectError(f"{self._label}: {error.message}", retryable=True) from None
        faults = tuple(f"{self._label}: {fault}" for fault in self._faults(self._crypto))
        return StreamEnd({**tree, **self._crypto.evidence(clock.now())}, faults, self._contents.content_sha256)

    def close(self) -> None:
        """End the reading thread; harmless to call again."""
        self._contents.close()


def crypto_in(stream: PlainStream) -> CryptoInventory:
    """Return the keys and certificates in a tar that is read for them alone."""
    crypto = CryptoInventory()
    contents = TarContents(crypto.add)
    contents.start()
    buffer = memoryview(bytearray(CHUNK_BYTES))
    try:
        while count := stream.readinto(buffer):
            contents.feed(buffer[:count])
        stream.finish()
        contents.finish()
    finally:
        contents.close()
    return crypto


def opened_crypto(opened: Opened, label: str) -> tuple[CryptoInventory, list[str]]:
    """
    Read an artifact to its end; return what it holds, and the names of its members.

    Raises: IntegrityError unless its certificates are those of its evidence; RestoreRefusedError, see `TarScanner`.
    """
    crypto = CryptoInventory()
    names: list[str] = []
    contents = TarContents(crypto.add)
    scanner = TarScanner(opened.artifact.evidence, lambda member: names.append(os.fsdecode(member.name)))
    contents.start()
    try:
        with opened.file.open("rb") as tar:
            while chunk := tar.read(CHUNK_BYTES):
                scanner.feed(memoryview(chunk))
                contents.feed(memoryview(chunk))
        contents.finish()
    finally:
        contents.close()
    scanner.finish()
    seen = crypto.evidence(clock.now())
    for key in ("certificates", "ca_sha256"):
        if seen.get(key) != opened.artifact.evidence.get(key):
            raise IntegrityError(f"{label}: {key}: expected as in its evidence, seen others")
    return crypto, names
