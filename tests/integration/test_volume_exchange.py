"""What a volume holds is exchanged in a place: whole or not at all, also where the shell is killed between moves."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gxbackup.adapters.places import LocalPlace
from gxbackup.errors import CommandError, RestoreError, RestoreRefusedError
from gxbackup.volume_exchange import VolumeExchange

OLD = {
    "chains/channel1/blockfile_000000": "old blocks",
    "index/CURRENT": "old index",
    ".hidden": "old",
    "only old": "o",
}
RESTORED = {"chains/channel1/blockfile_000000": "new blocks", "index/CURRENT": "new index", ".hidden": "new"}
# Every move is counted; the one whose turn it is kills the whole command before it moves anything, or after.
MV = """#!/bin/sh
count=$(($(cat "$GX_COUNT") + 1)); echo "$count" >"$GX_COUNT"
[ "$count" != "$GX_DIE_BEFORE" ] || kill -9 0
/bin/mv "$@" || exit 1
[ "$count" != "$GX_DIE_AFTER" ] || kill -9 0
"""


def fill(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def held(folder: Path) -> dict[str, str]:
    """Return what is in place: all files but ours, and empty folders as well."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if not name.startswith(".gxbackup-") and (path.is_file() or not any(path.iterdir())):
            found[name] = path.read_text() if path.is_file() else ""
    return found


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    source = fill(tmp_path / "source", RESTORED)
    subprocess.run(["tar", "-C", source, "-cf", tmp_path / "new.tar", "."], check=True)
    return tmp_path / "new.tar"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "volume", OLD)


def test_the_old_content_lies_beside_the_new_one_and_can_be_put_back(folder: Path, tar: Path) -> None:
    exchange = VolumeExchange(LocalPlace("here"), str(folder))
    (folder / "lost+found").mkdir()

    exchange.prepare(0)
    exchange.unpack(tar)
    before = exchange.exchange()

    assert held(folder) == {**RESTORED, "lost+found": ""}
    assert held(Path(before)) == OLD
    exchange.put_back()
    assert held(folder) == {**OLD, "lost+found": ""}
    assert list(folder.glob(".gxbackup-*")) == []


@pytest.mark.parametrize("when", ["GX_DIE_BEFORE", "GX_DIE_AFTER"])
@pytest.mark.parametrize("putting_back", [False, True], ids=["exchange", "put back"])
def test_killed_at_any_move_one_content_is_whole_after_it_was_recovered(
    folder: Path, tar: Path, tmp_path: Path, when: str, putting_back: bool
) -> None:
    shims = tmp_path / "bin"
    shims.mkdir()
    (shims / "mv").write_text(MV)
    (shims / "mv").chmod(0o755)
    count = tmp_path / "count"
    ended_well = deaths = 0
    for step in range(1, 20):
        shutil.rmtree(folder)
        fill(folder, OLD)
        healthy = VolumeExchange(LocalPlace("here"), str(folder))
        healthy.prepare(0)
        healthy.unpack(tar)
        if putting_back:
            healthy.exchange()
        count.write_text("0")
        environment = {"PATH": f"{shims}:{os.environ['PATH']}", "GX_COUNT": str(count), when: str(step)}
        dying = VolumeExchange(LocalPlace("here", environment), str(folder))
        dying.before = healthy.before
        dying.recover = lambda: False  # type: ignore[method-assign]
        try:
            dying.put_back() if putting_back else dying.exchange()
            ended_well += 1
        except (CommandError, RestoreError):
            deaths += 1

        healthy.recover()

        assert held(folder) in (OLD, RESTORED), f"after a kill at move {step}"
        if ended_well:
            break
        if held(folder) == OLD:
            continue
        assert held(folder / healthy.before) == OLD, f"after a kill at move {step}"
    assert ended_well == 1
    assert deaths > 8


def test_a_half_moved_exchange_is_put_back_before_the_next_one_begins(folder: Path, tar: Path) -> None:
    (folder / ".gxbackup-undo").mkdir()
    (folder / "only old").rename(folder / ".gxbackup-undo" / "only old")
    exchange = VolumeExchange(LocalPlace("here"), str(folder))

    exchange.prepare(0)

    assert held(folder) == OLD


def test_without_room_nothing_is_touched(folder: Path) -> None:
    with pytest.raises(RestoreRefusedError, match="needs 1125899906842624 bytes and some to spare"):
        VolumeExchange(LocalPlace("here"), str(folder)).prepare(1024**5)

    assert held(folder) == OLD


def test_what_a_killed_restore_left_half_unpacked_takes_no_room_from_the_next_one(folder: Path) -> None:
    held_bytes = 96 * 1024**2
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={held_bytes}", "tmpfs", folder], check=True)
    try:
        fill(folder, OLD)
        (folder / ".gxbackup-new").mkdir()
        (folder / ".gxbackup-new" / "blockfile_000000").write_bytes(bytes(held_bytes - 8 * 1024**2))

        VolumeExchange(LocalPlace("here"), str(folder)).prepare(held_bytes // 2)

        assert held(folder) == OLD
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_tar_that_cannot_be_unpacked_leaves_the_old_content(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "no.tar").write_bytes(b"no tar at all" * 100)
    exchange = VolumeExchange(LocalPlace("here"), str(folder))
    exchange.prepare(0)

    with pytest.raises(CommandError, match="tar"):
        exchange.unpack(tmp_path / "no.tar")
    exchange.discard()

    assert held(folder) == OLD
    assert list(folder.glob(".gxbackup-*")) == []
