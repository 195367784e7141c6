"""Real remotes of every kind, on this machine alone: each test gets an empty root folder on one of them."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gxbackup.adapters.rclone import Remote
from gxbackup.inventory import RemoteSettings
from tests.conformance import drive_emulator
from tests.conformance.drive_emulator import Emulator

RCLONE = str(Path(sys.executable).parent / "rclone")
KINDS = ("local", "crypt", "webdav", "sftp", "s3", "drive")
_ROOTS = {"crypt": "crypt:", "webdav": "webdav:", "sftp": "sftp:", "s3": "s3:bucket/", "drive": "drive:"}
_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Lab:
    """One kind of remote, and what a test does to it behind our back."""

    kind: str
    root: str
    folder: Path

    def remote(self, **limits: int) -> Remote:
        """Make the remote under test."""
        return Remote(RemoteSettings.model_validate({"path": self.root, **limits}), self.folder / "scratch")

    def holding(self, name: str, files: dict[str, bytes]) -> Path:
        """Make a local folder that holds these files."""
        for path, content in files.items():
            file = self.folder / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return self.folder / name

    def put(self, path: str, content: bytes) -> None:
        """Put a file on the remote with rclone alone."""
        self.rclone("rcat", f"{self.root}/{path}", stdin=content)

    def rclone(self, *words: str, stdin: bytes = b"") -> bytes:
        """Run rclone on this lab's config."""
        return subprocess.run([RCLONE, *words], input=stdin, check=True, capture_output=True, timeout=60).stdout

    def child(self) -> int:
        """Return the process id of the rclone that copies to or from this lab at the moment."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().decode().split("\0")
                except OSError:
                    continue
                if "copy" in words and any(word.startswith(self.root) for word in words):
                    return int(entry.name)
        raise AssertionError(f"no rclone copies to {self.root}")


@contextmanager
def _served(protocol: str, folder: Path, *flags: str) -> Iterator[str]:
    """Run `rclone serve` on a free port of loopback; yields its host and port."""
    shown, log = folder / protocol, folder / f"{protocol}.log"
    shown.mkdir()
    words = [RCLONE, "serve", protocol, str(shown), "--addr", "127.0.0.1:0", *flags]
    environment = {**os.environ, "RCLONE_CACHE_DIR": str(folder / "cache"), "RCLONE_CONFIG": str(folder / "none")}
    with (
        log.open("wb") as said,
        subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=said, env=environment) as server,
    ):
        try:
            deadline = time.monotonic() + 30
            while not (seen := re.search(r"(?:started|server|listening) on \[?(?:http://)?([\d.:]+)", log.read_text())):
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            yield seen[1]
        finally:
            server.kill()


def obscured(password: str) -> str:
    """Return a password as rclone's config spells it."""
    return subprocess.run([RCLONE, "obscure", password], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="session")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with drive_emulator.running(tmp_path_factory.mktemp("drive")) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve every kind; yields the text of a config that names them, and broken ones beside them."""
    folder = tmp_path_factory.mktemp("served")
    login, keys = ("--user", "gx", "--pass", "letmein"), "AKIAGXBACKUP0000,secret-of-the-bucket"
    with (
        _served("webdav", folder, *login) as webdav,
        _served("sftp", folder, *login) as sftp,
        _served("s3", folder, "--auth-key", keys) as s3,
    ):
        (folder / "s3" / "bucket").mkdir()
        (folder / "robot.json").write_text("cut")
        right, wrong = obscured("letmein"), obscured("wrong")
        sections = {
            "crypt": f"type = crypt\nremote = {folder / 'crypt'}\npassword = {right}",
            "webdav": f"type = webdav\nurl = http://{webdav}\nvendor = other\nuser = gx\npass = {right}",
            "webdav-login": f"type = webdav\nurl = http://{webdav}\nvendor = other\nuser = gx\npass = {wrong}",
            "webdav-dead": "type = webdav\nurl = http://127.0.0.1:1\nvendor = other",
            "sftp": _sftp(sftp, right),
            "sftp-login": _sftp(sftp, wrong),
            "sftp-dead": _sftp("127.0.0.1:1", right),
            "s3": _s3(s3, keys),
            "s3-login": _s3(s3, "AKIAGXBACKUP0000,wrong-secret-of-the-bucket"),
            "drive": "type = drive\nclient_id = gx\nclient_secret = hidden\nscope = drive\n"
            'token = {"access_token":"old","refresh_token":"good","expiry":"2020-01-01T00:00:00Z"}',
            "robot": "type = drive\nservice_account_file = /nowhere/robot.json",
            "robot-damaged": f"type = drive\nservice_account_file = {folder / 'robot.json'}",
            "robot-gcs": "type = google cloud storage\nservice_account_file = /nowhere/robot.json",
            "sftp-key": "type = sftp\nhost = 127.0.0.1\nuser = gx\nkey_file = /nowhere/id_ed25519",
            "odd": "type = nosuchbackend",
        }
        yield "".join(f"[{name}]\n{body}\n\n" for name, body in sections.items())


def _sftp(address: str, password: str) -> str:
    host, _, port = address.partition(":")
    return f"type = sftp\nhost = {host}\nport = {port}\nuser = gx\npass = {password}"


def _s3(address: str, keys: str) -> str:
    key, _, secret = keys.partition(",")
    login = f"access_key_id = {key}\nsecret_access_key = {secret}"
    return f"type = s3\nprovider = Rclone\nendpoint = http://{address}\n{login}"


@pytest.fixture
def configured(config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give this test a config of its own (rclone rewrites it), and no variable of the developer's."""
    for name in [name for name in os.environ if name.startswith("RCLONE_") or name.upper().endswith("_PROXY")]:
        monkeypatch.delenv(name)
    file = tmp_path / "rclone.conf"
    file.write_text(config)
    file.chmod(0o600)
    monkeypatch.setenv("RCLONE_CONFIG", str(file))
    return file


def _lab(kind: str, tmp_path: Path) -> Lab:
    name = f"gx-{os.getpid()}-{next(_NUMBERS)}"
    return Lab(kind, f"{_ROOTS[kind]}{name}" if kind in _ROOTS else str(tmp_path / name), tmp_path)


@pytest.fixture(params=KINDS)
def lab(
    request: pytest.FixtureRequest,
    configured: Path,
    drive: Emulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Lab:
    """An empty root on each kind of remote in turn."""
    if request.param == "drive":
        drive.drive.reset()
        for name, value in drive.environment().items():
            monkeypatch.setenv(name, value)
    return _lab(request.param, tmp_path)


@pytest.fixture
def local_lab(configured: Path, tmp_path: Path) -> Lab:
    """An empty root on this disk."""
    return _lab("local", tmp_path)


@pytest.fixture
def drive_lab(configured: Path, drive: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """An empty root on the emulated Google Drive."""
    drive.drive.reset()
    for name, value in drive.environment().items():
        monkeypatch.setenv(name, value)
    return _lab("drive", tmp_path)
