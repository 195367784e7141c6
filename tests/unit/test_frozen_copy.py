"""Files of a running server that it writes while they are copied: once it stands still, the copy is what they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gxbackup import placing, trees
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


def test_a_folder_that_goes_between_two_looks_costs_nothing_else_its_copy(
    volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (volume / "temp").mkdir()
    make_folder = FrozenCopy._make_folder

    def gone_by_now(copy: FrozenCopy, name: str) -> None:
        make_folder(copy, name)
        if name == "temp":
            (volume / name).rmdir()

    monkeypatch.setattr(FrozenCopy, "_make_folder", gone_by_now)
    copy = copy_of(volume)

    copy.approach(anew=True)

    assert [path.name for path in copy.tree.iterdir()] == ["wal"]
    assert (copy.tree / "wal" / "0.wal").exists()


def test_a_folder_that_goes_while_a_live_tree_is_measured_is_passed_over(volume: Path) -> None:
    (volume / "temp").mkdir()
    seen = []

    for member in trees.walk(volume):
        seen.append(member.name)
        if member.name == b"temp":
            (volume / "temp").rmdir()

    assert sorted(seen) == [b".", b"temp", b"wal", b"wal/0.wal"]


def test_no_folder_is_given_the_inode_of_one_that_tar_remembers(volume: Path) -> None:
    copy = copy_of(volume)
    copy.approach(anew=True)
    remembered = (copy.tree / "wal").stat().st_ino
    (volume / "wal" / "0.wal").unlink()
    (volume / "wal").rmdir()

    for name in ("one", "two", "three"):
        (volume / name).mkdir()
        copy.approach(anew=False)

    assert remembered not in {folder.stat().st_ino for folder in copy.tree.iterdir()}
    assert [folder.stat().st_ino for folder in (copy.area / "gone").iterdir()] == [remembered]
    copy.approach(anew=True)
    assert not (copy.area / "gone").exists()
