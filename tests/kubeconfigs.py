"""Kubeconfigs of API servers that tests start, and how a test turns this process to one."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import kubernetes.config
import pytest


def write_kubeconfig(file: Path, server: str, ca: bytes | None = None, token: str | None = None) -> Path:
    """Write a kubeconfig of one server and one user."""
    authority = {"certificate-authority-data": base64.b64encode(ca).decode()} if ca else {}
    file.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "one",
                "clusters": [{"name": "one", "cluster": {"server": server, **authority}}],
                "users": [{"name": "one", "user": {"token": token} if token else {}}],
                "contexts": [{"name": "one", "context": {"cluster": "one", "user": "one"}}],
            }
        )
    )
    file.chmod(0o600)
    return file


def turn_to(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let KUBECONFIG name another file; the client reads that variable only once, when it is imported."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    for module in (kubernetes.config, kubernetes.config.kube_config):
        monkeypatch.setattr(module, "KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
