"""A folder of a pod's containers, reached through real processes in a control group and mounts of their own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gxbackup.adapters import freezer
from gxbackup.adapters.container_folder import container_folder
from gxbackup.errors import SetupError, SourceMissingError
from tests.integration.node import control_groups, process_in, removed, until

UID = "0a1b2c3d"
# A container: it sees a folder at /mnt that nobody else does.
CONTAINER = 'mount --bind "$1" /mnt && echo mounted && exec sleep 600'


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the control group of a pod; its processes are the tests' own."""
    with control_groups() as top:
        monkeypatch.setattr(freezer, "CGROUPS", top)
        group = top / "kubepods" / f"pod{UID}"
        group.mkdir()
        try:
            yield group
        finally:
            until(lambda: removed(group), f"{group} is removed")


@contextmanager
def container(pod: Path, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that has a folder mounted at /mnt, in a group below the pod's."""
    words = ["unshare", "--mount", "--propagation=private", "sh", "-c", CONTAINER, "sh", folder]
    with process_in(pod / folder.name.replace(" ", "-"), words, b"mounted\n") as process:
        yield process


def folders(tmp_path: Path, *names: str) -> list[Path]:
    made = [tmp_path / name for name in names]
    for folder in made:
        folder.mkdir()
    return made


def test_of_two_containers_that_of_the_ledger_is_given_and_stays_when_its_processes_end(
    pod: Path, tmp_path: Path
) -> None:
    ledger, sidecar = folders(tmp_path, "ledger", "sidecar")
    (ledger / "chains").mkdir()
    with ExitStack() as stack:
        node = stack.enter_context(container(pod, ledger))
        stack.enter_context(container(pod, sidecar))

        with container_folder(UID, "/mnt", "chains", "pod") as folder:
            node.kill()
            node.wait()
            (folder / "chains" / "block").write_text("one")
            os.link(folder / "chains" / "block", folder / "kept")

    assert (ledger / "kept").samefile(ledger / "chains" / "block")
    assert not folder.exists()


def test_a_folder_is_not_guessed(pod: Path, tmp_path: Path) -> None:
    one, other = folders(tmp_path, "one", "other")
    (one / "link").symlink_to(tmp_path)
    with container(pod, one), container(pod, other):
        for inside, seen in (
            ("/mnt", "seen 0 in 2 such folders"),
            ("/mnt/none", "none: .*: No such file or directory"),
            ("/mnt/link", "none: .*: Not a directory"),
        ):
            with (
                pytest.raises(SourceMissingError, match=f"peer0: expected one {inside} with chains .*{seen}"),
                container_folder(UID, inside, "chains", "peer0"),
            ):
                pass
        for folder in (one, other):
            (folder / "chains").mkdir()
        with (
            pytest.raises(SourceMissingError, match="seen 2 in 2 such folders"),
            container_folder(UID, "/mnt", "chains", "peer0"),
        ):
            pass


def test_a_pod_without_a_process_here_is_named(pod: Path) -> None:
    with (
        pytest.raises(SourceMissingError, match="peer0: .* seen none: no process"),
        container_folder(UID, "/mnt", "chains", "peer0"),
    ):
        pass
    with (
        pytest.raises(SetupError, match="peer1: expected its control group"),
        container_folder("another", "/mnt", "chains", "peer1"),
    ):
        pass
