"""The worker's ServiceAccount, as docs/how-to/give-the-worker-access-to-kubernetes.md makes it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.cluster.scratch_api import ADMIN, kubectl
from tests.integration.node import until
from tests.kubeconfigs import write_kubeconfig

MANIFESTS = Path(__file__).resolve().parents[2] / "deployments" / "kubernetes"
_WORKER = "system:serviceaccount:gx-backup:worker"
RESTORES = MANIFESTS / "restore-rbac.yaml"
RESTORES_OF_OBJECTS = MANIFESTS / "restore-objects-rbac.yaml"


@contextmanager
def the_account(folder: Path) -> Iterator[Path]:
    """Give the kubeconfig of the worker, which may read and run commands in pods; it is gone with the block."""
    file = MANIFESTS / "worker-rbac.yaml"
    # A run that was killed may have left it, and what it was lent; a namespace that is being deleted takes nothing.
    kubectl("delete", "--ignore-not-found", *(f"--filename={left}" for left in (RESTORES, RESTORES_OF_OBJECTS, file)))
    try:
        kubectl("apply", f"--filename={file}")
        yield kubeconfig_of(folder, "gx-backup", "worker-kubeconfig")
    finally:
        kubectl("delete", "--ignore-not-found", "--wait=false", f"--filename={file}")


@contextmanager
def lent(file: Path = RESTORES) -> Iterator[None]:
    """Lend the worker the rights of a manifest for the length of a block."""
    try:
        kubectl("apply", f"--filename={file}")
        last = list(yaml.safe_load_all(file.read_text()))[-1]["metadata"].get("namespace", "default")
        asked = ("auth", "can-i", "update", "secrets", f"--namespace={last}", f"--as={_WORKER}")
        # The API server hears of what it was told a moment later.
        until(lambda: kubectl(*asked, check=False).startswith("yes"), "the worker may do what was lent", 60)
        yield
    finally:
        kubectl("delete", "--ignore-not-found", f"--filename={file}")


def kubeconfig_of(folder: Path, namespace: str, secret: str) -> Path:
    """Write a kubeconfig with the token of a ServiceAccount, as the how-to does."""
    deadline = time.monotonic() + 30
    while "token" not in (
        data := json.loads(kubectl("get", "secret", secret, "-n", namespace, "--output=json")).get("data", {})
    ):
        assert time.monotonic() < deadline, "the token is never filled in"
        time.sleep(0.05)
    server = yaml.safe_load(Path(ADMIN).read_text())["clusters"][0]["cluster"]["server"]
    ca, token = base64.b64decode(data["ca.crt"]), base64.b64decode(data["token"]).decode()
    return write_kubeconfig(folder / f"{secret}.kubeconfig", server, ca, token)
