"""The directory source on real files, as root: all that a file is comes back, and what could not be read is said."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import ValidationError
from site_tree import describe, make_website

from gxbackup import trees
from gxbackup.adapters import process
from gxbackup.adapters.containers import Containers
from gxbackup.adapters.host import Host
from gxbackup.errors import CommandError, EmptyArtifactError, SourceMissingError
from gxbackup.model import Capture
from gxbackup.ports import StreamEnd
from gxbackup.sources.directory import Directory

CHUNK_BYTES = 1024**2


@pytest.fixture
def host() -> Host:
    return Host(Containers())


@pytest.fixture(scope="module")
def website(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("website") / "site"
    root.mkdir()
    make_website(root)
    return root


@pytest.fixture
def site(website: Path, tmp_path: Path) -> Path:
    (tmp_path / "www").mkdir()
    subprocess.run(["cp", "--archive", website, tmp_path / "www"], check=True)
    return tmp_path / "www" / "site"


def collect(source: Directory, host: Host) -> Capture:
    (capture,) = source.collect(host, "website")
    return capture


def read(source: Directory, host: Host, capture: Capture) -> tuple[bytes, StreamEnd]:
    buffer = memoryview(bytearray(CHUNK_BYTES))
    plain = bytearray()
    with source.open(host, capture) as stream:
        while count := stream.readinto(buffer):
            plain += buffer[:count]
        return bytes(plain), stream.finish()


def back_up(source: Directory, host: Host) -> tuple[bytes, StreamEnd]:
    return read(source, host, collect(source, host))


def unpacked(plain: bytes, ending: StreamEnd, into: Path) -> Path:
    into.mkdir()
    trees.extract([plain], into, ending.evidence)
    return into


@contextmanager
def mounted(device: Path, point: Path, *words: str) -> Iterator[None]:
    point.mkdir(exist_ok=True)
    subprocess.run(["mount", *words, device, point], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", point], check=True)


def test_every_attribute_of_every_file_comes_back(host: Host, site: Path, tmp_path: Path) -> None:
    subprocess.run(["setfacl", "-m", "u:33:rw,g:34:r", site / "index.html"], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:33:rwx", site / "private"], check=True)
    os.setxattr(site / "private", "user.note", b"\0binary\xff")
    os.setxattr(
        site / "private" / ".env", "security.capability", bytes.fromhex("0100000202000000000000000000000000000000")
    )
    os.chown(site / "shared", 7, 8, follow_symlinks=False)
    os.link(site / "shared", site / "shared too", follow_symlinks=False)
    os.mkfifo(site / "fifo", 0o640)
    os.mknod(site / "device", 0o20600, os.makedev(1, 3))
    (site / "setuid").write_bytes(b"#!")
    os.chown(site / "setuid", 33, 33)
    (site / "setuid").chmod(0o6755)
    os.utime(site / "index.html", ns=(1, -1_250_000_000))
    os.utime(site / "shared", ns=(5, 1_234_567_890_123_456_789), follow_symlinks=False)
    site.chmod(0o2750)
    os.utime(site, ns=(7, 987_654_321_987_654_321))

    plain, ending = back_up(Directory(root=str(site)), host)
    restored = unpacked(plain, ending, tmp_path / "restored")

    assert describe(restored) == describe(site)
    assert ending.shortfalls == ()
    trees.compare(ending.evidence, trees.tally(restored))
    trees.compare(ending.evidence, trees.tally(site))


def test_holes_stay_holes(host: Host, site: Path, tmp_path: Path) -> None:
    with (site / "huge").open("wb") as sparse:
        sparse.truncate(20 * 1024**3)
        sparse.seek(10 * 1024**3)
        sparse.write(b"in the middle")

    capture = collect(Directory(root=str(site)), host)
    plain, ending = read(Directory(root=str(site)), host, capture)
    restored = unpacked(plain, ending, tmp_path / "restored")

    seen = (restored / "huge").stat()
    assert seen.st_size == 20 * 1024**3
    assert seen.st_blocks * 512 < 1024**2
    assert len(plain) <= capture.expected_size_bytes < 100 * 1024**2


def test_what_is_there_is_known_before_it_is_read(host: Host, site: Path) -> None:
    for number in range(2000):
        (site / f"many-{number}").write_bytes(b"x" * 3000)

    capture = collect(Directory(root=str(site)), host)
    plain, _ = read(Directory(root=str(site)), host, capture)

    assert len(plain) <= capture.expected_size_bytes <= 2 * len(plain)


def test_an_unchanged_tree_gives_the_same_bytes_again(host: Host, site: Path) -> None:
    (site / "sparse.img").unlink()  # GNU tar writes its own process id into the header of a sparse file
    source = Directory(root=str(site))

    assert back_up(source, host)[0] == back_up(source, host)[0]


def test_a_chain_of_links_to_the_root_is_followed_and_recorded(host: Host, site: Path, tmp_path: Path) -> None:
    (tmp_path / "green").symlink_to(site)
    (tmp_path / "live").symlink_to("green")
    source = Directory(root=str(tmp_path / "live"))

    capture = collect(source, host)
    _, ending = read(source, host, capture)

    assert (capture.settings["root"], capture.settings["real_root"]) == (str(tmp_path / "live"), str(site))
    trees.compare(ending.evidence, trees.tally(site))


def test_only_the_named_paths_are_taken_with_the_folders_above_them(host: Host, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for path in ("etc/rancher/k3s/config.yaml", "etc/passwd", "var/lib/token", "var/lib/other", "-odd/file"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    (root / "etc").chmod(0o711)
    source = Directory(
        root=str(root), paths=("etc/rancher", "var/lib/token"), optional_paths=("opt/absent",), restores="overlay"
    )

    capture = collect(source, host)
    plain, ending = read(source, host, capture)
    restored = unpacked(plain, ending, tmp_path / "restored")

    files = sorted(str(path.relative_to(restored)) for path in restored.rglob("*") if path.is_file())
    assert files == ["etc/rancher/k3s/config.yaml", "var/lib/token"]
    assert (restored / "etc").stat().st_mode & 0o7777 == 0o711
    assert capture.evidence["absent_optional_paths"] == ["opt/absent"]
    trees.compare(ending.evidence, trees.tally(restored))


def test_a_named_path_that_was_moved_behind_a_link_is_taken_with_the_link(host: Host, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "data" / "rancher" / "k3s").mkdir(parents=True)
    (root / "data" / "rancher" / "k3s" / "token").write_text("secret")
    (root / "var" / "lib").mkdir(parents=True)
    (root / "var" / "lib" / "rancher").symlink_to("../../data/rancher")
    (root / "data" / "outside").symlink_to("/tmp")
    source = Directory(root=str(root), paths=("var/lib/rancher/k3s",), restores="overlay")

    restored = unpacked(*back_up(source, host), tmp_path / "restored")

    assert (restored / "var/lib/rancher/k3s/token").read_text() == "secret"
    with pytest.raises(SourceMissingError, match="leads to /tmp, out of"):
        Directory(root=str(root), paths=("data/outside",), restores="overlay").collect(host, "website")


def test_patterns_leave_out_files_and_folders(host: Host, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for path in ("keep.txt", "a/drop.log", "cache/big", "a/cache/big", "a/b/keep", "a/b/drop"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x" * 1_000_000)
    source = Directory(root=str(root), exclude=("*.log", "cache", "a/b/d*"))

    capture = collect(source, host)
    plain, ending = read(source, host, capture)
    restored = unpacked(plain, ending, tmp_path / "restored")

    assert sorted(path.name for path in restored.rglob("*") if path.is_file()) == ["keep", "keep.txt"]
    assert len(plain) <= capture.expected_size_bytes < 4_000_000


def test_sockets_are_skipped_and_named(host: Host, site: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(site)
        listener.bind("odd: name\n.sock")
        os.chdir("/")

        plain, ending = back_up(Directory(root=str(site)), host)

    assert ending.evidence["skipped_sockets"] == 1
    assert ending.evidence["skipped_sockets_names"] == ["./odd\\: name\\n.sock"]
    assert ending.shortfalls == ()
    assert b".sock" not in plain


def test_mounts_inside_are_taken_and_pseudo_filesystems_are_not(host: Host, site: Path, tmp_path: Path) -> None:
    (site / "uploads").mkdir()
    (site / "proc [1]").mkdir()
    with (
        mounted(Path("tmpfs"), site / "uploads", "-t", "tmpfs"),
        mounted(Path("proc"), site / "proc [1]", "-t", "proc"),
    ):
        (site / "uploads" / "photo").write_bytes(b"jpeg")

        capture = collect(Directory(root=str(site)), host)
        plain, ending = read(Directory(root=str(site)), host, capture)

    restored = unpacked(plain, ending, tmp_path / "restored")
    assert capture.evidence["mounts_inside"] == {str(site / "uploads"): "tmpfs", str(site / "proc [1]"): "proc"}
    assert (restored / "uploads" / "photo").read_bytes() == b"jpeg"
    assert not (restored / "proc [1]").exists()


class Writer:
    """Another program at work on a file for as long as the block lasts."""

    def __init__(self, change: object) -> None:
        self._change = change
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.rounds = 0

    def _work(self) -> None:
        assert callable(self._change)
        while not self._stop.is_set():
            self._change(self.rounds)
            self.rounds += 1

    def __enter__(self) -> Writer:
        self._thread.start()
        while not self.rounds:
            time.sleep(0.001)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def test_a_file_that_grows_while_it_is_read_is_named_and_no_failure(host: Host, site: Path, tmp_path: Path) -> None:
    log = site / "access.log"
    log.write_bytes(b"0" * 20_000_000)

    def grow(_round: int) -> None:
        with log.open("ab") as file:
            file.write(b"one more line\n")

    with Writer(grow):
        plain, ending = back_up(Directory(root=str(site)), host)

    assert "./access.log" in ending.evidence["changed_while_read_names"]  # type: ignore[operator]
    assert ending.shortfalls == ()
    restored = unpacked(plain, ending, tmp_path / "restored")
    assert (restored / "access.log").read_bytes().startswith(b"0" * 20_000_000)


def test_a_file_that_shrinks_while_it_is_read_is_named_and_padded(host: Host, site: Path, tmp_path: Path) -> None:
    log = site / "zz.log"
    log.write_bytes(b"1" * 64_000_000)
    source = Directory(root=str(site))
    buffer = memoryview(bytearray(CHUNK_BYTES))
    plain = bytearray()

    with source.open(host, collect(source, host)) as stream:
        while count := stream.readinto(buffer):
            plain += buffer[:count]
            if plain.endswith(b"1" * 1000) and log.stat().st_size > 20_000_000:
                os.truncate(log, 20_000_000)
        ending = stream.finish()

    assert ending.evidence["shrank_and_padded_names"] == ["./zz.log"]
    assert ending.shortfalls == ()
    restored = unpacked(bytes(plain), ending, tmp_path / "restored")
    assert (restored / "zz.log").stat().st_size == 64_000_000


def test_files_that_vanish_while_the_tree_is_read_are_named_and_no_failure(host: Host, site: Path) -> None:
    for number in range(3000):
        (site / f"session-{number:04d}").write_bytes(b"s" * 10_000)
    source = Directory(root=str(site))
    buffer = memoryview(bytearray(CHUNK_BYTES))
    first_seen = False

    with source.open(host, collect(source, host)) as stream:
        while count := stream.readinto(buffer):
            if not first_seen and b"session-0000" in bytes(buffer[:count]):
                first_seen = True
                for number in range(2000, 3000):
                    (site / f"session-{number:04d}").unlink(missing_ok=True)
        ending = stream.finish()

    assert ending.evidence["vanished"] == 1000
    names = ending.evidence["vanished_names"]
    assert isinstance(names, list)
    assert len(names) == 20
    assert ending.shortfalls == ()


def test_a_file_on_a_broken_disk_is_a_shortfall_that_names_it(host: Host, site: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.touch()
    os.truncate(disk, 16 * 1024**2)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "^extent,^metadata_csum,^64bit", disk], check=True)
    with mounted(disk, site / "disk", "-o", "loop"):
        (site / "disk" / "good").write_bytes(b"g" * 80_000)
        (site / "disk" / "bad").write_bytes(b"b" * 200_000)
    shown = subprocess.run(["debugfs", "-R", 'stat "bad"', disk], capture_output=True, text=True, check=True).stdout
    block = int(shown.partition("(IND):")[2].partition(",")[0])
    with disk.open("r+b") as raw:
        raw.seek(block * 4096)
        raw.write(b"\xff" * 4096)

    with mounted(disk, site / "disk", "-o", "loop,ro"):
        plain, ending = back_up(Directory(root=str(site)), host)

    assert ending.shortfalls == ("./disk/bad: cannot be read: Input/output error",)
    restored = unpacked(plain, ending, tmp_path / "restored")
    assert (restored / "disk" / "good").read_bytes() == b"g" * 80_000


@dataclass(frozen=True)
class NobodysHost(Host):
    """A host on which we are not root."""

    def start(
        self,
        argv: Sequence[str | Path],
        *,
        stdout: process.Stream = None,
        stderr: process.Stream = None,
        stdin: process.Stream = None,
        env: Mapping[str, str] | None = None,
    ) -> AbstractContextManager[process.Child]:
        nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]
        return super().start([*nobody, *argv], stdout=stdout, stderr=stderr, stdin=stdin, env=env)


def test_what_may_not_be_read_is_a_shortfall_and_the_rest_is_kept(site: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    (site / "secret file").write_bytes(b"s")
    (site / "secret file").chmod(0o600)
    (site / "closed").mkdir(mode=0o700)
    host = NobodysHost(Containers())

    plain, ending = back_up(Directory(root=str(site)), host)

    assert ending.shortfalls == (
        "./closed: Cannot open: Permission denied",
        "./private: Cannot open: Permission denied",
        "./secret file: Cannot open: Permission denied",
    )
    assert b"index.html" in plain


def test_a_path_that_no_restore_could_make_is_a_shortfall(host: Host, site: Path, tmp_path: Path) -> None:
    """A program that copied a folder into itself makes such paths; tar packs them, and cannot unpack them."""
    folder = os.open(site, os.O_RDONLY)
    for _ in range(17):  # the 16th and the 17th are too deep
        os.mkdir("d" * 250, dir_fd=folder)
        inner = os.open("d" * 250, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)

    _, ending = back_up(Directory(root=str(site)), host)

    first, second = ending.shortfalls
    assert re.fullmatch(r"d{60}…: its path has 4015 bytes below the root; .* more than 3840", first)
    assert second == "and 1 more with such a path"


def test_a_tar_that_is_killed_is_a_failure(host: Host, site: Path) -> None:
    (site / "large").write_bytes(bytes(range(256)) * 40_000)
    source = Directory(root=str(site))
    buffer = memoryview(bytearray(4096))

    with source.open(host, collect(source, host)) as stream:
        stream.readinto(buffer)
        stream._tar.kill()  # type: ignore[attr-defined]
        while stream.readinto(buffer):
            pass
        with pytest.raises(CommandError, match="expected exit status 0, seen -9"):
            stream.finish()


def test_leaving_a_stream_half_read_ends_its_tar(host: Host, site: Path) -> None:
    (site / "large").write_bytes(bytes(256) * 40_000)
    source = Directory(root=str(site))

    with source.open(host, collect(source, host)) as stream:
        stream.readinto(memoryview(bytearray(4096)))
        tar = stream._tar  # type: ignore[attr-defined]

    assert tar.returncode == -15


@pytest.mark.parametrize("content", ["nothing", "empty folders"])
def test_an_empty_tree_is_no_backup(host: Host, tmp_path: Path, content: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    if content == "empty folders":
        (root / "a" / "b").mkdir(parents=True)

    with pytest.raises(EmptyArtifactError, match="expected files, seen none"):
        back_up(Directory(root=str(root)), host)


def test_a_missing_path_is_named(host: Host, site: Path, tmp_path: Path) -> None:
    (site / "dangling").symlink_to("nowhere")
    for source, named in (
        (Directory(root=str(tmp_path / "gone")), str(tmp_path / "gone")),
        (Directory(root=str(site / "index.html")), "expected a directory, seen something else"),
        (Directory(root=str(site), paths=("gone",), restores="overlay"), str(site / "gone")),
        (Directory(root=str(site), paths=("dangling",), restores="overlay"), str(site / "dangling")),
        (Directory(root=str(site), optional_paths=("gone",), restores="overlay"), "none of its paths is there: gone"),
    ):
        with pytest.raises(SourceMissingError, match=named.replace("+", r"\+")):
            source.collect(host, "website")


@pytest.mark.parametrize(
    "settings",
    [
        {"root": "var/www"},
        {"root": "/var/../etc"},
        {"root": "/var/www\n"},
        {"root": "/", "paths": ["/etc"]},
        {"root": "/", "paths": ["../etc"]},
        {"root": "/", "paths": ["-etc"]},
        {"root": "/", "paths": ["etc/"]},
        {"root": "/", "paths": ["etc", "etc/ssh"], "restores": "overlay"},
        {"root": "/", "paths": ["etc"], "optional_paths": ["etc"], "restores": "overlay"},
        {"root": "/", "paths": ["etc"], "restores": "exchange"},
        {"root": "/", "exclude": ["--checkpoint-action=exec=x"]},
        {"root": "/", "exclude": ["/etc"]},
        {"root": "/", "exclude": [""]},
        {"root": "/", "depth": 2},
    ],
)
def test_settings_that_could_mean_something_else_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Directory.model_validate(settings)


def test_a_folder_outside_that_a_link_leads_to_is_told(host: Host, site: Path, tmp_path: Path) -> None:
    (tmp_path / "shared" / "uploads").mkdir(parents=True)
    (site / "uploads").symlink_to("../../shared/uploads")
    (site / "assets").symlink_to(site / "private")
    (site / "time").symlink_to("/etc/localtime")
    (site / "gone").symlink_to("/nowhere/at/all")
    (site / os.fsdecode(b"odd\xff\n")).symlink_to("/etc")

    _, ending = back_up(Directory(root=str(site)), host)

    assert ending.evidence["folders_outside"] == [
        f"{site}/odd\\xff\\n leads to /etc",
        f"{site}/uploads leads to {tmp_path}/shared/uploads",
    ]
    assert ending.shortfalls == ()
