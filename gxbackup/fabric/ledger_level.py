"""What tar reads of a ledger's frozen copy, and the proof that the copy stayed whole meanwhile."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from gxbackup import incremental, trees
from gxbackup.adapters import process
from gxbackup.errors import CollectError
from gxbackup.frozen_copy import OURS, FrozenCopy
from gxbackup.model import Capture, Evidence
from gxbackup.ports import PlainStream
from gxbackup.tar_messages import TarMessages
from gxbackup.tar_output import PIPE_BYTES, TarOutput


@contextmanager
def level_of(
    copy: FrozenCopy, capture: Capture, evidence: Evidence, shortfalls: tuple[str, ...], label: str
) -> Iterator[PlainStream]:
    """Run the tar that reads a copy; it is ended with the block."""
    snar = incremental.snar(copy.area, capture)
    with process.start(incremental.tar(copy.tree, snar), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as tar:
        assert tar.stderr
        messages = TarMessages(tar.stderr)
        messages.start()
        try:
            output = TarOutput(tar, messages, copy.tree, label)
            whole = partial(_require_whole, copy.tree, evidence, label)
            yield incremental.Level(output, copy.area, capture, evidence, shortfalls, whole)
        finally:
            process.end(tar)
            messages.join()


def level_size_bytes(folder: Path, since: float) -> int:
    """Return about how much tar will write: files that changed since a time."""
    return PIPE_BYTES + sum(
        member.size_bytes
        for member in trees.walk(folder)
        if member.mtime >= since and not member.name.startswith(OURS.encode())
    )


def _require_whole(tree: Path, evidence: Evidence, label: str) -> None:
    """Raise CollectError where a copy is not what it was: it went with its volume or pod while tar read it."""
    try:
        is_whole = trees.tally(tree) == evidence["tree"]
    except OSError:
        is_whole = False
    if not is_whole:
        raise CollectError(
            f"{label}: its copy went while it was read", "was its pod or its volume deleted meanwhile?", retryable=True
        )
