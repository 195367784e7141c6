"""A real redis-server of one's own on a free port of loopback, started and stopped as a StatefulSet would."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from estate import await_condition

from gxbackup.adapters.cluster import Pod
from gxbackup.adapters.places import LocalPlace
from gxbackup.model import Artifact, Capture, Part
from gxbackup.ports import Place, StreamEnd
from gxbackup.redis import restore
from gxbackup.redis.server import RedisServer
from gxbackup.redis.swap import DataFiles
from gxbackup.sources.base import Opened, Work
from gxbackup.sources.redis import Redis

FILES = DataFiles("dump.rdb", False, "appendonlydir", "appendonly.aof")
APPENDING = DataFiles("dump.rdb", True, "appendonlydir", "appendonly.aof")
PASSWORD_VARIABLE = "REDIS_PASSWORD"
TIMEOUT_SECONDS = 30


class LocalRedis:
    """It plays the pod: `host()` is what a source sees, and it is a restore's target."""

    name = "local Redis"

    def __init__(self, folder: Path, *settings: str, password: str = "") -> None:
        self.path = folder
        self.path.mkdir(parents=True, exist_ok=True)
        self.settings = list(settings)
        self.password = password
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.place = LocalPlace(self.name, {PASSWORD_VARIABLE: password})
        self.grace_seconds: float = TIMEOUT_SECONDS
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> str:
        return str(self.path)

    def host(self) -> Any:
        """Return a host whose cluster has this one pod."""
        return SimpleNamespace(cluster=SimpleNamespace(place=lambda *_: self.place))

    def server(self) -> RedisServer:
        return RedisServer(self.place, PASSWORD_VARIABLE, ("-p", str(self.port)))

    def cli(self, *words: str, text: str | None = None) -> str:
        argv = ["redis-cli", "-e", "-p", str(self.port), *words]
        env = {**os.environ, **({"REDISCLI_AUTH": self.password} if self.password else {})}
        return subprocess.run(argv, input=text, capture_output=True, text=True, check=True, env=env).stdout.strip()

    def fill(self) -> None:
        """Keys of every type in two databases, some with an end."""
        pipe = "".join(f"SET key:{number} value-{number}\n" for number in range(1000))
        pipe += "HSET hash a 1 b 2\nRPUSH list 1 2\nSADD set x y\nZADD zset 1 one\nXADD stream * f v\n"
        pipe += "SET soon x EX 864000\nSELECT 7\nSET other 1\nSET later y EX 864000\n"
        self.cli(text=pipe)

    def start(self) -> None:
        self.spawn()
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not self.answers():
            assert self._process is not None and self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def spawn(self) -> None:
        """Start it, and do not wait until it answers."""
        words = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder, "--logfile", "redis.log"]
        words += ["--requirepass", self.password] if self.password else []
        server = shutil.which("redis-check-rdb")  # the same program: what it is called tells it what to do
        self._process = subprocess.Popen(["redis-server", *words, *self.settings], executable=server)

    def stop(self) -> None:
        """Stop it as Kubernetes does: it may save what it holds over its RDB, and is killed after its grace period."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(self.grace_seconds)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def kill(self) -> None:
        """End it as a crash does, with what it has forked; nothing is saved."""
        assert self._process is not None
        for process in (*self.children(), self._process.pid):
            os.kill(process, signal.SIGKILL)
        self._process.wait(TIMEOUT_SECONDS)
        self._process = None

    def require_stoppable(self) -> None:
        """See `restore.Target`."""

    @contextmanager
    def data(self) -> Iterator[tuple[Place, str]]:
        assert self._process is None, "its data is reached while it is stopped"
        yield self.place, self.folder

    def answers(self) -> bool:
        env = {**os.environ, **({"REDISCLI_AUTH": self.password} if self.password else {})}
        asked = subprocess.run(
            ["redis-cli", "-p", str(self.port), "PING"], capture_output=True, text=True, check=False, env=env
        )
        return asked.stdout.strip() == "PONG"

    def children(self) -> list[int]:
        """Return the processes that it has forked to save."""
        assert self._process is not None
        told = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return [int(word) for word in told.split()]

    def kill_its_save(self, asked_by: Future[Any]) -> None:
        """Wait for the save that somebody asked for, and end it as the kernel does where a copy no longer fits."""
        await_condition("a save", lambda: bool(self.children()), TIMEOUT_SECONDS, died=asked_by.done)
        for child in self.children():
            os.kill(child, signal.SIGKILL)

    def log(self) -> str:
        log = self.path / "redis.log"
        return log.read_text()[-2000:] if log.exists() else "no log"

    def forget(self) -> None:
        self.stop()
        shutil.rmtree(self.path, ignore_errors=True)


@contextmanager
def making_servers(folder: Path) -> Iterator[Callable[..., LocalRedis]]:
    """Give what makes and starts servers below a folder; all are stopped with the block."""
    made: list[LocalRedis] = []

    def make(*settings: str, name: str = "redis", password: str = "") -> LocalRedis:
        made.append(LocalRedis(folder / name, *settings, password=password))
        made[-1].start()
        return made[-1]

    try:
        yield make
    finally:
        for one in made:
            one.stop()


def source(redis: LocalRedis, **settings: Any) -> Redis:
    """Return the source of a server that plays the pod."""
    return Redis(namespace="backend", pod="redis-0", port=redis.port, **settings)


def taken(redis: LocalRedis, **settings: Any) -> tuple[Capture, bytes, StreamEnd]:
    """Collect and read."""
    kind = source(redis, **settings)
    [capture] = kind.collect(redis.host(), "redis-mainnet")
    out, buffer = bytearray(), memoryview(bytearray(700))
    with kind.open(redis.host(), capture) as stream:
        while count := stream.readinto(buffer):
            out += buffer[:count]
        return capture, bytes(out), stream.finish()


def work(folder: Path, capture: Capture, rdb: bytes, end: StreamEnd) -> Work:
    """What a restore is given of it."""
    folder.mkdir(exist_ok=True)
    file = folder / capture.name
    file.write_bytes(rdb)
    digest = hashlib.sha256(rdb).hexdigest()
    artifact = Artifact(
        data_type=capture.data_type, kind="redis", path=f"databases/{capture.name}.zst.age",
        parts=(Part(path="x", size_bytes=1, sha256=digest),), sealed_size_bytes=1, sealed_sha256=digest,
        plain_size_bytes=len(rdb), plain_sha256=digest, keep_days=7,
        settings=capture.settings, evidence={**capture.evidence, **end.evidence},
    )  # fmt: skip
    return Work(
        data_type=capture.data_type,
        opened=(Opened(artifact=artifact, file=file),),
        area=folder,
        safety_dir=folder,
    )


def filled(redis: LocalRedis, folder: Path) -> Opened:
    """Fill a server with the usual keys, and return what a restore is given of them."""
    redis.fill()
    return work(folder, *taken(redis)).opened[0]


class Killed(BaseException):
    """The process ends here; nothing after this line of it runs."""


def holds(folder: Path, redis: LocalRedis, key: str) -> bool:
    """Tell whether a Redis on a copy of this folder has the key."""
    copy = shutil.copytree(folder, folder.parent.parent / f"look-{folder.name}-{key}", dirs_exist_ok=True)
    other = LocalRedis(copy, *redis.settings)
    other.start()
    try:
        return other.cli("EXISTS", key) == "1"
    finally:
        other.stop()


def pod_host(redis: LocalRedis) -> Any:
    """Return a host whose cluster has this server as the only pod of a StatefulSet, its folder on a claim."""
    pod = Pod(namespace="backend", name="redis-0", uid="1", node="n", ready=True, state="Running",
              containers=("redis",), images=("image",), labels={}, claims={"data": redis.folder})  # fmt: skip
    host = redis.host()
    host.cluster.replicas = lambda *_: 1
    host.cluster.pods = lambda *_: (pod,)
    return host


def put(redis: LocalRedis, given: Opened, **more: Any) -> list[str]:
    """Restore to a server in the way that its settings ask for."""
    files = APPENDING if redis.server().info()["aof_enabled"] == "1" else FILES
    return restore.put_in_place(redis, given.file, files, given.artifact.evidence, **more)


def process_of(redis: LocalRedis) -> str:
    """Return the number of its process: another one after a restart."""
    return redis.server().info()["process_id"]
