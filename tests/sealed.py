"""Plain bytes sealed by the real age as an artifact of a snapshot, without a source and a remote."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TypeAlias

from gxbackup import sealing
from gxbackup.errors import CollectError
from gxbackup.model import Artifact, Capture, SealedFile
from gxbackup.ports import StreamEnd

Keys: TypeAlias = dict[str, tuple[str, Path]]


class Bytes:
    """A PlainStream of bytes in memory, given in uneven pieces; ends as it is told to."""

    def __init__(self, content: bytes, ending: StreamEnd | CollectError | None = None) -> None:
        self._rest = memoryview(content)
        self._ending = ending or StreamEnd()

    def readinto(self, buffer: memoryview) -> int:
        count = min(len(buffer), len(self._rest), 300_001)
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def finish(self) -> StreamEnd:
        if isinstance(self._ending, CollectError):
            raise self._ending
        return self._ending


def make_keys(folder: Path) -> Keys:
    """Make three age identities; name → recipient, identity file."""
    made = {}
    for name in ("recovery", "rehearsal", "stranger"):
        file = folder / name
        subprocess.run(["age-keygen", "-o", file], check=True, stderr=subprocess.DEVNULL)
        public = subprocess.run(
            ["age-keygen", "-y", file], check=True, text=True, stdout=subprocess.PIPE
        ).stdout.strip()
        made[name] = (public, file)
    return made


def seal(
    stream: Bytes, area: Path, keys: Keys, part_size_bytes: int = 4 * 1024**3,
    path: str = "files/website/website.tar.zst.age", kind: str = "directory",
) -> tuple[SealedFile, Artifact]:  # fmt: skip
    """Seal what a stream gives below `area`, to the keys of recovery and of rehearsals."""
    capture = Capture(data_type="website", name=path.rsplit("/", 1)[1].removesuffix(".zst.age"))
    recipients = [keys["recovery"][0], keys["rehearsal"][0]]
    sealed = sealing.seal(stream, capture, path, area, recipients, 3, part_size_bytes)
    artifact = Artifact(
        data_type="website", kind=kind, path=sealed.path, parts=sealed.parts, keep_days=30,
        sealed_size_bytes=sealed.sealed_size_bytes, sealed_sha256=sealed.sealed_sha256,
        plain_size_bytes=sealed.plain_size_bytes, plain_sha256=sealed.plain_sha256,
    )  # fmt: skip
    return sealed, artifact
