"""A restore that was killed, and a host that people went on with: its recovery takes nothing of theirs away."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from site_tree import describe

from gxbackup import safety
from gxbackup.errors import RestoreRefusedError
from gxbackup.overlay import apply, plan, recover, undo, unended
from gxbackup.safety import found
from tests.integration.victims import Victim

# All is done, and it is killed (-9) before it is noted that it ended.
KILLED = """
    import os, signal, sys
    from pathlib import Path
    from gxbackup import overlay

    root, prepared, safety_dir = map(Path, sys.argv[1:4])
    overlay.apply(overlay.plan(prepared, root), safety_dir, "one restore")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The host as it was when the restore began."""
    write(tmp_path / "live/etc/app.conf", "before")
    write(tmp_path / "live/etc/other.conf", "before")
    write(tmp_path / "live/root/.ssh/authorized_keys", "key before\n")
    return tmp_path / "live"


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """The backup, unpacked."""
    write(tmp_path / "prepared/etc/app.conf", "backup")
    write(tmp_path / "prepared/etc/other.conf", "backup")
    write(tmp_path / "prepared/etc/created.conf", "backup")
    write(tmp_path / "prepared/root/.ssh/authorized_keys", "key of the backup\n")
    write(tmp_path / "prepared/home/op/.ssh/authorized_keys", "key of the backup\n")
    return tmp_path / "prepared"


@pytest.fixture
def safety_dir(tmp_path: Path) -> Path:
    return tmp_path / "safety"


@pytest.fixture
def killed(root: Path, prepared: Path, safety_dir: Path) -> Path:
    """The folder of a restore that was killed before its end."""
    with Victim(KILLED) as victim:
        assert victim.run(root, prepared, safety_dir) == -signal.SIGKILL
    (folder,) = safety_dir.iterdir()
    return folder


def opened(archive: Path, into: Path) -> Path:
    into.mkdir()
    subprocess.run(["tar", "-x", "-p", "-C", into, "-f", archive], check=True)
    return into


def test_what_was_edited_since_lies_in_a_copy_of_its_own(
    root: Path, safety_dir: Path, killed: Path, tmp_path: Path
) -> None:
    for name in ("app.conf", "created.conf"):
        write(root / "etc" / name, "edited since")

    assert recover(root, safety_dir) == [killed]

    assert (root / "etc/app.conf").read_text() == "before"
    assert not (root / "etc/created.conf").exists()
    (archive,) = found([killed])
    kept = opened(archive, tmp_path / "opened")
    assert (kept / "etc/app.conf").read_text() == "edited since"
    assert (kept / "etc/created.conf").read_text() == "edited since"


def test_keys_that_changed_since_are_left_as_they_are(root: Path, safety_dir: Path, killed: Path) -> None:
    theirs, created = root / "root/.ssh/authorized_keys", root / "home/op/.ssh/authorized_keys"
    write(theirs, "key added since\n")  # and the one from before was taken away for a reason
    write(created, "key of the backup\nkey added since\n")

    (told,) = unended(root, safety_dir)
    recover(root, safety_dir)

    assert told.endswith("changed since: root/.ssh/authorized_keys, home/op/.ssh/authorized_keys")
    assert theirs.read_text() == "key added since\n"
    assert created.read_text() == "key of the backup\nkey added since\n"
    assert unended(root, safety_dir) == []


def test_keys_that_nobody_changed_since_are_put_back(root: Path, safety_dir: Path, killed: Path) -> None:
    assert (root / "root/.ssh/authorized_keys").read_text() == "key before\nkey of the backup\n"

    recover(root, safety_dir)

    assert (root / "root/.ssh/authorized_keys").read_text() == "key before\n"
    assert not (root / "home").exists()


@pytest.mark.usefixtures("killed")
def test_keys_noted_by_a_journal_without_their_digests_are_left_as_they_are(root: Path, safety_dir: Path) -> None:
    (journal,) = safety_dir.glob("*/journal.open.json")
    journal.write_text(journal.read_text().replace('"keys": {', '"unknown": {'))

    recover(root, safety_dir)

    assert "key before" in (root / "root/.ssh/authorized_keys").read_text()
    assert (root / "home/op/.ssh/authorized_keys").exists()
    assert (root / "etc/app.conf").read_text() == "before"


def test_a_restore_that_did_not_end_is_told_with_its_time_size_and_folder(
    root: Path, safety_dir: Path, killed: Path
) -> None:
    before = describe(root)

    (told,) = unended(root, safety_dir)

    day = killed.name.removeprefix("overlay-")
    assert told.startswith(f"restore of {day[:4]}-{day[4:6]}-{day[6:8]} {day[9:11]}:")
    assert told.endswith(f"UTC that did not end: 8 paths go back from {killed}")
    assert describe(root) == before


def test_where_what_lies_there_cannot_be_copied_nothing_is_put_back(
    root: Path, safety_dir: Path, killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = describe(root)

    def full(*_: object) -> None:
        raise RestoreRefusedError("no safety copy, so nothing was touched")

    monkeypatch.setattr(safety, "_copied", full)
    with pytest.raises(RestoreRefusedError, match="nothing was touched"):
        recover(root, safety_dir)
    assert describe(root) == before
    monkeypatch.undo()

    assert recover(root, safety_dir) == [killed]


@pytest.mark.usefixtures("killed")
def test_a_recovery_that_is_cut_keeps_what_it_found_at_first(
    root: Path, safety_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root / "etc/app.conf", "edited since")

    def cut(_: safety.SafetyCopy, state: str) -> None:
        if state == "undone":
            raise KeyboardInterrupt

    monkeypatch.setattr(safety.SafetyCopy, "_write", cut)
    with pytest.raises(KeyboardInterrupt):
        recover(root, safety_dir)
    monkeypatch.undo()

    first, second = found(recover(root, safety_dir))

    assert (opened(first, tmp_path / "first") / "etc/app.conf").read_text() == "edited since"
    assert (opened(second, tmp_path / "second") / "etc/app.conf").read_text() == "before"


def test_a_restore_that_failed_is_undone_whole_and_no_other(
    root: Path, prepared: Path, safety_dir: Path, tmp_path: Path
) -> None:
    write(tmp_path / "k3s/etc/rancher/config", "backup")
    apply(plan(tmp_path / "k3s", root), safety_dir, "this one")
    copy = apply(plan(prepared, root), safety_dir, "this one")

    undo(root, safety_dir, "another")
    assert (root / "etc/app.conf").read_text() == "backup"
    undo(root, safety_dir, "this one")

    assert (root / "etc/app.conf").read_text() == "before"
    assert not (root / "etc/rancher").exists()
    assert found([copy]) == []
    assert recover(root, safety_dir) == []


def test_keys_that_are_linked_in_the_backup_do_not_take_those_of_now_away(
    root: Path, prepared: Path, safety_dir: Path
) -> None:
    keys = prepared / "root/.ssh/authorized_keys"
    keys.with_name("linked").hardlink_to(keys)
    write(root / "root/.ssh/authorized_keys", "key of now\nkey of the backup\n")

    apply(plan(prepared, root), safety_dir)

    assert (root / "root/.ssh/authorized_keys").read_text() == "key of now\nkey of the backup\n"
    assert plan(prepared, root).changes == ()
