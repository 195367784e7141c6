"""Files of a running server that it writes while they are copied: once it stands still, the copy is what they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gxbackup import placing
from gxbackup.frozen_copy import FrozenCopy

LONG_AGO = 1_700_000_000


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A ledger whose log has its full size from the first day, as Raft's has."""
    folder = tmp_path / "volume"
    (folder / "wal").mkdir(parents=True)
    log = folder / "wal" / "0.wal"
    log.write_bytes(bytes(3 * placing.COPY_BYTES))
    os.utime(log, (LONG_AGO, LONG_AGO))
    return folder


def copy_of(volume: Path) -> FrozenCopy:
    return FrozenCopy(
        volume, is_finished=lambda _: False, is_appended=lambda _: False, is_left_out=lambda _: False
    )  # fmt: skip


def test_what_is_written_at_an_equal_size_behind_the_reader_is_in_the_copy_once_the_server_stands_still(
    volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = volume / "wal" / "0.wal"
    sendfile = os.sendfile

    def written_behind(writing: int, reading: int, offset: int | None, limit: int) -> int:
        count = sendfile(writing, reading, offset, limit)
        with log.open("r+b") as file:
            file.write(b"an entry")
        os.utime(log, (LONG_AGO + 1, LONG_AGO + 1))
        return count

    copy = copy_of(volume)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(placing.os, "sendfile", written_behind)
        copy.approach(anew=True)
    copy.settle()

    assert (copy.tree / "wal" / "0.wal").read_bytes() == log.read_bytes()
    assert (copy.tree / "wal" / "0.wal").stat().st_mtime == LONG_AGO + 1
