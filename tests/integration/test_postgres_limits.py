"""What is as large as PostgreSQL lets it be: a large object of 500 MB, and a row that no dump can hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from gxbackup.adapters.host import Host
from gxbackup.errors import CommandError
from gxbackup.model import Capture
from gxbackup.sources.base import Opened
from gxbackup.sources.postgres import Postgres
from tests.integration.postgres_server import Protected, artifact_of, captured, host_with, work_of

SOURCE = Postgres(namespace="backend-mainnet", pod="postgres-0")
LARGE_BYTES = 500_000_000
PIECE_BYTES = 1_000_000


@pytest.fixture
def host(postgres: Protected) -> Host:
    return host_with(pod=postgres.place())


@pytest.fixture
def made(postgres: Protected) -> Iterator[None]:
    """Remove what a test makes."""
    before = postgres.databases()
    yield
    for name in postgres.databases() - before:
        postgres.psql(f'DROP DATABASE "{name}" WITH (FORCE)')


def capture_of(host: Host, name: str) -> Capture:
    return next(each for each in SOURCE.collect(host, "postgres-mainnet") if each.settings.get("database") == name)


def to_file(host: Host, capture: Capture, file: Path) -> Opened:
    """Read a capture piece by piece, as sealing does."""
    size_bytes, buffer = 0, memoryview(bytearray(1024**2))
    with SOURCE.open(host, capture) as stream, zstandard.open(file, "wb") as out:
        while count := stream.readinto(buffer):
            size_bytes += out.write(buffer[:count])
        ending = stream.finish()
    return Opened(artifact=artifact_of(capture, ending, size_bytes), file=file)


@pytest.fixture
def large(postgres: Protected) -> Iterator[tuple[Path, str]]:
    """Give a file of 500 MB that the server can read, no piece of which is like another, and its digest."""
    file, digest = postgres.folder / "large", hashlib.md5(usedforsecurity=False)
    with file.open("wb") as out:
        for number in range(LARGE_BYTES // PIECE_BYTES):
            piece = f"{number:020}".encode() + bytes(PIECE_BYTES - 20)
            digest.update(piece)
            out.write(piece)
    yield file, digest.hexdigest()
    file.unlink()


@pytest.mark.usefixtures("made")
def test_a_large_object_of_500_mb_is_captured_and_put_back_byte_for_byte(
    postgres: Protected, host: Host, large: tuple[Path, str], tmp_path: Path
) -> None:
    postgres.psql("CREATE DATABASE blobs")
    postgres.psql(f"SELECT lo_import('{large[0]}', 4711)", "blobs")
    opened = to_file(host, capture_of(host, "blobs"), tmp_path / "blobs.dump")
    postgres.psql("SELECT lo_put(4711, 250000000, 'changed since')", "blobs")

    SOURCE.apply(host, work_of(SOURCE, (opened,), tmp_path, databases=["blobs"]))

    assert opened.artifact.evidence["large_objects"] == {"count": 1, "bytes": LARGE_BYTES}
    assert opened.artifact.plain_size_bytes > LARGE_BYTES
    assert postgres.psql("SELECT md5(lo_get(4711))", "blobs") == large[1]


@pytest.mark.usefixtures("made")
def test_a_row_larger_than_a_dump_can_hold_is_told_by_its_table_and_costs_the_others_nothing(
    postgres: Protected, host: Host
) -> None:
    postgres.psql("CREATE DATABASE rows")
    # Bytes are twice as long in a dump: more than the 1 GB that PostgreSQL gives to one value.
    postgres.psql('CREATE TABLE "Too big" (a bytea COMPRESSION lz4)', "rows")
    postgres.psql("INSERT INTO \"Too big\" VALUES (convert_to(repeat('x', 540000000), 'UTF8'))", "rows")

    with pytest.raises(CommandError, match='contents of table "Too big" failed') as caught:
        captured(SOURCE, host, capture_of(host, "rows"))

    said = str(caught.value)
    assert not caught.value.retryable
    assert "invalid memory alloc request size" in said
    assert "HINT: a row that is larger than 1 GB as text cannot be dumped by PostgreSQL" in said
    assert captured(SOURCE, host, capture_of(host, "app"))[1].evidence["owner"] == "app"
