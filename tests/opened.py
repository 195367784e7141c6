"""A capture read to its end, and opened again as a restore gets it, without sealing and a remote."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import NamedTuple

import zstandard
from pydantic import JsonValue

from gxbackup.adapters.host import Host
from gxbackup.model import Artifact, Capture, Part
from gxbackup.ports import StreamEnd
from gxbackup.sources.base import Opened, Source, Work

ZEROS = "0" * 64


class Read(NamedTuple):
    """The plain bytes of a capture, and what its stream said at its end."""

    file: Path
    end: StreamEnd
    capture: Capture
    kind: str

    def opened(self) -> Opened:
        plain = self.file.read_bytes()
        size_bytes = len(plain)
        file = packed(self.file, plain) if self.kind == "postgres" else self.file
        identity_file, sealed_file = sealed(self.file, plain) if self.kind == "ledger" else (None, None)
        path = f"fabric/{self.capture.name}"
        return Opened(
            artifact=Artifact(
                data_type=self.capture.data_type, kind=self.kind, path=path,
                parts=(Part(path=path, size_bytes=size_bytes, sha256=ZEROS),),
                sealed_size_bytes=size_bytes, sealed_sha256=ZEROS, plain_size_bytes=size_bytes,
                plain_sha256=hashlib.sha256(plain).hexdigest(), keep_days=1,
                settings=self.capture.settings, evidence={**self.capture.evidence, **self.end.evidence},
                base=self.capture.base,
            ),
            file=file,
            sealed=(sealed_file,) if sealed_file else (),
            identity_file=identity_file,
        )  # fmt: skip


def sealed(beside: Path, plain: bytes) -> tuple[Path, Path]:
    """Return an identity, and a file of plain bytes that it opens, beside where they would lie."""
    identity_file, file = beside.with_name("identity"), beside.with_name(f"{beside.name}.zst.age")
    if not identity_file.exists():
        subprocess.run(["age-keygen", "-o", identity_file], check=True, stderr=subprocess.DEVNULL)
        identity_file.chmod(0o600)
    command = ["age", "--encrypt", "--identity", identity_file, "--output", file]
    subprocess.run(command, input=zstandard.ZstdCompressor(level=1).compress(plain), check=True)
    return identity_file, file


def packed(beside: Path, plain: bytes) -> Path:
    """Return a file of plain bytes as zstd packed them, beside where they would lie."""
    file = beside.with_name(f"{beside.name}.zst")
    file.write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(plain))
    return file


def read(source: Source, host: Host, capture: Capture, into: Path, buffer_bytes: int = 256 * 1024) -> Read:
    """Read a capture to its end into a file below a folder."""
    file = into / capture.name
    buffer = memoryview(bytearray(buffer_bytes))
    with source.open(host, capture) as stream, file.open("wb") as plain:
        while count := stream.readinto(buffer):
            plain.write(buffer[:count])
        end = stream.finish()
    return Read(file, end, capture, str(getattr(source, "kind", "")))


def work(area: Path, *reads: Read, **options: JsonValue) -> Work:
    """Give what a restore of these works with."""
    return Work(
        data_type=reads[0].capture.data_type,
        opened=tuple(one.opened() for one in reads),
        area=area,
        safety_dir=area,
        options=options,
    )
