"""What lies packed or sealed in staging: read as it was, never shorter, and never written out in the clear."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, cast

import pytest
import zstandard

from gxbackup import restoring_data
from gxbackup.errors import IntegrityError, RestoreError
from gxbackup.model import Artifact
from gxbackup.opened import Opened, Opening
from gxbackup.packed import PackedFile
from gxbackup.restoring import Chosen
from tests.sealed import Bytes, Keys, make_keys, seal

PLAIN = os.urandom(1_500_000) + b"a row like any other\n" * 100_000
PATH = "databases/postgres-mainnet/app.dump.zst.age"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def packed(tmp_path: Path) -> PackedFile:
    file = tmp_path / "app.dump.zst"
    file.write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(PLAIN))
    return PackedFile(file, len(PLAIN))


def test_a_packed_file_reads_as_what_was_packed(packed: PackedFile, tmp_path: Path) -> None:
    packed.unpack(tmp_path / "app.dump")

    assert b"".join(packed.chunks()) == PLAIN
    assert packed.beginning(11) == PLAIN[:11]
    assert packed.beginning(10**9) == PLAIN
    assert (tmp_path / "app.dump").read_bytes() == PLAIN


@pytest.mark.parametrize("fault", ["cut", "another size", "a turned byte", "gone"])
def test_a_packed_file_that_the_disk_gives_back_otherwise_is_named(packed: PackedFile, fault: str) -> None:
    content = bytearray(packed.path.read_bytes())
    if fault == "a turned byte":
        content[1_000_000] ^= 1
    packed.path.write_bytes(content[: len(content) // 2] if fault == "cut" else content)
    if fault == "gone":
        packed.path.unlink()
    expected = len(PLAIN) + (fault == "another size")

    with pytest.raises(IntegrityError, match=r"app\.dump\.zst: (cannot be unpacked again|expected \d+ plain bytes)"):
        list(PackedFile(packed.path, expected).chunks())


def opened(tmp_path: Path, keys: Keys, opens: Opening) -> Opened:
    """Seal an artifact, and open it as a source does that wants it so."""
    return opened_as(seal(Bytes(PLAIN), tmp_path, keys, path=PATH, kind="postgres")[1], tmp_path, keys, opens)


def opened_as(artifact: Artifact, tmp_path: Path, keys: Keys, opens: Opening) -> Opened:
    """Open an artifact that lies sealed in an area."""
    chosen = Chosen(
        server="mainnet", remote_dir="mainnet", snapshot="20260102_030405", data_type="website", age_hours=1,
        artifacts=(artifact,),
    )  # fmt: skip
    source = cast(Any, type("Source", (), {"opens": opens}))
    (one,) = restoring_data.open_all(chosen, tmp_path, keys["recovery"][1], source)
    return one


def files_of(folder: Path) -> dict[str, int]:
    """Return name → size of all that lies in a folder."""
    return {file.name: file.stat().st_size for file in folder.rglob("*") if file.is_file()}


def test_a_source_that_opens_packed_files_gets_them_proven_and_small(tmp_path: Path, keys: Keys) -> None:
    one = opened(tmp_path, keys, "packed")

    assert b"".join(one.packed.chunks()) == PLAIN
    assert files_of(tmp_path) == {"app.dump.zst": one.file.stat().st_size}
    assert one.file.stat().st_mode & 0o777 == 0o600
    assert one.file.stat().st_size < len(PLAIN) / 2


def test_a_source_that_reads_sealed_files_opens_them_each_time(tmp_path: Path, keys: Keys) -> None:
    one = opened(tmp_path, keys, "sealed")

    for _ in range(2):
        with one.chunks() as chunks:
            assert b"".join(chunks) == PLAIN
    assert list(files_of(tmp_path)) == ["app.dump.zst.age"]


@pytest.mark.parametrize("told", [{"plain_sha256": "0" * 64}, {"plain_size_bytes": 1}])
@pytest.mark.parametrize("opens", ["plain", "packed", "sealed"])
def test_what_was_sealed_of_other_bytes_never_passes(
    tmp_path: Path, keys: Keys, opens: Opening, told: dict[str, Any]
) -> None:
    _, artifact = seal(Bytes(PLAIN), tmp_path, keys, path=PATH, kind="postgres")
    wrong = artifact.model_copy(update=told)

    def read() -> None:
        with opened_as(wrong, tmp_path, keys, opens).chunks() as chunks:
            list(chunks)

    with pytest.raises(IntegrityError, match=r"app\.dump\.zst\.age: expected \d+ plain bytes with sha256"):
        read()


def test_whoever_fails_over_what_is_unsealed_leaves_no_thread_however_long_the_error_is_kept(
    tmp_path: Path, keys: Keys
) -> None:
    one = opened(tmp_path, keys, "sealed")

    def fail() -> None:
        with one.chunks() as chunks:
            raise RestoreError(f"tar complains of {len(next(chunks))} bytes")

    with pytest.raises(RestoreError) as kept:
        fail()

    assert kept.value.message.startswith("tar complains")
    assert not [thread for thread in threading.enumerate() if thread.name == "sha256"]
