"""One artifact of a restore: its plain bytes, from where they lie: plain, as zstd packed them, or still sealed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import Field

from gxbackup import sealing
from gxbackup.model import Artifact, Frozen
from gxbackup.packed import PackedFile

Opening = Literal["plain", "packed", "sealed"]


class Opened(Frozen):
    """One artifact of a chosen snapshot, fetched; unsealed and its plain bytes proven, but where it is left sealed."""

    artifact: Artifact
    file: Path = Field(description="its plain bytes, or as zstd packed them; none where it is left sealed")
    sealed: tuple[Path, ...] = Field(default=(), description="its sealed files, where it is left so")
    identity_file: Path | None = None

    @property
    def packed(self) -> PackedFile:
        """The file of a source that opens packed files."""
        return PackedFile(self.file, self.artifact.plain_size_bytes)

    @contextmanager
    def chunks(self) -> Iterator[Iterator[bytes]]:
        """
        Give the plain bytes of what is left sealed, in flat memory; they are proven at the last step.

        Raises: SetupError, SealingError, IntegrityError, as `sealing.unseal` does.
        """
        assert self.identity_file, "what is left sealed comes with what opens it"
        with sealing.unseal(self.artifact, self.sealed, self.identity_file) as chunks:
            yield chunks
