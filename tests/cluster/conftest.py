"""The cluster that `make cluster-test` started, by KUBECONFIG. Each module makes and deletes its own namespaces."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from gxbackup.adapters.cluster import Cluster
from tests.cluster.leftovers import sweep
from tests.cluster.scratch_api import ADMIN, kubectl
from tests.cluster.worker_account import the_account
from tests.prefect_server import serving_flows

IMAGE = "gx-test/base:1"


def pytest_sessionstart(session: pytest.Session) -> None:
    """Begin in a cluster without what a killed run left; once, where `-n` has several processes."""
    if ADMIN and not hasattr(session.config, "workerinput"):
        print(sweep(), end="")


@pytest.fixture(scope="session", autouse=True)
def _kubeconfig() -> None:
    assert os.environ.get("KUBECONFIG"), "no cluster: `make cluster-test` starts one and names it in KUBECONFIG"


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """Give the embedded Prefect server that all modules with flows share."""
    with serving_flows():
        yield


@pytest.fixture(scope="session")
def worker_kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the kubeconfig of the worker's own account: once, since a namespace that is being deleted takes nothing."""
    with the_account(tmp_path_factory.mktemp("worker")) as kubeconfig:
        yield kubeconfig


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


class CuttableApi:
    """The API server behind a door that can be slammed: what a dead network looks like to a client."""

    def __init__(self, folder: Path) -> None:
        document = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
        server = document["clusters"][0]["cluster"]["server"]
        address, _, port = server.removeprefix("https://").partition(":")
        self._target = (address, int(port))
        self._door = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        document["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{self._door.getsockname()[1]}"
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(document))
        threading.Thread(target=self._let_in, daemon=True).start()

    def cut(self) -> None:
        """Cut every connection; the next ones are let in again."""
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Cut all, and let nobody in any more."""
        with suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        self.cut()
        for one in self._open:
            one.close()

    def _let_in(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._door.accept()
                server = socket.create_connection(self._target)
                self._open += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=_carry, args=(source, sink), daemon=True).start()


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65536):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def cuttable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CuttableApi]:
    """Give the cluster through a connection that a test can cut."""
    made = CuttableApi(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(made.kubeconfig))
    yield made
    made.close()


@pytest.fixture(scope="session")
def namespace() -> Iterator[str]:
    """Give a namespace with one idle pod `one-0` of a StatefulSet and its claim, gone after the session."""
    name = f"gxt-pods-{os.getpid()}"
    kubectl("create", "namespace", name)
    try:
        kubectl("apply", "-n", name, "-f", "-", stdin=yaml.safe_dump(_idle("one")))
        kubectl("rollout", "status", "-n", name, "statefulset/one", "--timeout=120s")
        yield name
    finally:
        kubectl("delete", "namespace", name, "--wait=false")


def _idle(name: str) -> dict[str, object]:
    container = {
        "name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.2; done"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }  # fmt: skip
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
    }
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Mi"}}}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name},
        "spec": {
            "serviceName": name,
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": template,
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}],
        },
    }
