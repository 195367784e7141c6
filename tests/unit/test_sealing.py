"""Sealing on the real age: what goes in comes out, and nothing that was cut, turned or swapped ever passes as whole."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import threading
from pathlib import Path

import pytest

from gxbackup import opening, sealing
from gxbackup.errors import BackupError, CollectError, EmptyArtifactError, IntegrityError, SealingError, SetupError
from gxbackup.model import Artifact, Capture, SealedFile
from gxbackup.parts import Drain, PartWriter
from gxbackup.ports import StreamEnd


class Bytes:
    """A stream of bytes in memory, given in uneven pieces; ends as it is told to."""

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


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("keys")
    made = {}
    for name in ("recovery", "rehearsal", "stranger"):
        file = folder / name
        subprocess.run(["age-keygen", "-o", file], check=True, stderr=subprocess.DEVNULL)
        public = subprocess.run(
            ["age-keygen", "-y", file], check=True, text=True, stdout=subprocess.PIPE
        ).stdout.strip()
        made[name] = (public, file)
    return made


def content(size_bytes: int) -> bytes:
    rng = random.Random(size_bytes)
    return rng.randbytes(size_bytes // 2) + b"gx" * (size_bytes // 4)


def seal(
    stream: Bytes, area: Path, keys: dict[str, tuple[str, Path]], part_size_bytes: int = 4 * 1024**3
) -> tuple[SealedFile, Artifact]:
    capture = Capture(data_type="website", name="website.tar")
    recipients = [keys["recovery"][0], keys["rehearsal"][0]]
    sealed = sealing.seal(stream, capture, "files/website/website.tar.zst.age", area, recipients, 3, part_size_bytes)
    artifact = Artifact(
        data_type="website", kind="directory", path=sealed.path, parts=sealed.parts, keep_days=30,
        sealed_size_bytes=sealed.sealed_size_bytes, sealed_sha256=sealed.sealed_sha256,
        plain_size_bytes=sealed.plain_size_bytes, plain_sha256=sealed.plain_sha256,
    )  # fmt: skip
    return sealed, artifact


def opened(artifact: Artifact, area: Path, identity: Path) -> bytes:
    with sealing.unseal(artifact, [area / part.path for part in artifact.parts], identity) as chunks:
        return b"".join(chunks)


@pytest.mark.parametrize("size_bytes", [4, 4096, 3_000_004])
@pytest.mark.parametrize("reader", ["recovery", "rehearsal"])
def test_either_recipient_opens_what_was_sealed(
    tmp_path: Path, keys: dict[str, tuple[str, Path]], size_bytes: int, reader: str
) -> None:
    plain = content(size_bytes)

    sealed, artifact = seal(Bytes(plain, StreamEnd({"files": 3}, ("one could not be read",))), tmp_path, keys)

    assert opened(artifact, tmp_path, keys[reader][1]) == plain
    assert sealed.plain_sha256 == hashlib.sha256(plain).hexdigest()
    assert sealed.evidence == {"files": 3}
    assert sealed.shortfalls == ("one could not be read",)
    assert (tmp_path / sealed.path).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("part_size_bytes", [1024**2, 1_000_003, 700_000])
def test_a_large_artifact_is_parts_that_cat_joins(
    tmp_path: Path, keys: dict[str, tuple[str, Path]], part_size_bytes: int
) -> None:
    plain = content(4_000_000)

    sealed, artifact = seal(Bytes(plain), tmp_path, keys, part_size_bytes)

    assert len(sealed.parts) > 1
    assert [part.path[-4:] for part in sealed.parts] == [f".{number:03d}" for number in range(len(sealed.parts))]
    joined = b"".join((tmp_path / part.path).read_bytes() for part in sealed.parts)
    assert hashlib.sha256(joined).hexdigest() == sealed.sealed_sha256
    for part in sealed.parts:
        assert hashlib.sha256((tmp_path / part.path).read_bytes()).hexdigest() == part.sha256
        assert part.size_bytes <= part_size_bytes
    assert opened(artifact, tmp_path, keys["recovery"][1]) == plain


def test_the_operators_own_tools_open_it(tmp_path: Path, keys: dict[str, tuple[str, Path]]) -> None:
    plain = content(2_000_000)
    sealed, _ = seal(Bytes(plain), tmp_path, keys)

    done = subprocess.run(
        f"age -d -i {keys['recovery'][1]} {tmp_path / sealed.path} | zstd -d", shell=True, check=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip

    assert done.stdout == plain


def test_an_empty_artifact_is_an_error_and_leaves_nothing(tmp_path: Path, keys: dict[str, tuple[str, Path]]) -> None:
    with pytest.raises(EmptyArtifactError, match="seen 0 bytes"):
        seal(Bytes(b""), tmp_path, keys)

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_producer_that_ends_badly_leaves_nothing(tmp_path: Path, keys: dict[str, tuple[str, Path]]) -> None:
    with pytest.raises(CollectError, match="died half way"):
        seal(Bytes(content(5_000_000), CollectError("died half way")), tmp_path, keys, part_size_bytes=1024**2)

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_nobody_writes_any_more_when_a_failed_producers_files_are_taken_away(
    tmp_path: Path, keys: dict[str, tuple[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, discarding = threading.Event(), threading.Event()
    writing_meanwhile = []

    class Dying(Bytes):
        def finish(self) -> StreamEnd:
            failed.set()
            return super().finish()

    class Slow(PartWriter):
        def write(self, chunk: memoryview) -> None:
            super().write(chunk)
            discarding.wait(0.5 if failed.is_set() else 0.001)

        def discard(self) -> None:
            discarding.set()
            writing_meanwhile.extend(each for each in threading.enumerate() if isinstance(each, Drain))
            super().discard()

    monkeypatch.setattr(sealing, "PartWriter", Slow)

    with pytest.raises(CollectError, match="died half way"):
        seal(Dying(content(24_000_000), CollectError("died half way")), tmp_path, keys, part_size_bytes=1024**2)

    assert writing_meanwhile == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_stranger_opens_nothing(tmp_path: Path, keys: dict[str, tuple[str, Path]]) -> None:
    _, artifact = seal(Bytes(content(100_000)), tmp_path, keys)

    with pytest.raises(SealingError, match="other recipients than this identity"):
        opened(artifact, tmp_path, keys["stranger"][1])


def cut(body: bytes) -> bytes:
    return body[: len(body) * 2 // 3]


def turn_one_bit(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


@pytest.mark.parametrize("damage", [cut, turn_one_bit, lambda body: body[:-1], lambda body: body + b"x"])
def test_a_damaged_file_never_passes(tmp_path: Path, keys: dict[str, tuple[str, Path]], damage: object) -> None:
    assert callable(damage)
    sealed, artifact = seal(Bytes(content(3_000_000)), tmp_path, keys)
    file = tmp_path / sealed.path
    file.write_bytes(damage(file.read_bytes()))

    with pytest.raises(IntegrityError, match="files/website"):
        opened(artifact, tmp_path, keys["recovery"][1])


def test_another_days_file_in_its_place_never_passes(tmp_path: Path, keys: dict[str, tuple[str, Path]]) -> None:
    _, artifact = seal(Bytes(content(3_000_000)), tmp_path / "today", keys)
    seal(Bytes(content(3_000_004)), tmp_path / "yesterday", keys)

    with pytest.raises(IntegrityError, match="plain bytes with sha256"):
        opened(artifact, tmp_path / "yesterday", keys["recovery"][1])


def test_a_wrong_recipient_is_known_before_anything_is_read() -> None:
    with pytest.raises(SealingError, match="age refuses them"):
        sealing.check_recipients(["age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq"])


def test_an_identity_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "identity"
    file.touch(mode=0o644)

    with pytest.raises(SetupError, match="expected mode 0600, seen 0644"):
        sealing.check_identity(file)


def test_a_consumer_that_stops_half_way_leaves_no_process(tmp_path: Path, keys: dict[str, tuple[str, Path]]) -> None:
    _, artifact = seal(Bytes(content(6_000_000)), tmp_path, keys)

    def stop_half_way() -> None:
        files = [tmp_path / part.path for part in artifact.parts]
        with sealing.unseal(artifact, files, keys["recovery"][1]) as chunks:
            next(chunks)
            raise BackupError("enough")

    with pytest.raises(BackupError, match="enough"):
        stop_half_way()

    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    assert [pid for pid in children if "age" in Path(f"/proc/{pid}/comm").read_text()] == []


def test_a_tar_that_reads_no_more_does_not_hide_that_the_bytes_are_others(
    tmp_path: Path, keys: dict[str, tuple[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, artifact = seal(Bytes(bytes(8_000_000)), tmp_path, keys)
    artifact = artifact.model_copy(
        update={"path": "fabric/volume.tar.zst.age", "kind": "ledger", "plain_sha256": "0" * 64}
    )
    program = tmp_path / "bin" / "tar"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    files = [tmp_path / part.path for part in artifact.parts]

    with pytest.raises(IntegrityError, match="plain bytes with sha256 0000"):
        opening.open_artifact(artifact, files, keys["recovery"][1], tmp_path / "nowhere")


def test_an_etcd_snapshot_read_back_is_held_against_its_own_sum(
    tmp_path: Path, keys: dict[str, tuple[str, Path]]
) -> None:
    database = bytes(range(256)) * 4096
    path = "files/etcd-snapshots/etcd-snapshot.db.zst.age"
    for name, end in (("whole", hashlib.sha256(database).digest()), ("cut", hashlib.sha256(database[1:]).digest())):
        area = tmp_path / name
        area.mkdir()
        _, artifact = seal(Bytes(database + end), area, keys)
        artifact = artifact.model_copy(update={"path": path, "kind": "etcd"})
        files = [area / part.path for part in artifact.parts]
        identity = keys["recovery"][1]
        if name == "whole":
            assert opening.open_artifact(artifact, files, identity, area / "nowhere").endswith("its own sha256")
        else:
            with pytest.raises(IntegrityError, match="expected sha256"):
                opening.open_artifact(artifact, files, identity, area / "nowhere")
