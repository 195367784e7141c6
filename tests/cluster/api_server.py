"""The test cluster's own API server: killed as a crash does, and started again as its host would."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from estate import await_condition

from gxbackup.adapters.cluster import Cluster
from gxbackup.errors import BackupError

_START = 'log=$1; shift; setsid "$@" >>"$log" 2>&1 </dev/null & echo $!'


@contextmanager
def killed_api_server() -> Iterator[None]:
    """Kill it (-9), and start it again after the block; return once it answers."""
    run = Path(os.environ["KUBECONFIG"]).parent
    noted = run / "pids" / "apiserver"
    pid = int(noted.read_text().split()[0])
    words = _words(pid).rstrip(b"\0").split(b"\0")
    lines = Path(f"/proc/{pid}/environ").read_bytes().rstrip(b"\0").split(b"\0")
    environment = dict(line.split(b"=", 1) for line in lines)
    os.kill(pid, signal.SIGKILL)
    try:
        yield
    finally:
        await_condition("the API server's end", lambda: not _words(pid), 30)
        started = subprocess.run(
            ["sh", "-c", _START, "sh", run / "log" / "apiserver.log", *words],
            env=environment, stdout=subprocess.PIPE, check=True,
        )  # fmt: skip
        pid = int(started.stdout)
        born = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        noted.write_text(f"{pid} {born}\n")
        await_condition("the API server", _answers, 120, died=lambda: not Path(f"/proc/{pid}").exists())


def _words(pid: int) -> bytes:
    """Return the command line of a process; empty where it has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def _answers() -> bool:
    try:
        Cluster().pods("default")
    except BackupError:
        return False
    return True
