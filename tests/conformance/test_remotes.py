"""What every remote guarantees, whatever kind it is: one suite, run on six real ones."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import pytest

from gxbackup.adapters.rclone import Progress, RemoteFile, RemoteFileMissingError
from gxbackup.errors import IntegrityError, RemoteError
from tests.conformance.conftest import Lab

ODD_NAMES = (
    "with space",
    " blank first",
    "trailing blank ",
    "ünïcode ☃ 😀",
    "decomposed e\u0301",
    'it\'s "quoted"',
    "star*?",
    "[ab]{c,d}",
    "# no comment",
    "; no comment",
    "-dash",
    "percent%20and%2F",
    "plus+&=~$`!",
    "colon: and | pipe <>",
    "a.b..c.",
    "deep/er/and deeper/file",
)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_what_was_uploaded_is_listed_hashed_read_and_downloaded_equal(lab: Lab, tmp_path: Path) -> None:
    files = {"databases/pg/globals.sql.zst.age": os.urandom(70_000), "manifest.json": b"{}\n", "empty": b""}
    local, remote = lab.holding("out", files), lab.remote()

    remote.check()
    remote.upload(local, list(files), "vps1/20261122_020000")
    remote.download("vps1/20261122_020000", list(files), tmp_path / "back")

    assert remote.list_files("vps1") == [
        RemoteFile(f"20261122_020000/{name}", len(files[name]), None) for name in sorted(files)
    ]
    assert remote.list_folders("vps1/20261122_020000") == ["databases"]
    assert remote.sha256_many("vps1/20261122_020000", [*files, "absent", "absent/too"]) == {
        name: sha256(content) for name, content in files.items()
    }
    assert remote.read("vps1/20261122_020000/manifest.json") == b"{}\n"
    assert remote.read("vps1/20261122_020000/empty") == b""
    assert {name: (tmp_path / "back" / name).read_bytes() for name in files} == files


def test_odd_names_arrive_under_their_own_name(lab: Lab, tmp_path: Path) -> None:
    files = {name: name.encode() for name in ODD_NAMES}
    local, remote = lab.holding("out", files), lab.remote()

    remote.upload(local, ODD_NAMES, "odd")
    remote.download("odd", ODD_NAMES, tmp_path / "back")

    assert [file.path for file in remote.list_files("odd")] == sorted(ODD_NAMES)
    assert remote.sha256_many("odd", ODD_NAMES) == {name: sha256(content) for name, content in files.items()}
    assert remote.read("odd/star*?") == b"star*?"
    assert {name: (tmp_path / "back" / name).read_bytes() for name in ODD_NAMES} == files


def test_what_is_not_there_is_empty_or_missing_and_never_a_guess(lab: Lab, tmp_path: Path) -> None:
    remote = lab.remote()
    remote.upload(lab.holding("out", {"folder/file": b"x"}), ["folder/file"], "there")

    assert remote.list_files("nowhere") == []
    assert remote.sha256_many("nowhere", ["a", "b/c"]) == {}
    for path in ("nowhere/absent", "there/folder"):
        with pytest.raises(RemoteFileMissingError) as error:
            remote.read(path)
        assert not error.value.retryable
    with pytest.raises(RemoteFileMissingError, match="there/absent: not on the remote"):
        remote.sha256("there/absent")
    with pytest.raises(RemoteFileMissingError, match="there/absent: not on the remote"):
        remote.download("there", ["folder/file", "absent"], tmp_path / "back")
    with pytest.raises(RemoteFileMissingError):
        remote.download("nowhere", ["absent"], tmp_path / "back")


def test_a_file_is_streamed_and_may_be_left_early(lab: Lab) -> None:
    content, remote = os.urandom(3 << 20), lab.remote()
    remote.upload(lab.holding("out", {"big": content}), ["big"], "s")

    with remote.open("s/big") as stream:
        whole = stream.read()
    with remote.open("s/big") as stream:
        first = stream.read(10)
    with pytest.raises(RemoteError, match="expected at most 1000 bytes, seen more") as error:
        remote.read("s/big", max_bytes=1000)

    assert whole == content
    assert remote.sha256("s/big") == sha256(content)
    assert first == content[:10]
    assert not error.value.retryable


def test_what_is_there_and_equal_is_not_sent_again(lab: Lab) -> None:
    files = {"a/one": b"1" * 1000, "two": b"22"}
    local, remote = lab.holding("out", files), lab.remote()
    seen: list[Progress] = []
    remote.upload(local, ["a/one"], "s")

    remote.upload(local, ["a/one", "two"], "s", seen.append)
    sent_bytes, already = seen[-1].transferred_bytes, len(seen)
    remote.upload(local, ["a/one", "two"], "s", seen.append)

    assert 2 <= sent_bytes < 1000
    assert len(seen) == already
    assert {file.path for file in remote.list_files("s")} == set(files)


def test_nothing_different_is_overwritten_unless_it_may_be(lab: Lab) -> None:
    local = lab.holding("out", {"longer": b"what we send", "equally long": b"what we send", "more": b"m"})
    there = {"longer": b"cut", "equally long": b"what is here"}
    lab.rclone("copy", str(lab.holding("there", there)), f"{lab.root}/s")
    remote = lab.remote()

    for name in there:
        with pytest.raises(IntegrityError, match=f"s/{name}: expected 12 bytes .* nothing was overwritten") as error:
            remote.upload(local, [name, "more"], "s")
        assert not error.value.retryable
    untouched = remote.sha256_many("s", [*there, "more"])
    remote.upload(local, [*there, "more"], "s", replace_unequal=True)

    assert untouched == {name: sha256(content) for name, content in there.items()}
    assert remote.sha256_many("s", [*there, "more"]) == {
        "longer": sha256(b"what we send"),
        "equally long": sha256(b"what we send"),
        "more": sha256(b"m"),
    }


def test_an_upload_that_was_killed_is_taken_up_and_leaves_nothing_else(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"d/big": os.urandom(5 << 20), "d/small": b"small"}
    local, remote = lab.holding("out", files), lab.remote()
    seen: list[Progress] = []

    def kill(progress: Progress) -> None:
        seen.append(progress)
        if progress.transferred_bytes > 5:
            os.kill(lab.child(), signal.SIGKILL)

    monkeypatch.setenv("RCLONE_BWLIMIT", "2M")
    with pytest.raises(RemoteError, match="killed by signal 9") as error:
        remote.upload(local, list(files), "s", kill, replace_unequal=True)
    monkeypatch.delenv("RCLONE_BWLIMIT")
    remote.upload(local, list(files), "s", replace_unequal=True)

    assert error.value.retryable
    assert 0 < seen[-1].transferred_bytes < seen[-1].total_bytes
    assert seen[-1].total_bytes >= 5 << 20
    assert [(file.path, file.size_bytes) for file in remote.list_files("s")] == [("d/big", 5 << 20), ("d/small", 5)]
    assert remote.sha256_many("s", list(files)) == {name: sha256(content) for name, content in files.items()}


def test_a_file_is_deleted_alone_and_a_folder_only_when_it_is_empty(lab: Lab) -> None:
    names = ["snap/x", "snap/x.000", "snap/[x]", "snap/d/x", "other/x"]
    remote = lab.remote()
    remote.upload(lab.holding("out", dict.fromkeys(names, b".")), names, "r")

    remote.delete_file("r/snap/[x]")
    remote.delete_file("r/snap/x")
    remote.delete_file("r/snap/x")
    remote.remove_empty_folder("r/snap")
    left = [file.path for file in remote.list_files("r")]
    for name in ("x.000", "d/x"):
        remote.delete_file(f"r/snap/{name}")
    remote.remove_empty_folder("r/snap")
    remote.remove_empty_folder("r/snap")

    assert left == ["other/x", "snap/d/x", "snap/x.000"]
    assert [file.path for file in remote.list_files("")] == ["r/other/x"]


def test_a_name_that_is_not_here_to_be_sent_stops_the_upload_before_anything_is_done(lab: Lab) -> None:
    local, remote = lab.holding("out", {"here": b"h"}), lab.remote()
    lab.put("s/gone", b"cut")

    with pytest.raises(IntegrityError, match="gone: not on the remote, and not to be sent"):
        remote.upload(local, ["here", "gone"], "s", replace_unequal=True, expected={"gone": (4, sha256(b"gone"))})

    assert [file.path for file in remote.list_files("s")] == ["gone"]
    assert remote.read("s/gone") == b"cut"


def test_a_retry_counts_what_the_remote_holds_although_it_is_gone_here(lab: Lab) -> None:
    local, remote = lab.holding("out", {"one": b"1", "two": b"22"}), lab.remote()
    expected = {"one": (1, sha256(b"1")), "two": (2, sha256(b"22"))}
    remote.upload(local, ["one"], "s", may_move=True, expected=expected)
    (local / "one").unlink(missing_ok=True)

    remote.upload(local, ["one", "two"], "s", may_move=True, expected=expected)

    assert remote.sha256_many("s", ["one", "two"]) == {name: digest for name, (_, digest) in expected.items()}


def test_files_that_are_only_read_may_be_linked_and_their_going_leaves_the_remote_as_it_was(
    lab: Lab, tmp_path: Path
) -> None:
    lab.put("s/deep/file", b"held")
    remote, back = lab.remote(), tmp_path / "back"

    remote.download("s", ["deep/file"], back, may_link=True)
    remote.download("s", ["deep/file"], back, may_link=True)
    links = (back / "deep/file").stat().st_nlink
    content = (back / "deep/file").read_bytes()
    (back / "deep/file").unlink()

    assert (content, links) == (b"held", 2 if lab.kind == "local" else 1)
    assert remote.read("s/deep/file") == b"held"
    with pytest.raises(RemoteFileMissingError, match="absent"):
        remote.download("s", ["deep/file", "absent"], back, may_link=True)


def test_what_the_remote_can_do_and_its_room_are_told(lab: Lab) -> None:
    remote = lab.remote()

    features, room = remote.features(), remote.about()

    assert (features.is_local, features.keeps_sha256) == (lab.kind == "local", lab.kind == "drive")
    assert features.local_root == (Path(lab.root) if lab.kind == "local" else None)
    assert ("sha256" in features.hashes) == (lab.kind in ("local", "drive"))
    if lab.kind in ("local", "sftp", "drive"):
        assert room.total_bytes is not None
        assert room.free_bytes is not None
        assert room.used_bytes is not None
        assert 0 < room.free_bytes <= room.total_bytes
    if lab.kind == "s3":
        assert (room.total_bytes, room.used_bytes, room.free_bytes) == (None, None, None)


def test_hashes_are_listed_where_they_cost_nothing(lab: Lab) -> None:
    remote = lab.remote()
    remote.upload(lab.holding("out", {"file": b"content"}), ["file"], "s")

    listed = remote.list_files("s", hashes=True)

    known = sha256(b"content") if lab.kind in ("local", "drive") else None
    assert listed == [RemoteFile("file", 7, known)]
