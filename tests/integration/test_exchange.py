"""Trees put back as root: unpacked safely, exchanged in one step, and whole whatever happens in between."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from site_tree import describe

from gxbackup import trees
from gxbackup.errors import IntegrityError, LockedError, RestoreError, RestoreRefusedError
from gxbackup.exchange import check, exchange, prepare, put_back
from gxbackup.model import Evidence
from gxbackup.tarstream import TarScanner
from tests.integration.victims import Victim

MIB = 1024**2


def make_tree(root: Path, text: str, files: int = 20) -> Path:
    root.mkdir(parents=True)
    for number in range(files):
        folder = root / f"folder-{number % 4}"
        folder.mkdir(exist_ok=True)
        (folder / f"page-{number}.html").write_text(text * (number + 1))
    (root / os.fsdecode(b"raw-\xff\n")).write_text(text)
    (root / "link").symlink_to("folder-0")
    os.link(root / "folder-0" / "page-0.html", root / "same.html")
    os.chown(root / "folder-1", 33, 33)
    os.setxattr(root / "folder-2", "user.text", text.encode())
    root.chmod(0o2755)
    return root


def packed(tree: Path) -> bytes:
    words = ["tar", "--create", "--format=posix", "--xattrs", "--sparse", "--directory", tree, "."]
    return subprocess.run(words, check=True, capture_output=True).stdout


def evidence_of(plain: bytes) -> Evidence:
    scanner = TarScanner()
    scanner.feed(memoryview(plain))
    return scanner.finish()


def unpack(plain: bytes, into: Path) -> None:
    trees.extract([plain], into, evidence_of(plain))


def beside(target: Path) -> list[str]:
    return sorted(entry.name for entry in target.parent.iterdir() if entry.name.startswith(f".{target.name}."))


@contextmanager
def tmpfs(point: Path, size: str) -> Iterator[Path]:
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "www" / "site", "old")


@pytest.fixture
def backup(tmp_path: Path) -> bytes:
    return packed(make_tree(tmp_path / "source", "new", files=30))


def test_the_new_tree_takes_the_place_of_the_old_one_which_stays_beside_it(target: Path, backup: bytes) -> None:
    old = describe(target)

    with prepare(target, needed_bytes=MIB) as prepared:
        assert prepared.parent.stat().st_mode & 0o7777 == 0o700
        unpack(backup, prepared)
        before = exchange(prepared, target)

    assert before is not None
    assert describe(before) == old
    trees.compare(evidence_of(backup), trees.tally(target))
    assert beside(target) == [before.name]


def test_a_target_that_is_not_there_yet_is_made(tmp_path: Path, backup: bytes) -> None:
    with prepare(tmp_path / "fresh") as prepared:
        unpack(backup, prepared)
        before = exchange(prepared, tmp_path / "fresh")

    assert before is None
    trees.compare(evidence_of(backup), trees.tally(tmp_path / "fresh"))
    assert beside(tmp_path / "fresh") == []


def test_a_link_to_the_target_stays_and_what_it_leads_to_is_exchanged(
    target: Path, backup: bytes, tmp_path: Path
) -> None:
    (tmp_path / "live").symlink_to(target)

    with prepare(tmp_path / "live") as prepared:
        unpack(backup, prepared)
        exchange(prepared, tmp_path / "live")

    assert (tmp_path / "live").is_symlink()
    trees.compare(evidence_of(backup), trees.tally(target))


@pytest.mark.parametrize("was_there", [True, False])
def test_an_exchange_is_undone(tmp_path: Path, target: Path, backup: bytes, was_there: bool) -> None:
    place = target if was_there else tmp_path / "fresh"
    old = describe(target)

    with prepare(place) as prepared:
        unpack(backup, prepared)
        before = exchange(prepared, place)
        put_back(place, before)

    assert beside(place) == []
    assert describe(target) == old
    assert place.exists() == was_there


def test_a_restore_that_fails_before_the_exchange_leaves_nothing(target: Path, backup: bytes) -> None:
    old = describe(target)

    end = len(backup.rstrip(b"\0"))

    with pytest.raises(IntegrityError, match="cut"), prepare(target) as prepared:
        trees.extract([backup[:end]], prepared, evidence_of(backup))

    assert describe(target) == old
    assert beside(target) == []


def test_two_restores_of_one_target_do_not_meet(target: Path) -> None:
    with prepare(target), pytest.raises(LockedError, match="another run is at work"), prepare(target):
        pass


def require_refused(target: Path, why: str, needed_bytes: int = 0) -> None:
    """A plan tells what the restore itself would say."""
    with pytest.raises(RestoreRefusedError, match=why):
        check(target, needed_bytes)
    with pytest.raises(RestoreRefusedError, match=why), prepare(target, needed_bytes):
        pytest.fail("prepared")


def test_a_mount_point_is_refused_before_anything_is_touched(tmp_path: Path, target: Path) -> None:
    with tmpfs(tmp_path / "disk", "1m") as disk:
        require_refused(disk, "is a mount point")
        assert beside(disk) == []

    with tmpfs(target / "uploads", "1m"):
        require_refused(target, "has mount points inside")
    assert beside(target) == []


def test_a_target_without_room_beside_it_is_refused_with_the_figures(target: Path) -> None:
    require_refused(target, r"needs 1099511627776000 bytes .* seen \d+ free", needed_bytes=1000 * 1024**4)

    assert beside(target) == []


@pytest.mark.parametrize(
    ("name", "why"),
    [("file", "expected a directory"), ("absent/site", "expected a folder to put it in"), ("/", "is a mount point")],
)
def test_a_place_that_no_tree_can_take_is_refused(target: Path, name: str, why: str) -> None:
    (target.parent / "file").write_text("x")

    require_refused(target.parent / name, why)


def test_a_disk_that_fills_up_leaves_the_target_as_it_was(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.mkdir()
    for number in range(30):
        (large / f"{number}.bin").write_bytes(os.urandom(4 * MIB))
    plain = packed(large)

    with tmpfs(tmp_path / "disk", "80m") as disk:
        target = make_tree(disk / "site", "old")
        old = describe(target)

        with pytest.raises(RestoreError, match="No space left on device") as caught, prepare(target) as prepared:
            unpack(plain, prepared)

        assert any("make room" in hint for hint in caught.value.hints)
        assert describe(target) == old
        assert beside(target) == []
        assert (
            subprocess.run(["df", "--output=used", "-k", disk], capture_output=True, text=True).stdout.split()[1]
            < "999"
        )


# A child that is killed (-9) before or after its n-th step, whichever step that is.
KILLED = """
    import os, signal, sys
    from pathlib import Path
    from gxbackup import exchange as exchanging, trees
    from gxbackup.tarstream import TarScanner

    target, tar, last = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    steps = 0

    def step():
        global steps
        if steps == last:
            os.kill(os.getpid(), signal.SIGKILL)
        steps += 1

    def watched(function):
        def call(*arguments, **named):
            step()
            done = function(*arguments, **named)
            step()
            return done
        return call

    for name in ("_rename", "_sync", "_sync_folder", "_sweep", "discard"):
        setattr(exchanging, name, watched(getattr(exchanging, name)))
    exchanging.shutil.rmtree = watched(exchanging.shutil.rmtree)
    exchanging.secrets.token_hex = watched(exchanging.secrets.token_hex)

    plain = tar.read_bytes()
    scanner = TarScanner()
    scanner.feed(memoryview(plain))
    with exchanging.prepare(target) as prepared:
        def chunks():
            for begin in range(0, len(plain), 65536):
                step()
                yield plain[begin:begin + 65536]
        trees.extract(chunks(), prepared, scanner.finish())
        step()
        before = exchanging.exchange(prepared, target)
        step()
        exchanging.put_back(target, before)
        step()
"""


def test_killed_at_any_step_the_target_is_the_old_or_the_new_tree_whole(tmp_path: Path, backup: bytes) -> None:
    (tmp_path / "backup.tar").write_bytes(backup)
    template = make_tree(tmp_path / "template", "old")
    old = describe(template)
    seen: set[str] = set()
    last, status = -1, -signal.SIGKILL

    with Victim(KILLED) as victim:
        while status == -signal.SIGKILL:
            last += 1
            target = tmp_path / f"run-{last}" / "site"
            target.parent.mkdir()
            subprocess.run(["cp", "--archive", template, target], check=True)
            status = victim.run(target, tmp_path / "backup.tar", last)

            new = describe(target) != old
            if new:
                trees.compare(evidence_of(backup), trees.tally(target))
            seen.add("new" if new else "old")
            with prepare(target):  # the next restore tidies up
                pass
            copies = beside(target)
            assert all(".before-" in name for name in copies)
            if new:
                assert [describe(target.parent / name) for name in copies] == [old]
            else:
                assert not copies or describe(target.parent / copies[0]) == old

    assert status == 0

    assert last > 20
    assert seen == {"old", "new"}


def forged(*entries: tuple[str, bytes, dict[str, object]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, fields in entries:
            info = tarfile.TarInfo(name)
            info.type = kind
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(b"evil" * (info.size // 4)) if info.isreg() else None)
    return buffer.getvalue()


EVIL: dict[str, list[tuple[str, bytes, dict[str, object]]]] = {
    "a name with ..": [("../canary", tarfile.REGTYPE, {"size": 4})],
    "an absolute name": [("CANARY", tarfile.REGTYPE, {"size": 4})],
    "a device": [("null", tarfile.CHRTYPE, {"devmajor": 1, "devminor": 3})],
    "a setuid file": [("su", tarfile.REGTYPE, {"mode": 0o4755, "size": 4})],
    "a hard link out": [("x", tarfile.LNKTYPE, {"linkname": "../canary"})],
    "a symlink that is written through": [
        ("out", tarfile.SYMTYPE, {"linkname": ".."}),
        ("out/canary", tarfile.REGTYPE, {"size": 4}),
    ],
    "two symlinks that lead out together": [
        ("a", tarfile.SYMTYPE, {"linkname": "b"}),
        ("b", tarfile.SYMTYPE, {"linkname": ".."}),
        ("a/canary", tarfile.REGTYPE, {"size": 4}),
    ],
}


@pytest.mark.parametrize("entries", [pytest.param(entries, id=name) for name, entries in EVIL.items()])
@pytest.mark.parametrize("lead_bytes", [0, 3 * MIB], ids=["at once", "after many bytes"])
def test_an_evil_archive_touches_nothing_outside(
    tmp_path: Path, entries: list[tuple[str, bytes, dict[str, object]]], lead_bytes: int
) -> None:
    canary = tmp_path / "canary"
    canary.write_text("alive")
    into = tmp_path / "into"
    into.mkdir()
    named = [(str(canary) if name == "CANARY" else name, kind, fields) for name, kind, fields in entries]
    plain = forged(("good", tarfile.REGTYPE, {"size": lead_bytes}), *named)

    with pytest.raises(RestoreRefusedError):
        trees.extract((plain[at : at + 4096] for at in range(0, len(plain), 4096)), into, {"outward_links": 9})

    assert canary.read_text() == "alive"
    assert canary.stat().st_nlink == 1
    assert {path.name for path in into.rglob("*")} <= {"good", "out", "a", "b"}


@pytest.mark.parametrize("cut_bytes", [1024, 10240, 30000])
def test_a_cut_archive_is_no_restore(tmp_path: Path, backup: bytes, cut_bytes: int) -> None:
    (tmp_path / "into").mkdir()
    end = len(backup.rstrip(b"\0"))
    cut = backup[: -(-end // 512) * 512 + 512 - cut_bytes]

    with pytest.raises(IntegrityError, match="cut after"):
        trees.extract([cut], tmp_path / "into", evidence_of(backup))


def test_the_last_step_of_the_chunks_is_waited_for(tmp_path: Path, backup: bytes) -> None:
    (tmp_path / "into").mkdir()

    def chunks() -> Iterator[bytes]:
        yield backup
        raise IntegrityError("its sha256 is another")

    with pytest.raises(IntegrityError, match="its sha256 is another"):
        trees.extract(chunks(), tmp_path / "into", evidence_of(backup))


def test_nothing_is_unpacked_over_what_is_there(target: Path, backup: bytes) -> None:
    with pytest.raises(RestoreRefusedError, match="expected an empty directory"):
        trees.extract([backup], target, evidence_of(backup))


def test_any_word_of_complaint_from_tar_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "into").mkdir()
    unknown = forged(("a", tarfile.REGTYPE, {"pax_headers": {"VENDOR.important": "x"}}))

    with pytest.raises(RestoreError, match="unknown extended header keyword"):
        trees.extract([unknown], tmp_path / "into", {})


def test_a_tree_that_differs_from_its_evidence_is_named_by_what_differs(target: Path) -> None:
    evidence = trees.tally(target)
    (target / "same.html").chmod(0o600)
    (target / "extra").mkdir()

    with pytest.raises(IntegrityError, match=r"directories: expected 5, seen 6; names_sha256: .*; attributes_sha256: "):
        trees.compare(evidence, trees.tally(target))
    with pytest.raises(IntegrityError, match=r"expected files, directories.* in the manifest, seen none"):
        trees.compare({}, trees.tally(target))


def test_a_plan_says_what_would_be_added_changed_and_removed(tmp_path: Path, target: Path) -> None:
    subprocess.run(["cp", "--archive", target, tmp_path / "source"], check=True)
    source = tmp_path / "source"
    (source / "folder-0" / "page-0.html").unlink()
    (source / "folder-0" / "page-4.html").write_text("changed")
    (source / "link").unlink()
    (source / "link").symlink_to("folder-3")
    (source / "added\n").write_text("x")
    for folder in (source, source / "folder-0"):
        os.utime(folder, ns=(0, (target / folder.relative_to(source)).stat().st_mtime_ns))
    plain = packed(source)

    from_disk = trees.difference(source, target)
    from_stream = trees.preview([plain], target, evidence_of(plain))
    to_nothing = trees.preview([plain], tmp_path / "absent", evidence_of(plain), listed=3)

    assert from_stream == from_disk
    assert from_disk.added == ("added\\n",)
    assert set(from_disk.changed) == {"folder-0/page-4.html", "link"}
    assert from_disk.removed == ("folder-0/page-0.html",)
    assert from_disk.same_count == 25
    assert to_nothing.added_count == 28
    assert len(to_nothing.added) == 3
