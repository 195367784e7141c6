"""A restore of Redis that is killed, or fails at its last step, ends well when it is run again; nothing is lost."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from gxbackup.errors import (
    CommandError,
    RestoreError,
)
from gxbackup.redis import restore, swap
from tests.integration.redis_servers import (
    APPENDING,
    FILES,
    Killed,
    LocalRedis,
    filled,
    holds,
    pod_host,
    source,
    taken,
    work,
)


@pytest.mark.parametrize(
    ("moment", "appends"),
    [("prepared", True), ("moved away", True), ("moved in", True), ("moved in", False), ("exchanged", True),
     ("started", True)],
)  # fmt: skip
def test_a_restore_that_was_killed_ends_well_when_it_is_run_again(
    own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, appends: bool
) -> None:
    redis = own("--appendonly", "yes" if appends else "no")
    given = filled(redis, tmp_path / "area")
    redis.cli("SET", "newer", "than-the-backup")
    files = APPENDING if appends else FILES

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(restore, "_undone", lambda _target, _files, error, *_: error)
        if moment == "prepared":
            patch.setattr(swap, "exchange", killed)
        elif moment == "started":
            patch.setattr(swap, "keep", killed)
        elif moment == "exchanged":
            patch.setattr(redis, "start", killed)
        else:  # the shell itself is cut between two renames
            cut = 'for item in "$@"; do\n    [ !' if moment == "moved away" else 'rm -rf ".gx-restore-new"; sync'
            patch.setattr(swap, "_SWAP", swap._SWAP.replace(cut, "exit 9; " + cut))
        with pytest.raises((Killed, CommandError)):
            restore.put_in_place(redis, given.file, files, given.artifact.evidence)

    restore.put_in_place(redis, given.file, files, given.artifact.evidence)

    assert redis.cli("DBSIZE") == "1006"
    [kept] = [path for path in redis.path.glob("before-restore-*") if holds(path, redis, "newer")]
    assert not list(redis.path.glob("*.unfinished"))
    redis.stop()
    other = LocalRedis(kept, *redis.settings)
    other.start()
    assert other.cli("GET", "newer") == "than-the-backup"
    other.stop()


def test_what_was_written_since_a_restore_that_was_not_finished_is_told_and_kept(
    own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = own("--save", "3600 1")
    redis.fill()
    capture, rdb, end = taken(redis)
    work_given = work(tmp_path / "area", capture, rdb, end)
    given = work_given.opened[0]

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(restore, "_undone", lambda _target, _files, error, *_: error)
        patch.setattr(swap, "keep", killed)
        with pytest.raises(Killed):
            restore.put_in_place(redis, given.file, FILES, given.artifact.evidence)
    redis.cli("SET", "days-later", "written")  # the restored data serves clients for days

    planned = source(redis).preview(pod_host(redis), work_given)
    told = restore.put_in_place(redis, given.file, FILES, given.artifact.evidence)

    assert [line for line in planned if line.startswith("a restore was cut short here")]
    assert (redis.cli("DBSIZE"), redis.cli("EXISTS", "days-later")) == ("1006", "0")
    aside = Path(told[0].rpartition(" ")[2])
    assert holds(aside, redis, "days-later")


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_last_step_that_fails_leaves_a_server_that_runs_and_says_with_what(
    own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    redis = own("--save", "3600 1")
    given = filled(redis, tmp_path / "area")
    redis.cli("SET", "newer", "than-the-backup")
    rename = 'mv "$before" "$kept"'
    failing = f"exit 9; {rename}" if cut == "before" else f"{rename}; exit 9"
    monkeypatch.setattr(swap, "_KEEP", swap._KEEP.replace(rename, failing))

    with pytest.raises(RestoreError) as raised:
        restore.put_in_place(redis, given.file, FILES, given.artifact.evidence)

    expected = "what was there is back" if cut == "before" else "runs with the restored data"
    assert expected in raised.value.message
    assert redis.cli("EXISTS", "newer") == ("1" if cut == "before" else "0")


def test_a_safety_copy_without_its_list_is_never_removed(own: Any, tmp_path: Path) -> None:
    redis = own("--save", "3600 1")
    given = filled(redis, tmp_path / "area")
    redis.cli("SET", "newer", "than-the-backup")
    restore.put_in_place(redis, given.file, FILES, given.artifact.evidence)
    [kept] = redis.path.glob("before-restore-*")
    kept.rename(f"{kept}.unfinished")  # as a keep that was killed left it
    (redis.path / "before-restore-20200101_000000.unfinished").mkdir()

    restore.put_in_place(redis, given.file, FILES, given.artifact.evidence)

    assert holds(kept, redis, "newer")
    assert not list(redis.path.glob("*.unfinished"))


def test_a_keep_that_is_killed_anywhere_leaves_the_safety_copy(own: Any, tmp_path: Path) -> None:
    redis = own()
    folder = redis.path / "before-restore-20200101_000000.unfinished"
    folder.mkdir()
    (folder / "dump.rdb").write_bytes(b"old")
    (folder / ".items").write_text("dump.rdb\n")
    redis.stop()
    lines = swap._KEEP.splitlines()
    at = next(number for number, line in enumerate(lines) if ".items" in line or line.strip().startswith("mv "))
    killed = "\n".join([*lines[: at + 1], "kill -9 $$", *lines[at + 1 :]])

    subprocess.run(["sh", "-c", killed, "sh", redis.folder], check=False)
    swap.put_back(redis.place, redis.folder, FILES)

    [copy] = [path for path in redis.path.rglob("dump.rdb") if path.read_bytes() == b"old"]
    assert copy.exists()
