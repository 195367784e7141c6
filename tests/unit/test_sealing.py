"""Sealing on the real age: what goes in comes out, and nothing that was cut, turned or swapped ever passes as whole."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import threading
from pathlib import Path

import pytest

from gxbackup import sealing
from gxbackup.errors import BackupError, CollectError, EmptyArtifactError, IntegrityError, SealingError, SetupError
from gxbackup.model import Artifact
from gxbackup.parts import Drain, PartWriter
from gxbackup.ports import StreamEnd
from tests.sealed import Bytes, Keys, make_keys, seal


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"))


def content(size_bytes: int) -> bytes:
    rng = random.Random(size_bytes)
    return rng.randbytes(size_bytes // 2) + b"gx" * (size_bytes // 4)


def opened(artifact: Artifact, area: Path, identity: Path) -> bytes:
    with sealing.unseal(artifact, [area / part.path for part in artifact.parts], identity) as chunks:
        return b"".join(chunks)


@pytest.mark.parametrize("size_bytes", [4, 4096, 3_000_004])
@pytest.mark.parametrize("reader", ["recovery", "rehearsal"])
def test_either_recipient_opens_what_was_sealed(tmp_path: Path, keys: Keys, size_bytes: int, reader: str) -> None:
    plain = content(size_bytes)

    sealed, artifact = seal(Bytes(plain, StreamEnd({"files": 3}, ("one could not be read",))), tmp_path, keys)

    assert opened(artifact, tmp_path, keys[reader][1]) == plain
    assert sealed.plain_sha256 == hashlib.sha256(plain).hexdigest()
    assert sealed.evidence == {"files": 3}
    assert sealed.shortfalls == ("one could not be read",)
    assert (tmp_path / sealed.path).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("part_size_bytes", [1024**2, 1_000_003, 700_000])
def test_a_large_artifact_is_parts_that_cat_joins(tmp_path: Path, keys: Keys, part_size_bytes: int) -> None:
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


def test_the_operators_own_tools_open_it(tmp_path: Path, keys: Keys) -> None:
    plain = content(2_000_000)
    sealed, _ = seal(Bytes(plain), tmp_path, keys)

    done = subprocess.run(
        f"age -d -i {keys['recovery'][1]} {tmp_path / sealed.path} | zstd -d", shell=True, check=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip

    assert done.stdout == plain


def test_an_empty_artifact_is_an_error_and_leaves_nothing(tmp_path: Path, keys: Keys) -> None:
    with pytest.raises(EmptyArtifactError, match="seen 0 bytes"):
        seal(Bytes(b""), tmp_path, keys)

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_producer_that_ends_badly_leaves_nothing(tmp_path: Path, keys: Keys) -> None:
    with pytest.raises(CollectError, match="died half way"):
        seal(Bytes(content(5_000_000), CollectError("died half way")), tmp_path, keys, part_size_bytes=1024**2)

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_producer_that_meets_a_broken_pipe_of_its_own_is_not_waited_for(tmp_path: Path, keys: Keys) -> None:
    class Broken(Bytes):
        def finish(self) -> StreamEnd:
            raise BrokenPipeError(32, "the producer's own")

    with pytest.raises(BrokenPipeError, match="the producer's own"):
        seal(Broken(content(3_000_000)), tmp_path, keys)

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_nobody_writes_any_more_when_a_failed_producers_files_are_taken_away(
    tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
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


def test_a_stranger_opens_nothing(tmp_path: Path, keys: Keys) -> None:
    _, artifact = seal(Bytes(content(100_000)), tmp_path, keys)

    with pytest.raises(SealingError, match="other recipients than this identity"):
        opened(artifact, tmp_path, keys["stranger"][1])


def cut(body: bytes) -> bytes:
    return body[: len(body) * 2 // 3]


def turn_one_bit(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


@pytest.mark.parametrize("damage", [cut, turn_one_bit, lambda body: body[:-1], lambda body: body + b"x"])
def test_a_damaged_file_never_passes(tmp_path: Path, keys: Keys, damage: object) -> None:
    assert callable(damage)
    sealed, artifact = seal(Bytes(content(3_000_000)), tmp_path, keys)
    file = tmp_path / sealed.path
    file.write_bytes(damage(file.read_bytes()))

    with pytest.raises(IntegrityError, match="files/website"):
        opened(artifact, tmp_path, keys["recovery"][1])


def test_another_days_file_in_its_place_never_passes(tmp_path: Path, keys: Keys) -> None:
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


PUBLIC = "age1xj9hrwtmlsdksp8tz0p90cn3yn3rzwzqcnsjufrhmywz7tewpamqs9sgys"


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("AGE-SECRET-KEY-1MISTYPED\n", "error at line 1: malformed secret key"),
        ("", "no secret keys found"),
        ("# public key: age1x\n", "no secret keys found"),
        ("{secret_in_lower_case}\n", "error at line 1: unknown identity type"),
        (" {secret}\n", "error at line 1: unknown identity type"),
        ("{secret_with_a_wrong_letter}\n", "malformed secret key: invalid checksum"),
        (f"{PUBLIC}\n", "error at line 1: unknown identity type"),
    ],
)
def test_a_mistyped_identity_is_no_fault_of_the_backup(tmp_path: Path, keys: Keys, typed: str, why: str) -> None:
    _, artifact = seal(Bytes(content(100_000)), tmp_path, keys)
    secret = keys["recovery"][1].read_text().splitlines()[-1]
    last = "Q" if secret[-1] != "Q" else "P"
    file = tmp_path / "identity"
    file.touch(mode=0o600)
    text = typed.format(
        secret=secret, secret_in_lower_case=secret.lower(), secret_with_a_wrong_letter=secret[:-1] + last
    )
    file.write_text(text)

    for use in (sealing.check_identity, lambda identity: opened(artifact, tmp_path, identity)):
        with pytest.raises(SetupError, match=why) as failure:
            use(file)

        assert f"age identity {file}: expected a line AGE-SECRET-KEY-1…, seen none that age can read: " in str(
            failure.value
        )
        assert "HINT: type it again" in str(failure.value)
        assert f"`age-keygen -y {file}`" in str(failure.value)
        assert not text.strip() or text.strip() not in str(failure.value)
        assert "filippo.io" not in str(failure.value)


def test_a_folder_is_no_identity(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)

    with pytest.raises(SetupError, match="expected a file, seen a folder"):
        sealing.check_identity(tmp_path)


@pytest.mark.parametrize("written", ["{secret}", "{secret}\r\n", "# mine\n\n{secret}\n\n"])
def test_an_identity_is_taken_however_its_line_ends(tmp_path: Path, keys: Keys, written: str) -> None:
    _, artifact = seal(Bytes(content(4096)), tmp_path, keys)
    file = tmp_path / "identity"
    file.touch(mode=0o600)
    file.write_bytes(written.format(secret=keys["recovery"][1].read_text().splitlines()[-1]).encode())

    assert opened(artifact, tmp_path, sealing.check_identity(file)) == content(4096)


@pytest.mark.parametrize("mistyped", [False, True])
def test_an_identity_from_a_pipe_is_read_once(tmp_path: Path, keys: Keys, mistyped: bool) -> None:
    _, artifact = seal(Bytes(content(4096)), tmp_path, keys)
    pipe = tmp_path / "identity"
    os.mkfifo(pipe, 0o600)
    text = "AGE-SECRET-KEY-1MISTYPED" if mistyped else keys["recovery"][1].read_text()
    threading.Thread(target=pipe.write_text, args=(text,), daemon=True).start()

    if mistyped:
        with pytest.raises(SetupError, match="malformed secret key"):
            opened(artifact, tmp_path, sealing.check_identity(pipe))
    else:
        assert opened(artifact, tmp_path, sealing.check_identity(pipe)) == content(4096)


def test_a_consumer_that_stops_half_way_leaves_no_process(tmp_path: Path, keys: Keys) -> None:
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
