"""A node of Fabric as a real process that writes its ledger, in a control group of its own as a pod has one."""

from __future__ import annotations

import errno
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
HIERARCHY = Path("/sys/fs/cgroup")
# As a peer commits: private data first, then the block; both are of one height, or one apart.
WRITER = textwrap.dedent("""
    import os, sys
    from pathlib import Path
    from tests.fabric_network import BlockWriter
    volume, chains = Path(sys.argv[1]), sys.argv[2]
    writer = BlockWriter(volume / chains / "channel1")
    private = volume / "ledgersData" / "pvtdataStore"
    private.mkdir(parents=True, exist_ok=True)
    log = (private / "000001.log").open("ab", buffering=0)
    while True:
        log.write(b"%08d" % writer.number)
        (private / "CURRENT.new").write_text(f"{writer.number:08d}")
        (private / "CURRENT.new").rename(private / "CURRENT")
        writer.append(1)
        if writer.number % 2000 == 0:
            writer.next_file()
        if writer.number == 50:
            print("writes", flush=True)
""")


def hierarchies() -> list[Path]:
    """Return where this kernel can freeze processes: the freezer of cgroup v1, cgroup v2, or both side by side."""
    tops = (HIERARCHY / "freezer", HIERARCHY / "unified", HIERARCHY)
    return [top for top in tops if (top / "cgroup.procs").exists() and (top.name != "cgroup" or _is_v2(top))]


def _is_v2(top: Path) -> bool:
    return (top / "cgroup.controllers").exists()


@contextmanager
def control_groups(hierarchy: Path | None = None) -> Iterator[Path]:
    """Give a folder of the kernel's freezer that looks like the top of a node's control groups."""
    top = (hierarchy or hierarchies()[0]) / f"gxt-{uuid.uuid4().hex[:8]}"
    (top / "kubepods").mkdir(parents=True)
    try:
        yield top
    finally:
        for group in (top / "kubepods", top):
            until(lambda group=group: removed(group), f"{group} is removed")


@contextmanager
def writing_node(groups: Path, uid: str, volume: Path, chains: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that appends blocks as fast as it can, in the control group of a pod of this uid."""
    words = [sys.executable, "-c", WRITER, str(volume), chains]
    with process_in(groups / "kubepods" / f"pod{uid}", words, b"writes\n") as process:
        yield process


@contextmanager
def process_in(group: Path, words: Sequence[str | Path], said: bytes) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process in a control group of its own, and give it once it has said its first line."""
    group.mkdir()
    with subprocess.Popen(words, cwd=PROJECT, stdout=subprocess.PIPE) as process:
        try:
            (group / "cgroup.procs").write_text(str(process.pid))
            assert process.stdout
            assert process.stdout.readline() == said
            yield process
        finally:
            process.kill()
            process.wait()
            if group.exists():
                until(lambda: not (group / "cgroup.procs").read_text(), "the group is empty")
                until(lambda: removed(group), f"{group} is removed")


def removed(group: Path) -> bool:
    """Remove a control group; False while the kernel still counts a process that has ended, or a child, in it."""
    try:
        group.rmdir()
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def until(condition: object, what: str, timeout_seconds: float = 20) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_seconds} s: {what}"
        time.sleep(0.01)
