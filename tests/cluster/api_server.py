"""A second API server of the test cluster, upon the same etcd: a test may kill it, and harms no other."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from estate import await_condition

from gxbackup.adapters.cluster import Cluster
from gxbackup.errors import BackupError
from tests.cluster.scratch_api import ADMIN


class MortalApiServer:
    """It runs as the cluster's own does, on another port, and tells no pod of itself."""

    def __init__(self, folder: Path) -> None:
        pid = (Path(ADMIN).parent / "pids" / "apiserver").read_text().split()[0]
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode().split("\0")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        ours = [f"--secure-port={self._port}", "--endpoint-reconciler-type=none"]
        self._words = [*(word for word in words if not word.startswith("--secure-port=")), *ours]
        self._log = folder / "apiserver.log"
        document = yaml.safe_load(Path(ADMIN).read_text())
        document["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{self._port}"
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(document))

    def start(self) -> None:
        """Start it, and return once it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        died = self._process.poll
        await_condition("the API server", self._answers, 120, died=lambda: died() is not None)

    def kill(self) -> None:
        """Kill it (-9)."""
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        assert os.environ["KUBECONFIG"] == str(self.kubeconfig)
        try:
            Cluster().pods("default")
        except BackupError:
            return False
        return True


@contextmanager
def mortal_api_server(folder: Path) -> Iterator[MortalApiServer]:
    """Give one that is not started yet; it is gone after the block."""
    made = MortalApiServer(folder)
    try:
        yield made
    finally:
        made.kill()
