"""
A whole small estate on this machine, for demo, bench and tests: keys, inventory, remote, server, worker, deployments.

Everything lies in one folder, listens on 127.0.0.1 only, and every process is ended by its id.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from gxbackup import signing

PROJECT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HOSTS = ("vps1", "vps2", "vps3", "vps4", "vps5")


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_condition(
    what: str, ready: Callable[[], bool], seconds: float, died: Callable[[], bool] | None = None
) -> None:
    """Return once a condition holds; TimeoutError naming it where it does not in time, or its process died."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline or (died is not None and died()):
            raise TimeoutError(f"{what}: not ready after {seconds:g} s")
        time.sleep(0.1)


class Estate:
    """One folder with all that a host of GX backup needs, and the processes that run in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.remote = root / "remote"
        self.staging = root / "staging"
        self.metrics = root / "metrics"
        self.inventory_file = root / "inventory.yaml"
        self.identity = root / "keys" / "recovery.txt"
        self.url: str | None = None
        self._children: list[subprocess.Popen[bytes]] = []

    def create(self, edit: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Make keys and an inventory: the production one, with this folder's remote and keys."""
        for folder in (self.root, self.root / "keys", self.staging, self.root / "logs", self.metrics):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.remote.mkdir(exist_ok=True)
        document = yaml.safe_load((PROJECT / "deployments" / "inventory.yaml").read_text(encoding="utf-8"))
        document["remote"]["path"] = str(self.remote)
        document["watch"] = {"cronjobs": []}  # there is no cluster here
        for server in document["servers"].values():
            for promise in server["data_types"].values():
                if promise["source"].get("one_moment_seconds"):
                    promise["source"]["one_moment_seconds"] = 1  # nobody waits for a full five minutes here
        document["recipients"] = {"recovery": self._age_key("recovery"), "rehearsal": self._age_key("rehearsal")}
        for host in HOSTS:
            key = signing.make_key(self.signing_key(host))
            document["hosts"][host]["signers"] = [signing.public_text(key)]
        if edit is not None:
            edit(document)
        self.inventory_file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")

    def signing_key(self, host: str) -> Path:
        """Return the path of a host's signing key."""
        return self.root / "keys" / f"{host}.key"

    def environment(self, host: str = "vps1", **extra: str) -> dict[str, str]:
        """Return the environment of a process that plays this host."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "GX_", "RCLONE_"))
        }
        settings = {
            "GX_INVENTORY": str(self.inventory_file),
            "GX_STAGING_DIR": str(self.staging),
            "GX_SIGNING_KEY_FILE": str(self.signing_key(host)),
            "GX_IDENTITY_FILE": str(self.identity),
            "GX_LOG_DIR": str(self.root / "logs"),
            "GX_TEXTFILE_DIR": str(self.metrics),
            "RCLONE_CONFIG": str(self.root / "rclone.conf"),
            "PREFECT_HOME": str(self.root / "prefect"),
            "PREFECT_LOGGING_EXTRA_LOGGERS": "gxbackup",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_PLUGINS_ENABLED": "true",
            "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
            "PYTHONPATH": str(PROJECT),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "NO_COLOR": "1",
        }
        if self.url is not None:
            settings["PREFECT_API_URL"] = self.url
        return {**inherited, **settings, **extra}

    def run(
        self, *words: str | Path, host: str = "vps1", check: bool = True, timeout_seconds: float = 300, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as this host, in the project's folder, and return all that it printed."""
        done = subprocess.run(
            [str(word) for word in words], env=self.environment(host, **extra), cwd=PROJECT, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout_seconds,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, words))}: exit status {done.returncode}\n{done.stdout}")
        return done

    def flow(
        self, module: str, *words: str | Path, host: str = "vps1", check: bool = True, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a flow from the command line, without a Prefect server where none was started."""
        return self.run(
            sys.executable, "-m", f"flows.{module}", *words, host=host, check=check, timeout_seconds=600, **extra
        )

    def start(self, name: str, *words: str, host: str = "vps1", **extra: str) -> subprocess.Popen[bytes]:
        """Start a process that lives until `stop`; what it prints goes to logs/NAME.log."""
        with (self.root / "logs" / f"{name}.log").open("ab") as log, _signals_held():
            child = subprocess.Popen(
                list(words), env=self.environment(host, **extra), cwd=PROJECT, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, process_group=0,
            )  # fmt: skip
            self._children.append(child)
        return child

    def start_server(
        self, port: int | None = None, address: str = "127.0.0.1", **extra: str
    ) -> subprocess.Popen[bytes]:
        """Start a Prefect server with SQLite and wait until it answers."""
        port = port or free_port()
        self.url = f"http://{address}:{port}/api"
        child = self.start(
            "server", str(BIN / "prefect"), "server", "start", "--host", address, "--port", str(port), **extra
        )
        self._server = child
        await_condition("Prefect server", self._answers, 120, died=lambda: child.poll() is not None)
        return child

    def restart_server(self, away_seconds: float = 0) -> None:
        """End the server, leave nobody on its port for a while, and start it again there."""
        assert self.url is not None
        end(self._server)
        time.sleep(away_seconds)
        self.start_server(int(self.url.rsplit(":", 1)[1].partition("/")[0]))

    def start_worker(self, host: str = "vps1", **extra: str) -> subprocess.Popen[bytes]:
        """Start this host's worker, polling every second unless told otherwise."""
        return self.start(
            f"worker-{host}", "env", "--default-signal=INT,QUIT", str(BIN / "prefect"), "worker", "start",
            "--pool", host, "--type", "process", "--name", host, "--install-policy", "never",
            host=host, **{"PREFECT_WORKER_QUERY_SECONDS": "1", **extra},
        )  # fmt: skip

    def deploy(self, notify_url: str = "") -> None:
        """Create pools, deployments and automations, as `make deploy` does."""
        self.run(sys.executable, "scripts/deploy.py", "--root", str(PROJECT), GX_NOTIFY_URL=notify_url)

    def run_deployment(
        self, name: str, *words: str, check: bool = True, timeout_seconds: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Start a deployment by its one name and watch it to its end."""
        return self.run(
            BIN / "prefect", "deployment", "run", name, "--watch", *words, check=check, timeout_seconds=timeout_seconds
        )

    def stop(self) -> None:
        """End every process that was started, newest first."""
        for child in reversed(self._children):
            end(child)
        self._children.clear()

    def _answers(self) -> bool:
        assert self.url is not None
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
        return False

    def _age_key(self, name: str) -> str:
        file = self.root / "keys" / f"{name}.txt"
        if not file.exists():
            subprocess.run(["age-keygen", "-o", file], check=True, stderr=subprocess.DEVNULL)
        file.chmod(0o600)
        return subprocess.run(["age-keygen", "-y", file], check=True, text=True, stdout=subprocess.PIPE).stdout.strip()


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Hold back signals that may end this process: a child that it has just started must be known to `stop` first."""
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run in the main thread alone
        return
    asked: list[int] = []
    before = {number: signal.signal(number, lambda one, _frame: asked.append(one)) for number in _ENDS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for one in asked:
            signal.raise_signal(one)


def end(child: subprocess.Popen[bytes]) -> None:
    """End a process group by its id."""
    for number, patience in ((signal.SIGINT, 15), (signal.SIGTERM, 5), (signal.SIGKILL, 30)):
        if child.poll() is not None:
            break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(patience)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # whatever of its group outlived it


@contextlib.contextmanager
def estate(root: Path, edit: Callable[[dict[str, Any]], None] | None = None) -> Iterator[Estate]:
    """Give a created estate; its processes are gone after the block, its files stay."""
    made = Estate(root)
    made.create(edit)
    try:
        yield made
    finally:
        made.stop()


def fresh(root: Path) -> Path:
    """Return an empty folder, removing what an earlier run left there."""
    if root.exists():
        shutil.rmtree(root)
    root.mkdir(mode=0o700, parents=True)
    return root
