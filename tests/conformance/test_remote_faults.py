"""What goes wrong with a remote, provoked for real: each is one clear error, in bounded time, with nothing lost."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gxbackup.adapters.rclone import Progress
from gxbackup.adapters.rclone_answers import SameNameError
from gxbackup.errors import BackupError, IntegrityError, RemoteError, SetupError
from tests.conformance.conftest import Lab, obscured
from tests.conformance.drive_emulator import Emulator
from tests.conformance.drive_store import FOLDER

LISTING, CONTENT, UPLOAD, CHUNK = r"^/drive/v3/files\?", r"alt=media", r"^/upload/", r"upload_id="


@contextmanager
def black_hole() -> Iterator[int]:
    """Take connections on a port of loopback and never answer; yields the port."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield listening.getsockname()[1]


def at(lab: Lab, root: str, **limits: int) -> Any:
    return replace(lab, root=root).remote(**limits)


@pytest.mark.parametrize(
    ("root", "kind", "said"),
    [
        ("gdrive-backpu:gx-backups", SetupError, "didn't find section in config file"),
        ("odd:gx-backups", SetupError, "didn't find backend called"),
        ("robot:x", SetupError, "open /nowhere/robot.json: no such file or directory"),
        ("robot-damaged:x", SetupError, "error processing credentials"),
        ("robot-gcs:x", SetupError, "open /nowhere/robot.json: no such file or directory"),
        ("sftp-key:x", SetupError, "open /nowhere/id_ed25519: no such file or directory"),
        ("webdav-dead:x", RemoteError, "connection refused"),
        ("sftp-dead:x", RemoteError, "connection refused"),
        ("webdav-login:x", RemoteError, "401 Unauthorized"),
        ("sftp-login:x", RemoteError, "unable to authenticate"),
        ("s3-login:bucket/x", RemoteError, "SignatureDoesNotMatch"),
    ],
)
def test_a_wrong_name_a_dead_address_and_a_bad_login_are_told_apart(
    local_lab: Lab, root: str, kind: type[BackupError], said: str
) -> None:
    began = time.monotonic()

    with pytest.raises(kind, match=said) as error:
        at(local_lab, root).check()

    assert time.monotonic() - began < 60
    assert error.value.hints
    assert ("service_account_file" in error.value.hints[0]) is root.startswith("robot")
    assert error.value.retryable == ("refused" in said)
    assert "letmein" not in str(error.value)


@pytest.mark.parametrize("kind", ["webdav", "sftp", "s3", "drive"])
def test_a_server_that_takes_the_connection_and_never_answers_costs_no_more_than_the_limit(
    local_lab: Lab, configured: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    with black_hole() as port:
        hole = f"127.0.0.1:{port}"
        configured.write_text(
            f"{configured.read_text()}[hole-webdav]\ntype = webdav\nurl = http://{hole}\nvendor = other\n"
            f"[hole-sftp]\ntype = sftp\nhost = 127.0.0.1\nport = {port}\nuser = gx\npass = {obscured('x')}\n"
            f"[hole-s3]\ntype = s3\nprovider = Rclone\nendpoint = http://{hole}\naccess_key_id = a\n"
            "secret_access_key = b\n[hole-drive]\ntype = drive\nclient_id = a\nclient_secret = b\n"
            'token = {"access_token":"a","expiry":"2099-01-01T00:00:00Z"}\n'
        )
        monkeypatch.setenv("HTTPS_PROXY", f"http://{hole}")
        began = time.monotonic()

        with pytest.raises(RemoteError, match="expected an answer within 1 s, seen none") as error:
            at(local_lab, f"hole-{kind}:x", call_timeout_seconds=1).list_files("y")

    assert time.monotonic() - began < 10
    assert error.value.retryable


def test_an_upload_that_stands_still_is_ended(drive_lab: Lab, drive: Emulator) -> None:
    remote, local = drive_lab.remote(stall_timeout_seconds=1), drive_lab.holding("out", {"file": b"x" * 1000})
    drive.drive.fail("POST", UPLOAD, hang=True, times=99)
    began = time.monotonic()

    with pytest.raises(RemoteError, match="no byte moved for 1 s") as error:
        remote.upload(local, ["file"], "s")

    assert time.monotonic() - began < 20
    assert error.value.retryable


def test_a_download_that_stands_still_is_ended(drive_lab: Lab, drive: Emulator, tmp_path: Path) -> None:
    remote = drive_lab.remote(stall_timeout_seconds=1)
    remote.upload(drive_lab.holding("out", {"file": b"x" * 1000}), ["file"], "s")
    drive.drive.fail("GET", CONTENT, hang=True, times=99)

    with pytest.raises(RemoteError, match="no byte moved for 1 s"):
        remote.download("s", ["file"], tmp_path / "back")
    with pytest.raises(RemoteError, match="no byte arrived for 1 s") as error:
        remote.read("s/file")

    assert error.value.retryable
    assert not (tmp_path / "back" / "file").exists()


def test_a_listing_that_fails_half_way_is_an_error_and_never_shorter(drive_lab: Lab, drive: Emulator) -> None:
    files = {f"s{number}/manifest.json": b"{}" for number in range(5)}
    remote = drive_lab.remote()
    remote.upload(drive_lab.holding("out", files), list(files), "vps1")

    for change in ({"status": 403, "reason": "insufficientFilePermissions"}, {"change": {"incompleteSearch": True}}):
        drive.drive.faults.clear()
        drive.drive.fail("GET", r"pageToken=3", **change, times=99)
        with pytest.raises(RemoteError, match=r"list drive:gx-[\d-]+/vps1"):
            remote.list_files("vps1")
    drive.drive.faults.clear()

    assert len(remote.list_files("vps1")) == 5


def test_a_folder_that_cannot_be_listed_is_an_error_each_time(drive_lab: Lab, drive: Emulator) -> None:
    remote = drive_lab.remote()
    remote.upload(drive_lab.holding("out", {"a/b/c": b"x", "d/e": b"y"}), ["a/b/c", "d/e"], "vps1")
    (folder,) = drive.drive.find(drive_lab.root.removeprefix("drive:"), "vps1", "a")
    drive.drive.fail("GET", f"{folder.id}%27", status=404, reason="notFound", times=99)

    for _ in range(8):
        with pytest.raises(RemoteError, match="notFound"):
            remote.list_files("vps1")


@pytest.mark.parametrize("size_bytes", [1000, 9 << 20], ids=["multipart", "resumable"])
def test_a_full_drive_is_not_tried_again(drive_lab: Lab, drive: Emulator, size_bytes: int) -> None:
    drive.drive.quota_bytes = 500
    local = drive_lab.holding("out", {"file": bytes(size_bytes)})

    with pytest.raises(RemoteError, match="storageQuotaExceeded") as error:
        drive_lab.remote().upload(local, ["file"], "s")

    assert not error.value.retryable
    assert "prune-snapshots" in str(error.value)
    assert drive_lab.remote().list_files("s") == []


def test_the_daily_upload_limit_is_not_tried_again(drive_lab: Lab, drive: Emulator) -> None:
    message = "User rate limit exceeded."
    drive.drive.fail("POST", UPLOAD, status=403, reason="userRateLimitExceeded", message=message, times=99)

    with pytest.raises(RemoteError, match="upload limit") as error:
        drive_lab.remote().upload(drive_lab.holding("out", {"file": b"x"}), ["file"], "s")

    assert not error.value.retryable


def test_a_full_disk_and_a_move_across_filesystems(local_lab: Lab, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    local = local_lab.holding("out", {"fits": b"f" * 1000, "large": bytes(4 << 20)})
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], check=True)
    try:
        remote = at(local_lab, str(small / "gx-backups"))

        remote.upload(local, ["fits"], "s", may_move=True)
        with pytest.raises(RemoteError, match="file too big for remaining disk space") as error:
            remote.upload(local, ["fits", "large"], "s", may_move=True)
        listed = remote.list_files("s")
    finally:
        subprocess.run(["umount", str(small)], check=True)

    assert not error.value.retryable
    assert [(file.path, file.size_bytes) for file in listed] == [("fits", 1000)]
    assert (local / "fits").exists()
    assert (local / "large").exists()


def test_a_local_remote_takes_files_by_rename_and_never_over_another(local_lab: Lab) -> None:
    local, remote = local_lab.holding("out", {"d/one": b"1", "two": b"22"}), local_lab.remote()
    inode = (local / "d/one").stat().st_ino
    local_lab.put("s/two", b"??")

    with pytest.raises(IntegrityError, match="nothing was overwritten"):
        remote.upload(local, ["d/one", "two"], "s", may_move=True)
    untouched = (local / "d/one").exists()
    remote.upload(local, ["d/one", "two"], "s", may_move=True, replace_unequal=True)

    assert untouched
    assert not (local / "d/one").exists()
    assert (Path(local_lab.root) / "s/d/one").stat().st_ino == inode
    assert remote.read("s/two") == b"22"


def test_a_revoked_token_asks_for_a_new_login(drive_lab: Lab, drive: Emulator) -> None:
    drive.drive.refresh_token = "another"

    with pytest.raises(RemoteError, match="invalid_grant") as error:
        drive_lab.remote().check()

    assert not error.value.retryable
    assert "rclone config reconnect" in str(error.value)


def test_a_login_server_that_is_at_fault_for_a_moment_is_tried_again(drive_lab: Lab, drive: Emulator) -> None:
    drive.drive.fail("POST", "/token", status=503, reason="backendError", times=99)

    with pytest.raises(RemoteError, match="fetch token: 503") as error:
        drive_lab.remote().check()

    assert error.value.retryable
    assert "reconnect" not in str(error.value)


def test_a_hiccup_of_the_server_is_survived(drive_lab: Lab, drive: Emulator, tmp_path: Path) -> None:
    content, remote = os.urandom(9 << 20), drive_lab.remote()
    for fault in ({"status": 503, "reason": "backendError"}, {"drop": True}):
        for method, target in (("GET", LISTING), ("POST", CHUNK), ("GET", CONTENT)):
            drive.drive.fail(method, target, **fault)

    remote.upload(drive_lab.holding("out", {"file": content}), ["file"], "s")
    remote.download("s", ["file"], tmp_path / "back")

    assert all(fault.times == 0 for fault in drive.drive.faults)
    assert (tmp_path / "back" / "file").read_bytes() == content
    assert remote.sha256("s/file") == hashlib.sha256(content).hexdigest()


def test_a_stream_that_is_cut_raises_at_its_end_whatever_its_reader_thinks(drive_lab: Lab, drive: Emulator) -> None:
    remote = drive_lab.remote()
    remote.upload(drive_lab.holding("out", {"file": os.urandom(1 << 20)}), ["file"], "s")
    (entry,) = drive.drive.find(drive_lab.root.removeprefix("drive:"), "s", "file")
    entry.without_sha256 = True
    drive.drive.fail("GET", CONTENT, cut=True, times=99)

    def read_like_age() -> None:
        with remote.open("s/file") as stream:
            stream.read()
            raise ValueError("unexpected end of file")

    with pytest.raises(RemoteError, match="read drive:") as plain:
        remote.read("s/file")
    with pytest.raises(RemoteError, match="read drive:"):
        read_like_age()
    with pytest.raises(RemoteError, match="read back drive:"):
        remote.sha256_many("s", ["file"])

    assert plain.value.retryable


def test_two_files_of_one_name_are_named_and_not_guessed_between(drive_lab: Lab, drive: Emulator) -> None:
    remote, local = drive_lab.remote(), drive_lab.holding("out", {"file": b"x", "more": b"m"})
    remote.upload(local, ["file"], "s")
    (folder,) = drive.drive.find(drive_lab.root.removeprefix("drive:"), "s")
    drive.drive.add({"name": "file", "parents": [folder.id]}, b"y")

    for act in (
        lambda: remote.list_files(""),
        lambda: remote.sha256_many("s", ["file"]),
        lambda: remote.upload(local, ["more"], "s", replace_unequal=True),
    ):
        with pytest.raises(IntegrityError, match=r"expected one entry for each name, seen several for '(s/)?file'"):
            act()
    with pytest.raises(SameNameError) as told:
        remote.list_files("", hashes=True)
    assert told.value.twice == ("s/file",)
    digests = {hashlib.sha256(content).hexdigest() for content in (b"x", b"y")}
    assert [(file.path, file.size_bytes) for file in told.value.files] == [("s/file", 1)] * 2
    assert {file.sha256 for file in told.value.files} == digests
    drive.drive.add({"name": "s", "parents": [folder.parent], "mimeType": FOLDER})
    with pytest.raises(IntegrityError, match="seen several for 's'"):
        remote.list_folders("")

    assert len(drive.drive.find(drive_lab.root.removeprefix("drive:"), "s", "file")) == 2


def test_a_file_whose_hash_drive_does_not_tell_is_read_back(drive_lab: Lab, drive: Emulator) -> None:
    remote = drive_lab.remote()
    remote.upload(drive_lab.holding("out", {"old": b"from before", "new": b"new"}), ["old", "new"], "s")
    (entry,) = drive.drive.find(drive_lab.root.removeprefix("drive:"), "s", "old")
    entry.without_sha256 = True

    found = remote.sha256_many("s", ["old", "new"])

    assert found == {"old": hashlib.sha256(b"from before").hexdigest(), "new": hashlib.sha256(b"new").hexdigest()}
    assert any(f"/drive/v3/files/{entry.id}?alt=media" in line for line in drive.drive.log)


def test_what_an_operator_set_for_his_own_rclone_hides_and_skips_nothing(
    local_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "EXCLUDE": "*",
        "DRY_RUN": "true",
        "LOG_LEVEL": "DEBUG",
        "VERBOSE": "2",
        "MAX_DEPTH": "1",
    }.items():
        monkeypatch.setenv(f"RCLONE_{name}", value)
    remote = local_lab.remote()
    seen: list[Progress] = []

    remote.upload(local_lab.holding("out", {"d/file": b"x"}), ["d/file"], "s", seen.append)

    assert [file.path for file in remote.list_files("")] == ["s/d/file"]
    assert seen[-1].transferred_bytes == 1


def test_a_client_that_resets_before_the_handshake_leaves_no_socket_of_the_emulator_open(
    drive: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    threads = threading.active_count()
    for _ in range(40):
        with socket.create_connection(("127.0.0.1", drive.server_port)) as client:
            client.sendall(b"CONNECT www.googleapis.com:443 HTTP/1.1\r\n\r\n")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end = time.monotonic() + 20
    while threading.active_count() > threads and time.monotonic() < end:
        time.sleep(0.02)
    assert threading.active_count() <= threads
    assert told == []
