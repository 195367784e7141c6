"""A host's files put back over a live root, as root: all comes back, nothing else goes, and nobody is locked out."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from site_tree import describe

from gxbackup import overlay
from gxbackup.errors import IntegrityError, LockedError, RestoreError, RestoreRefusedError
from gxbackup.locks import locked
from gxbackup.overlay import Change, apply, plan, recover
from gxbackup.safety import SafetyCopy
from tests.integration.victims import Victim

OLD_KEY = "ssh-ed25519 AAAAold operator@old\n"
NEW_KEY = "ssh-ed25519 AAAAnew operator@new\n"
BOTH_KEY = "ssh-ed25519 AAAAboth operator@both\n"


def write(path: Path, text: str, mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The host as it is now."""
    live = tmp_path / "live"
    write(live / "etc/nginx/nginx.conf", "now")
    write(live / "etc/nginx/only-here.conf", "keep me")
    write(live / "etc/same", "same")
    write(live / "etc/hostname", "now")
    write(live / "etc/ssh/ssh_host_ed25519_key", "now", 0o600)
    write(live / "etc/passwd", "now")
    write(live / "root/.ssh/authorized_keys", NEW_KEY + BOTH_KEY.rstrip(), 0o600)
    (live / "etc/link").symlink_to("now")
    (live / "root/.ssh").chmod(0o700)
    return live


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """The backup, unpacked."""
    tree = tmp_path / "prepared"
    write(tree / "etc/nginx/nginx.conf", "then", 0o640)
    write(tree / "etc/nginx/sites/a.conf", "site")
    write(tree / "etc/same", "same")
    write(tree / "etc/hostname", "then")
    write(tree / "etc/ssh/ssh_host_ed25519_key", "then", 0o600)
    write(tree / "etc/passwd", "then")
    write(tree / "root/.ssh/authorized_keys", BOTH_KEY + OLD_KEY, 0o644)
    write(tree / "root/.ssh/id_ed25519", "key", 0o600)
    (tree / "etc/link").symlink_to("then")
    (tree / "root/.ssh").chmod(0o700)
    return tree


@pytest.fixture
def safety_dir(tmp_path: Path) -> Path:
    return tmp_path / "safety"


def put_back(folder: Path) -> None:
    SafetyCopy.of(folder).put_back()


def actions(planned: overlay.OverlayPlan) -> dict[str, str]:
    return {change.path: change.action for change in planned.changes}


def test_a_plan_says_all_that_would_change_and_touches_nothing(root: Path, prepared: Path) -> None:
    before = describe(root)

    planned = plan(prepared, root)

    assert actions(planned) == {
        "etc/link": "replace",
        "etc/nginx/nginx.conf": "replace",
        "etc/nginx/sites": "create",
        "etc/nginx/sites/a.conf": "create",
        "root/.ssh/authorized_keys": "merge",
        "root/.ssh/id_ed25519": "create",
    }
    assert planned.left_alone == ("etc/hostname", "etc/passwd", "etc/ssh/ssh_host_ed25519_key")
    assert planned.changes[0].described() == "replace etc/link"
    assert describe(root) == before


def test_everything_planned_comes_back_and_nothing_else_goes(root: Path, prepared: Path, safety_dir: Path) -> None:
    apply(plan(prepared, root), safety_dir)

    assert (root / "etc/nginx/nginx.conf").read_text() == "then"
    assert (root / "etc/nginx/nginx.conf").stat().st_mode & 0o7777 == 0o640
    assert (root / "etc/nginx/sites/a.conf").read_text() == "site"
    assert (root / "etc/nginx/only-here.conf").read_text() == "keep me"
    assert (root / "etc/link").readlink() == Path("then")
    assert (root / "etc/hostname").read_text() == "now"
    assert plan(prepared, root).changes == ()


def test_authorized_keys_of_both_are_kept_and_those_of_now_come_first(
    root: Path, prepared: Path, safety_dir: Path
) -> None:
    apply(plan(prepared, root), safety_dir)

    keys = root / "root/.ssh/authorized_keys"
    assert keys.read_text() == NEW_KEY + BOTH_KEY + OLD_KEY
    assert keys.stat().st_mode & 0o7777 == 0o600


@pytest.mark.parametrize("linked", ["on the host", "in the backup"])
def test_authorized_keys_behind_a_link_are_left_alone(root: Path, prepared: Path, linked: str) -> None:
    keys = (root if linked == "on the host" else prepared) / "root/.ssh/authorized_keys"
    keys.rename(keys.with_name("elsewhere"))
    keys.symlink_to("elsewhere")

    planned = plan(prepared, root)

    assert "root/.ssh/authorized_keys" in planned.left_alone
    assert "root/.ssh/authorized_keys" not in actions(planned)


def test_the_identity_comes_back_when_it_is_asked_for(root: Path, prepared: Path, safety_dir: Path) -> None:
    planned = plan(prepared, root, with_identity=True)

    apply(planned, safety_dir)

    assert planned.left_alone == ()
    assert (root / "etc/hostname").read_text() == "then"
    assert (root / "etc/ssh/ssh_host_ed25519_key").read_text() == "then"


def test_a_folder_of_the_identity_is_named_once(root: Path, prepared: Path) -> None:
    for name in ("a", "b"):
        write(prepared / "etc/netplan" / name, "x")

    planned = plan(prepared, root, only=["etc"])

    assert [name for name in planned.left_alone if "netplan" in name] == ["etc/netplan"]


def test_only_what_is_named_is_put_back_with_the_folders_it_needs(root: Path, prepared: Path, safety_dir: Path) -> None:
    write(prepared / "opt/tool/deep/file", "x")
    (prepared / "opt").chmod(0o711)
    (prepared / "etc").chmod(0o700)

    planned = plan(prepared, root, only=["opt/tool/deep", "etc/nginx/nginx.conf"])
    apply(planned, safety_dir)

    assert actions(planned) == {
        "etc/nginx/nginx.conf": "replace",
        "opt": "create", "opt/tool": "create", "opt/tool/deep": "create", "opt/tool/deep/file": "create",
    }  # fmt: skip
    assert (root / "opt").stat().st_mode & 0o7777 == 0o711
    assert (root / "etc").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("path", ["/etc", "../etc", "", "etc/absent"])
def test_a_selection_that_the_backup_cannot_meet_is_refused(root: Path, prepared: Path, path: str) -> None:
    with pytest.raises(RestoreRefusedError, match="only"):
        plan(prepared, root, only=[path])


@pytest.mark.parametrize("there", ["file", "link"])
def test_a_folder_that_meets_something_else_is_refused(root: Path, prepared: Path, there: str) -> None:
    write(prepared / "srv/data/file", "x")
    (root / "srv").mkdir()
    if there == "file":
        write(root / "srv/data", "a file")
    else:
        (root / "elsewhere").mkdir()
        (root / "srv/data").symlink_to("../elsewhere")

    with pytest.raises(RestoreRefusedError, match="srv/data: a folder in the backup, none on the host"):
        plan(prepared, root)
    with pytest.raises(RestoreRefusedError, match="srv/data: a folder in the backup"):
        plan(prepared, root, only=["srv/data/file"])


def test_a_file_that_meets_a_folder_is_refused(root: Path, prepared: Path) -> None:
    write(prepared / "srv", "a file")
    (root / "srv").mkdir()

    with pytest.raises(RestoreRefusedError, match="srv: no folder in the backup, one on the host"):
        plan(prepared, root)


def make_odd_files(tree: Path, text: str) -> None:
    """All that a file can be, in a folder whose own attributes count too."""
    odd = tree / "etc" / "odd"
    odd.mkdir(parents=True)
    raw = odd / os.fsdecode(b"raw-\xff\xfe\nname")
    raw.write_text(text)
    os.utime(raw, ns=(1, 1_111_111_111_123_456_789))
    os.chown(raw, 33, 34)
    raw.chmod(0o4750)
    subprocess.run(["setfacl", "-m", "u:33:rw", raw], check=True)
    os.setxattr(raw, "user.text", text.encode())
    os.setxattr(raw, "trusted.text", text.encode())
    with (odd / "sparse").open("wb") as sparse:
        sparse.truncate(64 * 1024**2)
        sparse.seek(32 * 1024**2)
        sparse.write(text.encode())
    os.link(raw, odd / "linked")
    os.link(raw, odd / ("x" * 250))
    (odd / "link").symlink_to(text)
    os.chown(odd / "link", 7, 8, follow_symlinks=False)
    os.mkfifo(odd / "fifo", 0o600 if text == "then" else 0o644)
    os.mknod(odd / "device", 0o20600, os.makedev(1, 3 if text == "then" else 5))
    subprocess.run(["setfacl", "-d", "-m", "u:33:rwx", odd], check=True)
    odd.chmod(0o2750 if text == "then" else 0o755)
    os.utime(odd, ns=(1, 1_000_000_000_000_000_001))


@pytest.mark.parametrize("there", ["nothing", "another", "the links apart"])
def test_every_attribute_of_every_file_comes_back(root: Path, prepared: Path, safety_dir: Path, there: str) -> None:
    make_odd_files(prepared, "then")
    if there != "nothing":
        make_odd_files(root, "now")
        os.setxattr(root / "etc/odd", "user.surplus", b"x")
    if there == "the links apart":
        linked = root / "etc/odd/linked"
        linked.unlink()
        linked.write_text("alone")

    apply(plan(prepared, root, only=["etc/odd"]), safety_dir)

    assert describe(root / "etc/odd") == describe(prepared / "etc/odd")
    assert (root / "etc/odd/sparse").stat().st_blocks * 512 < 1024**2
    names = (os.fsdecode(b"raw-\xff\xfe\nname"), "linked", "x" * 250)
    assert len({(root / "etc/odd" / name).stat().st_ino for name in names}) == 1


def test_links_that_came_apart_are_joined_again_though_their_contents_are_equal(
    root: Path, prepared: Path, safety_dir: Path
) -> None:
    os.link(prepared / "etc/same", prepared / "etc/same too")
    write(root / "etc/same too", "same")

    apply(plan(prepared, root), safety_dir)

    assert (root / "etc/same").samefile(root / "etc/same too")


@pytest.mark.parametrize("there", ["nothing", "another"])
def test_putting_back_makes_all_as_it_was(root: Path, prepared: Path, safety_dir: Path, there: str) -> None:
    make_odd_files(prepared, "then")
    if there == "another":
        make_odd_files(root, "now")
    before = without_folder_times(root)

    copy = apply(plan(prepared, root, with_identity=True), safety_dir)
    changed = without_folder_times(root)
    put_back(copy)

    assert changed != before
    assert without_folder_times(root) == before
    put_back(copy)
    assert without_folder_times(root) == before


def without_folder_times(root: Path) -> dict[str, tuple[object, ...]]:
    """Describe a tree; the times of folders change as files are put into them."""
    return {
        path: (kind, uid, gid, None if str(kind).startswith("d") else mtime, *rest)
        for path, (kind, uid, gid, mtime, *rest) in describe(root).items()
    }


def test_the_safety_copy_is_private_and_opens_with_tar_alone(
    root: Path, prepared: Path, safety_dir: Path, tmp_path: Path
) -> None:
    copy = apply(plan(prepared, root), safety_dir)

    (tmp_path / "opened").mkdir()
    subprocess.run(["tar", "-x", "-p", "-C", tmp_path / "opened", "-f", copy / "before.tar"], check=True)

    assert (tmp_path / "opened/etc/nginx/nginx.conf").read_text() == "now"
    assert safety_dir.stat().st_mode & 0o7777 == 0o700
    assert copy.stat().st_mode & 0o7777 == 0o700


def test_what_others_put_into_a_new_folder_stays_when_all_is_put_back(
    root: Path, prepared: Path, safety_dir: Path
) -> None:
    copy = apply(plan(prepared, root), safety_dir)
    write(root / "etc/nginx/sites/b.conf", "mine")

    put_back(copy)

    assert [path.name for path in (root / "etc/nginx/sites").iterdir()] == ["b.conf"]


def test_a_host_that_changed_since_the_plan_is_refused(root: Path, prepared: Path, safety_dir: Path) -> None:
    planned = plan(prepared, root)
    write(root / "etc/nginx/sites/a.conf", "written meanwhile")

    with pytest.raises(RestoreRefusedError, match="changed since this restore was planned"):
        apply(planned, safety_dir)

    assert (root / "etc/nginx/nginx.conf").read_text() == "now"


def test_two_backups_of_one_root_are_planned_together_and_put_back_one_after_the_other(
    tmp_path: Path, root: Path, prepared: Path, safety_dir: Path
) -> None:
    nginx = tmp_path / "nginx"
    write(nginx / "etc/nginx/nginx.conf", "newest")
    write(nginx / "opt/nginx/module", "x")
    write(prepared / "opt/tool", "x")
    for tree in (nginx, prepared):
        (tree / "etc").chmod(0o750)
    (prepared / "opt").chmod(0o711)
    of_nginx, of_all = plan(nginx, root), plan(prepared, root, without=["etc/nginx"])

    apply(of_nginx, safety_dir)
    apply(of_all, safety_dir)

    assert (root / "etc/nginx/nginx.conf").read_text() == "newest"
    assert not (root / "etc/nginx/sites").exists()
    assert (root / "etc/link").readlink() == Path("then")
    assert (root / "etc").stat().st_mode & 0o7777 == 0o750


def test_a_file_that_cannot_be_replaced_puts_all_back(root: Path, prepared: Path, safety_dir: Path) -> None:
    write(prepared / "etc/zz", "then")
    write(root / "etc/zz", "now")
    before = without_folder_times(root)
    planned = plan(prepared, root)
    subprocess.run(["chattr", "+i", root / "etc/zz"], check=True)
    try:
        with pytest.raises(RestoreError, match="Operation not permitted") as caught:
            apply(planned, safety_dir)
    finally:
        subprocess.run(["chattr", "-i", root / "etc/zz"], check=True)

    assert "all is as it was before" in caught.value.hints
    assert without_folder_times(root) == before
    assert recover(root, safety_dir) == []


def test_a_disk_that_fills_up_puts_all_back(tmp_path: Path, root: Path, prepared: Path, safety_dir: Path) -> None:
    (prepared / "etc/zz").write_bytes(os.urandom(5_000_000))
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)
    try:
        live = disk / "live"
        subprocess.run(["cp", "--archive", root, live], check=True)
        before = without_folder_times(live)

        with pytest.raises(RestoreError, match="No space left on device"):
            apply(plan(prepared, live), safety_dir)

        assert without_folder_times(live) == before
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_safety_copy_that_finds_no_room_leaves_nothing_in_its_place(
    tmp_path: Path, root: Path, prepared: Path
) -> None:
    for tree in (root, prepared):
        (tree / "etc/zz").write_bytes(os.urandom(2_000_000))
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", disk], check=True)
    try:
        before = describe(root)

        with pytest.raises(RestoreRefusedError, match="no safety copy, so nothing was touched: "):
            apply(plan(prepared, root), disk)

        assert describe(root) == before
        assert [*disk.iterdir()] == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_safety_copy_that_is_damaged_is_not_put_back(root: Path, prepared: Path, safety_dir: Path) -> None:
    copy = apply(plan(prepared, root), safety_dir)
    after = describe(root)
    os.truncate(copy / "before.tar", 2048)

    with pytest.raises(IntegrityError, match="cut"):
        put_back(copy)

    assert describe(root) == after


def test_a_safety_directory_open_to_others_is_refused(root: Path, prepared: Path, safety_dir: Path) -> None:
    safety_dir.mkdir(mode=0o755)

    with pytest.raises(RestoreRefusedError, match="mode 0700"):
        apply(plan(prepared, root), safety_dir)

    assert (root / "etc/nginx/nginx.conf").read_text() == "now"


def test_no_journal_is_nothing_to_put_back(tmp_path: Path) -> None:
    with pytest.raises(RestoreRefusedError, match="expected the journal of a restore, seen none"):
        put_back(tmp_path)


def test_two_restores_over_one_root_do_not_meet(root: Path, prepared: Path, safety_dir: Path) -> None:
    planned = plan(prepared, root)

    with locked(str(root), "restore", "another restore"), pytest.raises(LockedError, match="another restore"):
        apply(planned, safety_dir)
    with locked(str(root), "restore", "another restore"), pytest.raises(LockedError, match="another restore"):
        recover(root, safety_dir)


# A child that is killed (-9) before its n-th call of the functions that change something.
KILLED = """
    import os, signal, sys
    from pathlib import Path
    from gxbackup import overlay, placing, safety

    root, prepared, safety_dir, last = *map(Path, sys.argv[1:4]), int(sys.argv[4])
    planned = overlay.plan(prepared, root)
    steps = 0

    def step(event, arguments):
        global steps
        if event in ("os.rename", "os.mkdir", "os.chown", "os.link"):
            if steps == last:
                os.kill(os.getpid(), signal.SIGKILL)
            steps += 1

    sys.addaudithook(step)
    overlay.apply(planned, safety_dir)
"""


def until_it_lives(victim: Victim, tmp_path: Path, root: Path, *words: Path) -> Iterator[tuple[Path, int]]:
    """Run the program on a fresh copy of the root each time, killed one step later; the last time it ends well."""
    for last in itertools.count():
        live = tmp_path / f"live-{last}"
        subprocess.run(["cp", "--archive", root, live], check=True)
        status = victim.run(live, *words, last)
        assert status in (0, -signal.SIGKILL)
        yield live, status


def test_a_restore_killed_at_any_step_is_put_back_by_recover(
    tmp_path: Path, root: Path, prepared: Path, safety_dir: Path
) -> None:
    write(prepared / "etc/one", "1")
    os.link(prepared / "etc/one", prepared / "etc/two")
    write(root / "etc/one", "now")
    os.link(root / "etc/one", root / "etc/two")
    before = without_folder_times(root)
    recovered = 0

    with Victim(KILLED) as victim:
        for live, status in until_it_lives(victim, tmp_path, root, prepared, safety_dir):
            if status == 0:
                break
            half_done = without_folder_times(live) != before
            copies = recover(live, safety_dir)

            assert without_folder_times(live) == before
            assert recover(live, safety_dir) == []
            recovered += bool(copies) and half_done

    assert recovered > 10
    assert plan(prepared, live).changes == ()


# A restore of two overlays, killed (-9) before its n-th step; the last steps note that it ended.
KILLED_BETWEEN = """
    import os, signal, sys
    from pathlib import Path
    from gxbackup import overlay, placing, safety

    root, first, second, safety_dir, last = *map(Path, sys.argv[1:5]), int(sys.argv[5])
    plans = [overlay.plan(first, root), overlay.plan(second, root)]
    steps = 0

    def step(event, arguments):
        global steps
        if event == "os.rename":
            if steps == last:
                os.kill(os.getpid(), signal.SIGKILL)
            steps += 1

    sys.addaudithook(step)
    overlay.finish([overlay.apply(planned, safety_dir, "one restore") for planned in plans])
"""


def test_a_restore_of_two_backups_killed_at_any_step_is_put_back_whole(
    tmp_path: Path, root: Path, prepared: Path, safety_dir: Path
) -> None:
    write(tmp_path / "k3s/etc/rancher/config", "then")
    before = without_folder_times(root)
    first_alone = 0

    with Victim(KILLED_BETWEEN) as victim:
        for live, status in until_it_lives(victim, tmp_path, root, tmp_path / "k3s", prepared, safety_dir):
            if status == 0:
                break
            first_alone += (live / "etc/rancher/config").exists()
            recover(live, safety_dir)

            assert without_folder_times(live) == before

    assert first_alone > 5
    assert recover(live, safety_dir) == []
    assert (live / "etc/rancher/config").read_text() == "then"
    assert (live / "root/.ssh/id_ed25519").exists()


def test_a_recovery_that_is_killed_after_the_first_of_two_goes_on_with_the_other(
    tmp_path: Path, root: Path, prepared: Path, safety_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "k3s/etc/rancher/config", "then")
    before = without_folder_times(root)
    first = apply(plan(tmp_path / "k3s", root), safety_dir, "one restore")
    apply(plan(prepared, root), safety_dir, "one restore")
    overlay.finish([first])
    put_back_one = SafetyCopy.put_back

    def cut(copy: SafetyCopy) -> None:
        put_back_one(copy)
        raise KeyboardInterrupt

    monkeypatch.setattr(SafetyCopy, "put_back", cut)
    with pytest.raises(KeyboardInterrupt):
        recover(root, safety_dir)
    monkeypatch.undo()

    recover(root, safety_dir)
    assert without_folder_times(root) == before


def test_a_file_that_is_a_mount_point_is_told_in_the_plan(root: Path, prepared: Path) -> None:
    place = root / "etc/nginx/nginx.conf"
    subprocess.run(["mount", "--bind", root / "etc/same", place], check=True)
    try:
        with pytest.raises(RestoreRefusedError, match="nginx.conf: is a mount point"):
            plan(prepared, root)
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_root_that_is_not_there_is_told_in_the_plan(tmp_path: Path, prepared: Path) -> None:
    with pytest.raises(RestoreRefusedError, match="expected a directory to put files back over"):
        plan(prepared, tmp_path / "no-such")


def test_a_killed_restore_must_be_recovered_before_the_next(root: Path, prepared: Path, safety_dir: Path) -> None:
    with Victim(KILLED) as victim:
        assert victim.run(root, prepared, safety_dir, 9) == -signal.SIGKILL

    with pytest.raises(RestoreRefusedError, match="was killed: recover it first"):
        apply(plan(prepared, root), safety_dir)
    (copy,) = recover(root, safety_dir)
    apply(plan(prepared, root), safety_dir)

    assert copy.parent == safety_dir
    assert Change("etc/link", "replace") not in plan(prepared, root).changes
