"""The private directory that always disappears, and the lock that no crash leaves behind: with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from estate import await_condition

from gxbackup import locks, staging
from gxbackup.errors import LockedError, SetupError, StagingError
from gxbackup.locks import locked


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "staging"
    monkeypatch.setenv("GX_STAGING_DIR", str(folder))
    return folder


def in_another_process(code: str) -> subprocess.Popen[str]:
    """Run code that prints one line once it holds what it should, then waits."""
    child = subprocess.Popen([sys.executable, "-c", code], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


HOLD_STAGING = """
from gxbackup.staging import staging_area
with staging_area("vps1") as area:
    (area / "secret").write_text("x")
    print("held", flush=True)
    input()
"""
# Stands between the making of its directory and the lock on it until it is told to go on.
MAKE_STAGING_SLOWLY = """
import os
from gxbackup import staging
def opened(path, *words, open=os.open, **named):
    if str(path).endswith(".in-use") and "slow" in str(path):
        print("held", flush=True)
        input()
    return open(path, *words, **named)
os.open = opened
with staging.staging_area("slow") as area:
    print("whole" if (area / ".in-use").exists() else "swept", flush=True)
"""
HOLD_LOCK = """
from gxbackup.locks import locked
with locked("remote-of-this-test", "vps1", "backup of vps1"):
    print("held", flush=True)
    input()
"""


def test_staging_is_private_and_gone_afterwards(root: Path) -> None:
    with staging.staging_area("vps1") as area:
        (area / "folder").mkdir()
        (area / "folder" / "file").touch()
        assert area.stat().st_mode & 0o777 == 0o700
        assert root.stat().st_mode & 0o777 == 0o700

    assert list(root.iterdir()) == []


def test_staging_is_gone_after_a_failure(root: Path) -> None:
    with pytest.raises(RuntimeError), staging.staging_area("vps1"):
        raise RuntimeError

    assert list(root.iterdir()) == []


def test_what_a_killed_run_left_is_swept_by_the_next(root: Path) -> None:
    killed = in_another_process(HOLD_STAGING)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert len(list(root.iterdir())) == 1

    with staging.staging_area("vps1") as area:
        assert list(root.iterdir()) == [area]


def test_the_staging_of_a_living_run_is_never_swept(root: Path) -> None:
    alive = in_another_process(HOLD_STAGING)
    (held,) = root.iterdir()

    with staging.staging_area("vps1"):
        assert (held / "secret").exists()

    alive.communicate("\n")
    assert list(root.iterdir()) == []


def test_a_run_that_has_just_made_its_staging_is_not_taken_for_a_dead_one(root: Path) -> None:
    beginning = in_another_process(MAKE_STAGING_SLOWLY)
    sweeping = subprocess.Popen([sys.executable, "-c", HOLD_STAGING], text=True, stdin=-1, stdout=-1)

    await_condition(
        "the other run to wait, or to be through",
        lambda: waits_for_a_lock(sweeping.pid) or bool(list(root.glob(f"run-*-{sweeping.pid}"))), 30,
    )  # fmt: skip
    said, _ = beginning.communicate("\n")
    sweeping.communicate("\n")

    assert said == "whole\n"
    assert beginning.returncode == sweeping.returncode == 0
    assert list(root.iterdir()) == []


def waits_for_a_lock(pid: int) -> bool:
    return any("->" in line and f" {pid} " in line for line in Path("/proc/locks").read_text().splitlines())


def test_files_that_nobody_needs_any_more_make_room_before_the_end(root: Path) -> None:
    with staging.staging_area("vps1") as area:
        (area / "one").touch()
        (area / "two").touch()
        staging.drop(area, ["one", "gone already"])
        assert not (area / "one").exists()
        assert (area / "two").exists()


def test_a_staging_directory_open_to_others_is_refused(root: Path) -> None:
    root.mkdir(mode=0o755)
    root.chmod(0o755)

    with pytest.raises(StagingError, match="expected a directory of mode 0700"):
        staging.staging_root()


def test_a_staging_directory_in_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GX_STAGING_DIR", f"/dev/shm/gx-backup-{os.getpid()}")

    try:
        with pytest.raises(StagingError, match="expected a disk, seen tmpfs"):
            staging.staging_root()
    finally:
        Path(f"/dev/shm/gx-backup-{os.getpid()}").rmdir()


def test_no_room_is_known_before_the_work(root: Path) -> None:
    with (
        staging.staging_area("vps1") as area,
        pytest.raises(StagingError, match=r"website\.tar needs up to 4611686018427387904 bytes"),
    ):
        staging.require_room(area, 2**62, "website.tar")


def test_the_second_run_ends_at_once_and_names_the_first(root: Path) -> None:
    first = in_another_process(HOLD_LOCK)

    with (
        pytest.raises(LockedError, match=rf"backup of vps1 \(process {first.pid}\) since "),
        locked("remote-of-this-test", "vps1", "prune of vps1"),
    ):
        pytest.fail("two runs hold one lock")

    first.communicate("\n")
    with locked("remote-of-this-test", "vps1", "prune of vps1"):
        pass


def test_a_run_that_may_wait_says_for_whom_and_goes_on_once_that_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "SECONDS_BETWEEN_TRIES", 0.05)
    first = in_another_process(HOLD_LOCK)
    told = []

    def end_the_first(line: str) -> None:
        told.append(line)
        first.communicate("\n")

    with locked("remote-of-this-test", "vps1", "restore of website", wait_seconds=60, tell=end_the_first):
        pass

    (line,) = told
    assert f"waiting up to 1 min for another run's end: backup of vps1 (process {first.pid})" in line


def test_a_run_that_may_wait_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "SECONDS_BETWEEN_TRIES", 0.05)
    first = in_another_process(HOLD_LOCK)

    with (
        pytest.raises(LockedError, match="backup of vps1"),
        locked("remote-of-this-test", "vps1", "restore of website", wait_seconds=0.2),
    ):
        pytest.fail("two runs hold one lock")

    first.communicate("\n")


@pytest.mark.parametrize("harm", ["open", "another's", "link"])
def test_a_lock_directory_that_others_can_reach_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    folder = tmp_path / "locks"
    folder.mkdir(mode=0o700)
    if harm == "open":
        folder.chmod(0o777)
    elif harm == "another's":
        os.chown(folder, 65534, 65534)
    else:
        folder = tmp_path / "link"
        folder.symlink_to("locks")
    monkeypatch.setattr(locks, "LOCK_DIR", folder)

    with pytest.raises(SetupError, match="expected a directory of mode 0700 that is ours"), locked("r", "vps1", "x"):
        pytest.fail("locked where anybody could unlock")


def test_a_killed_run_holds_no_lock() -> None:
    killed = in_another_process(HOLD_LOCK)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()

    with locked("remote-of-this-test", "vps1", "backup of vps1") as held:
        assert held is None


def test_servers_and_remotes_do_not_block_each_other() -> None:
    with locked("one", "vps1", "a"), locked("one", "vps2", "b"), locked("two", "vps1", "c") as held:
        assert held is None
