"""A pod stands still for a moment, and always goes on: real processes in a real control group."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gxbackup.adapters import freezer
from gxbackup.errors import CollectError, CommandError, SetupError
from tests.integration.node import PROJECT, control_groups, hierarchies, removed, until, writing_node

UID = "6fd6371d-bb55-44e9-8054-4d3f1db01859"
FREEZES_AND_WAITS = """
import sys, time
from pathlib import Path
from gxbackup.adapters import freezer
freezer.CGROUPS = Path(sys.argv[1])
with freezer.frozen(sys.argv[2], "a peer", limit_seconds=60):
    print("frozen", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=hierarchies(), ids=lambda top: top.name)
def groups(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with control_groups(request.param) as top:
        monkeypatch.setattr(freezer, "CGROUPS", top)
        yield top


@pytest.fixture
def volume(groups: Path, tmp_path: Path) -> Iterator[Path]:
    with writing_node(groups, UID, tmp_path, "chains"):
        yield tmp_path


def size_bytes(volume: Path) -> int:
    return sum(file.stat().st_size for file in (volume / "chains" / "channel1").iterdir())


def test_nothing_is_written_in_the_block_and_again_after_it(volume: Path) -> None:
    with freezer.frozen(UID, "a peer"):
        seen = size_bytes(volume)
        assert subprocess.run(["sync", "-f", volume], check=True, timeout=30).returncode == 0
        assert size_bytes(volume) == seen

    until(lambda: size_bytes(volume) > seen, "it writes again")


def test_an_error_in_the_block_thaws_too(volume: Path) -> None:
    seen = size_bytes(volume)

    with pytest.raises(KeyError), freezer.frozen(UID, "a peer"):
        raise KeyError

    until(lambda: size_bytes(volume) > seen, "it writes again")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_dies_in_the_block_leaves_the_pod_running(volume: Path, groups: Path, number: int) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", FREEZES_AND_WAITS, str(groups), UID], cwd=PROJECT, stdout=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    assert worker.stdout
    assert worker.stdout.readline() == b"frozen\n"
    seen = size_bytes(volume)

    os.killpg(worker.pid, number)
    worker.wait()
    worker.stdout.close()

    until(lambda: size_bytes(volume) > seen, "it writes again")


def test_a_block_that_takes_too_long_is_an_error_and_the_pod_went_on_meanwhile(volume: Path) -> None:
    def take_too_long() -> None:
        with freezer.frozen(UID, "a peer", limit_seconds=1):
            seen = size_bytes(volume)
            until(lambda: size_bytes(volume) > seen, "it writes again by itself")

    with pytest.raises(CollectError, match="went on before all was read") as raised:
        take_too_long()

    assert raised.value.retryable


def test_a_pod_that_is_removed_in_the_block_is_not_waited_for(volume: Path, groups: Path) -> None:
    group = freezer.control_group(UID, "a peer")

    with pytest.raises(CommandError, match="or its pod was removed"), freezer.frozen(UID, "a peer"):
        remove_as_a_kubelet_does(group)

    until(lambda: str(group) not in _command_lines(), "nobody waits for it any more")


def remove_as_a_kubelet_does(group: Path) -> None:
    for name, word in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
        if (group / name).exists():
            (group / name).write_text(word)
    for process in freezer.processes(group):
        os.kill(process, signal.SIGKILL)
    until(lambda: removed(group), "it is removed")


def _command_lines() -> str:
    return subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def test_a_pod_of_another_node_is_told(groups: Path) -> None:
    with pytest.raises(SetupError, match="expected its control group"), freezer.frozen("no-such-uid", "a peer"):
        pass
