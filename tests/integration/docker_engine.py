"""A Docker Engine of one's own: a real dockerd on a Unix socket, with its own data, without any network."""

from __future__ import annotations

import io
import re
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import docker
from docker.errors import DockerException
from docker.models.containers import Container
from requests.exceptions import RequestException

from gxbackup import mounts

IMAGE = "gx-tiny:1"
START_TIMEOUT_SECONDS = 60
PROGRAMS = ("sh", "sleep", "cat", "true", "false", "test", "touch", "head", "tee", "wc", "env", "sha256sum", "b2sum")
# Ends at once when it is told to: process 1 of a container gets no default handling of signals.
IDLE = ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"]


class Engine:
    """A running dockerd; `url` is what DOCKER_HOST takes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"unix://{folder}/docker.sock"
        self._dockerd: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return once it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self._dockerd = subprocess.Popen(
                [
                    # Without a bridge of its own it would remove the one of another Engine on this machine.
                    "unshare", "--net", "dockerd", "--host", self.url, "--data-root", self.folder / "data",
                    "--exec-root", self.folder / "exec", "--pidfile", self.folder / "pid",
                    "--bridge=none", "--iptables=false", "--ip6tables=false", "--log-level=warn",
                ],
                stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self._answers():
            assert self._dockerd.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, f"dockerd does not answer: {(self.folder / 'log').read_text()[-2000:]}"
            time.sleep(0.05)

    def stop(self) -> None:
        """End it with its containers."""
        if self._dockerd is not None:
            self._dockerd.terminate()
            self._dockerd.wait(60)
            self._dockerd = None
        for point in sorted(mounts.below([self.folder]), reverse=True):
            subprocess.run(["umount", point], check=True)

    @contextmanager
    def client(self) -> Iterator[docker.DockerClient]:
        """Give a client of one's own."""
        client = docker.DockerClient(base_url=self.url)
        try:
            yield client
        finally:
            client.close()

    def load_image(self) -> None:
        """Make the image of a few programs of this host."""
        with self.client() as client:
            repository, tag = IMAGE.split(":")
            client.api.import_image_from_data(root_filesystem(), repository=repository, tag=tag)

    def run(self, name: str, command: list[str] | None = None, **settings: object) -> None:
        """Run a container without a network."""
        with self.client() as client:
            client.containers.run(IMAGE, command or IDLE, name=name, detach=True, network_mode="none", **settings)

    @contextmanager
    def container(self, name: str) -> Iterator[Container]:
        """Give a container as the SDK sees it."""
        with self.client() as client:
            yield client.containers.get(name)

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as knocking:  # the SDK leaks its socket where nobody listens
                knocking.connect(self.url.removeprefix("unix://"))
            with self.client() as client:
                return bool(client.ping())
        except (DockerException, RequestException, OSError):
            return False


@contextmanager
def running_engine(folder: Path) -> Iterator[Engine]:
    """Run an Engine with one image for the length of a block; `folder` is short, for a socket's path is."""
    engine = Engine(folder)
    try:
        engine.start()
        engine.load_image()
        yield engine
    finally:
        engine.stop()


def root_filesystem(programs: Sequence[str] = PROGRAMS, folders: Mapping[Path, str] | None = None) -> bytes:
    """Return the tar of these programs of this host with what they need, and of folders under other names."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for program in programs:
            found = shutil.which(program)
            assert found
            tar.add(Path(found).resolve(), f"bin/{program}")
        for library in sorted(_libraries(programs)):
            tar.add(library.resolve(), str(library).lstrip("/"))
        for folder, name in (folders or {}).items():
            tar.add(folder, name)
    return buffer.getvalue()


def _libraries(programs: Sequence[str]) -> set[Path]:
    found: set[Path] = set()
    for program in programs:
        linked = subprocess.run(["ldd", shutil.which(program) or ""], capture_output=True, text=True, check=True).stdout
        found |= {Path(match) for match in re.findall(r"/\S*lib\S*", linked)}
    return found
