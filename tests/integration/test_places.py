"""Commands in the places where servers run: this host and a real container. The pods' turn is in tests/cluster."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from gxbackup.adapters.container_place import ContainerPlace
from gxbackup.adapters.containers import Containers
from gxbackup.adapters.places import ExecPlace, LocalPlace
from gxbackup.errors import CommandError, IntegrityError, SourceMissingError
from gxbackup.packed import PackedFile
from gxbackup.ports import SILENCE_SECONDS, Place, PlainStream, Running
from tests.integration.docker_engine import Engine, running_engine
from tests.opened import packed

SECRET = "hunter2-never-to-be-seen"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with running_engine(tmp_path_factory.mktemp("d")) as started:
        started.run("gx-place", environment={"PASSWORD": SECRET})
        yield started


class FarPlace(LocalPlace):
    """This host, as if the way to it were long, slow and not to be trusted."""

    packs = True
    read = ExecPlace.read
    write = ExecPlace.write


@pytest.fixture(params=["this host", "far", "container"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    if request.param in ("this host", "far"):
        kind = FarPlace if request.param == "far" else LocalPlace
        return kind("this host", {"PASSWORD": SECRET})
    engine = request.getfixturevalue("engine")
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    return Containers().place("gx-place")


def all_of(stream: PlainStream) -> bytes:
    buffer = memoryview(bytearray(64 * 1024))
    read = bytearray()
    while count := stream.readinto(buffer):
        read += buffer[:count]
    return bytes(read)


def test_output_arrives_whole_and_what_it_said_beside_it_does_not_mix_in(place: Place) -> None:
    with place.read(["sh", "-c", "echo to be read; echo not to be read >&2; head -c 3000000 /dev/zero"]) as stream:
        read = all_of(stream)
        ending = stream.finish()

    assert read == b"to be read\n" + bytes(3_000_000)
    assert ending.shortfalls == ()


def test_a_command_that_fails_after_its_output_is_a_failure_with_its_words(place: Place) -> None:
    with place.read(["sh", "-c", "echo half of it; echo the disk is gone >&2; exit 3"]) as stream:
        assert all_of(stream) == b"half of it\n"
        with pytest.raises(CommandError, match="expected exit status 0, seen 3: the disk is gone"):
            stream.finish()


def test_a_command_that_is_killed_is_a_failure_never_a_shorter_file(place: Place) -> None:
    with place.read(["sh", "-c", "echo half of it; kill -9 $$"]) as stream:
        all_of(stream)
        with pytest.raises(CommandError, match="seen 137"):
            stream.finish()


@pytest.mark.parametrize("place", ["far", "container"], indirect=True)  # on this host there is no shell between
def test_a_stream_whose_shell_is_gone_never_told_its_end(place: Place) -> None:
    with place.read(["sh", "-c", "echo half of it; kill -9 $PPID; kill -9 $$"]) as stream:
        all_of(stream)
        with pytest.raises(CommandError, match="cut off after|expected exit status"):
            stream.finish()


def test_input_of_any_bytes_arrives_whole_without_an_end_of_the_connection(place: Place, tmp_path: Path) -> None:
    content = os.urandom(2_000_000)
    (tmp_path / "input").write_bytes(content)

    ended = place.write(["cat"], tmp_path / "input", timeout_seconds=60)

    assert ended.stdout == content


@pytest.mark.parametrize("content", [bytes(3_000_000), os.urandom(2_000_000)], ids=["packs well", "does not"])
def test_a_packed_file_arrives_as_its_plain_bytes(place: Place, tmp_path: Path, content: bytes) -> None:
    file = packed(tmp_path / "input", content)

    ended = place.write(["cat"], PackedFile(file, len(content)), timeout_seconds=60)

    assert ended.stdout == content


@pytest.mark.parametrize("damage", ["cut", "its checksum"])
@pytest.mark.parametrize("content", [bytes(2 * 1024**2), os.urandom(2 * 1024**2)], ids=["packs well", "does not"])
def test_a_packed_file_that_is_damaged_is_a_failure_and_nothing_waits_for_the_rest(
    place: Place, tmp_path: Path, content: bytes, damage: str
) -> None:
    file = packed(tmp_path / "input", content)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage == "cut" else whole[:-1] + bytes([whole[-1] ^ 1]))

    with pytest.raises((CommandError, IntegrityError)):
        place.write(["cat"], PackedFile(file, len(content)), timeout_seconds=60)


def test_a_command_that_refuses_its_input_is_a_failure_with_its_words(place: Place, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(bytes(5_000_000))

    with pytest.raises(CommandError, match="expected exit status 0, seen exit status 4: no room"):
        place.write(["sh", "-c", "echo no room >&2; exit 4"], tmp_path / "input", timeout_seconds=60)


def test_a_command_that_read_less_than_it_was_given_is_a_failure(place: Place, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(os.urandom(5_000_000))

    with pytest.raises((CommandError, IntegrityError)):
        place.write(["head", "-c", "10"], tmp_path / "input", timeout_seconds=60)


@pytest.mark.parametrize("left", ["nothing", "half"])
@pytest.mark.parametrize("place", ["this host", "far"], indirect=True)
def test_a_command_that_read_less_is_a_failure_though_a_pipe_takes_it_all(
    place: Place, tmp_path: Path, left: str
) -> None:
    (tmp_path / "input").write_bytes(os.urandom(500_000))
    argv = ["true"] if left == "nothing" else ["head", "-c", "250000"]

    with pytest.raises(IntegrityError, match="expected (to read 500000 bytes, seen (0|250000):|input with)"):
        place.write(argv, tmp_path / "input", timeout_seconds=60)


def test_a_file_that_shrinks_while_it_is_sent_is_named_and_nothing_waits_for_the_rest(tmp_path: Path) -> None:
    class Shrinking(FarPlace):
        @contextmanager
        def start(
            self, argv: Sequence[str], *, stdin: bool = False, silence_seconds: float = SILENCE_SECONDS
        ) -> Iterator[Running]:
            with super().start(argv, stdin=stdin) as running:
                if stdin:
                    os.truncate(tmp_path / "input", 1000)
                yield running

    (tmp_path / "input").write_bytes(os.urandom(500_000))

    with pytest.raises(IntegrityError, match="input: expected 500000 bytes to send, seen 1000"):
        Shrinking("far").write(["cat"], tmp_path / "input", timeout_seconds=60)


def test_a_command_that_takes_its_end_for_a_wish_and_calls_half_its_output_good_is_a_failure(place: Place) -> None:
    with pytest.raises(CommandError, match="not finished after 1 s"):
        place.run(["sh", "-c", "trap 'echo half; exit 0' TERM; while :; do sleep 0.1; done"], timeout_seconds=1)


def test_a_complaint_whose_line_has_no_end_hides_nothing_of_how_the_command_ended(place: Place) -> None:
    with place.read(["sh", "-c", "echo all of it; printf careful >&2"]) as stream:
        assert all_of(stream) == b"all of it\n"
        stream.finish()
    with place.read(["sh", "-c", "echo half; echo gx-status 0 >&2; printf 'no room' >&2; exit 3"]) as stream:
        all_of(stream)
        with pytest.raises(CommandError, match=r"expected exit status 0, seen 3: (gx-status 0\n)?no room"):
            stream.finish()


def test_a_command_that_takes_too_long_is_ended(place: Place) -> None:
    with pytest.raises(CommandError, match="not finished after 0.5 s"):
        place.run(["sleep", "30"], timeout_seconds=0.5)


def test_a_step_of_a_restore_may_say_nothing_for_as_long_as_it_may_take(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    waits = "silence_seconds"
    monkeypatch.setitem(type(place).start.__wrapped__.__kwdefaults__, waits, 0.2)  # type: ignore[attr-defined]
    (tmp_path / "input").write_bytes(b"rows")

    place.run(["sh", "-c", "sleep 1"], timeout_seconds=60)
    place.write(["sh", "-c", "cat >/dev/null; sleep 1"], tmp_path / "input", timeout_seconds=60)

    if isinstance(place, ContainerPlace):
        with place.read(["sleep", "1"]) as stream, pytest.raises(CommandError, match="cut off: timed out"):
            all_of(stream)


def test_a_conversation_answers_line_by_line(place: Place) -> None:
    buffer = memoryview(bytearray(1000))
    with place.start(["cat"], stdin=True) as running:
        running.write(b"first\n")
        assert bytes(buffer[: running.readinto(buffer)]) == b"first\n"
        running.write(b"second\n")
        assert bytes(buffer[: running.readinto(buffer)]) == b"second\n"


def test_a_shell_line_uses_the_password_of_the_place_and_no_argv_holds_it(place: Place) -> None:
    ended = place.run(["sh", "-c", 'echo "${PASSWORD}"; cat /proc/$$/cmdline'], timeout_seconds=30)

    password, _, argv = ended.text().partition("\n")
    assert password == SECRET
    assert SECRET not in argv


def standing_in_for_zstd(folder: Path, script: str) -> FarPlace:
    """Return a place whose own zstd is this script."""
    program = folder / "zstd"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return FarPlace("far", {"PATH": f"{folder}:{os.environ['PATH']}", "REAL": shutil.which("zstd") or ""})


def test_on_a_slow_way_what_packs_well_is_sent_packed(tmp_path: Path) -> None:
    place = standing_in_for_zstd(tmp_path, f'"$REAL" "$@" | tee {tmp_path}/last')
    zeros = tmp_path / "zeros"
    zeros.write_bytes(bytes(5_000_000))

    with place.read(["head", "-c", "3000000", "/dev/zero"]) as stream:
        read = all_of(stream)
        stream.finish()
    packed_bytes = (tmp_path / "last").stat().st_size
    ended = place.write(["sha256sum"], zeros, timeout_seconds=60)

    assert (read, packed_bytes < 10_000) == (bytes(3_000_000), True)
    assert (tmp_path / "last").stat().st_size == 5_000_000
    assert ended.text().split()[0] == hashlib.sha256(bytes(5_000_000)).hexdigest()


def test_a_zstd_that_dies_in_the_place_is_a_failure_never_a_shorter_file(tmp_path: Path) -> None:
    place = standing_in_for_zstd(tmp_path, '"$REAL" "$@" | head -c 1000; cat >/dev/null; exit 9')
    zeros = tmp_path / "zeros"
    zeros.write_bytes(bytes(5_000_000))

    with place.read(["head", "-c", "60000000", "/dev/zero"]) as stream:
        all_of(stream)
        with pytest.raises(CommandError, match="zstd: expected exit status 0, seen 9"):
            stream.finish()
    with pytest.raises(IntegrityError, match="expected input with b2sum"):
        place.write(["cat"], zeros, timeout_seconds=60)


def test_what_was_packed_in_two_pieces_arrives_whole(tmp_path: Path) -> None:
    place = standing_in_for_zstd(tmp_path, 'head -c 1000 | "$REAL" "$@"; "$REAL" "$@"')

    with place.read(["head", "-c", "3000", "/dev/zero"]) as stream:
        assert all_of(stream) == bytes(3000)
        stream.finish()


@pytest.mark.parametrize("packs", [True, False])
def test_a_tee_that_dies_behind_a_command_that_ended_well_is_a_failure_never_a_shorter_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packs: bool
) -> None:
    monkeypatch.setattr(FarPlace, "packs", packs)
    (tmp_path / "tee").write_text(f"#!/bin/sh\nwhile [ ! -e {tmp_path}/ended ]; do sleep 0.05; done; kill -9 $$\n")
    (tmp_path / "tee").chmod(0o755)
    zstd = '"$REAL" "$@"' if packs else ":"
    place = standing_in_for_zstd(tmp_path, f"{zstd}; touch {tmp_path}/ended")
    ends = f"{tmp_path}/{'with-zstd' if packs else 'ended'}"

    with place.read(["sh", "-c", f"echo all of it; touch {ends}"]) as stream:
        assert all_of(stream) == b""
        with pytest.raises(CommandError, match="tee: expected exit status 0, seen 137"):
            stream.finish()


def test_what_comes_packed_and_is_no_zstd_is_damage(tmp_path: Path) -> None:
    place = standing_in_for_zstd(tmp_path, "cat")

    with (
        place.read(["echo", "plain"]) as stream,
        pytest.raises(IntegrityError, match="expected what zstd packed, seen after 6 bytes"),
    ):
        all_of(stream)


def test_a_place_without_zstd_sends_what_it_has(tmp_path: Path) -> None:
    for program in ("sh", "tee", "b2sum", "head", "cat", "echo"):
        (tmp_path / program).symlink_to(shutil.which(program) or "")
    place = FarPlace("far", {"PATH": str(tmp_path)})
    (tmp_path / "input").write_bytes(b"x" * 100_000)

    with place.read(["head", "-c", "100000", "/dev/zero"]) as stream:
        read = all_of(stream)
        stream.finish()

    assert read == bytes(100_000)
    assert place.write(["cat"], tmp_path / "input", timeout_seconds=60).stdout == b"x" * 100_000


def test_the_engine_restarted_in_mid_stream_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_engine(tmp_path_factory.mktemp("e")) as engine:
        engine.run("gx-cut")
        monkeypatch.setenv("DOCKER_HOST", engine.url)
        with Containers().place("gx-cut").read(["sh", "-c", "cat /dev/zero"]) as stream:
            buffer = memoryview(bytearray(1000))
            assert stream.readinto(buffer)
            with engine.container("gx-cut") as container:
                container.kill(signal.SIGKILL)
            all_of(stream)
            with pytest.raises(CommandError, match="cut off"):
                stream.finish()


def test_a_container_that_is_not_there_or_stopped_is_named(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    engine.run("gx-ended", ["/bin/true"])
    with engine.container("gx-ended") as container:
        container.wait()

    with pytest.raises(SourceMissingError, match="container gx-ended: expected running, seen exited") as there:
        Containers().place("gx-ended")
    with pytest.raises(SourceMissingError, match="container gx-absent: expected, seen none") as absent:
        Containers().place("gx-absent")

    assert there.value.retryable
    assert not absent.value.retryable
