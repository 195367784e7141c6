"""The private directory that always disappears, and the lock that no crash leaves behind: with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gxbackup import staging
from gxbackup.errors import LockedError, StagingError
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


def test_a_killed_run_holds_no_lock() -> None:
    killed = in_another_process(HOLD_LOCK)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()

    with locked("remote-of-this-test", "vps1", "backup of vps1") as held:
        assert held is None


def test_servers_and_remotes_do_not_block_each_other() -> None:
    with locked("one", "vps1", "a"), locked("one", "vps2", "b"), locked("two", "vps1", "c") as held:
        assert held is None
