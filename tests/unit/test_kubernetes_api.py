"""The client of the API server, before any server is asked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LOADED_AHEAD = """
import sys
from gxbackup.adapters.kubernetes_api import load_ahead
assert "kubernetes" not in sys.modules
load_ahead().join()
print("kubernetes.client.api.core_v1_api" in sys.modules)
"""


CONNECTED_MEANWHILE = """
import sys
from gxbackup.adapters.kubernetes_api import connect, load_ahead
load_ahead()
while sys.argv[1] not in sys.modules:  # so far the import has come
    pass
with connect(sys.argv[2]) as api:
    print(api.configuration.host)
"""
KUBECONFIG = """{apiVersion: v1, kind: Config, current-context: c, users: [{name: u, user: {token: t}}],
clusters: [{name: k, cluster: {server: "https://127.0.0.1:1"}}], contexts:
[{name: c, context: {cluster: k, user: u}}]}"""


@pytest.mark.parametrize(
    "begun", ["kubernetes", "kubernetes.config", "kubernetes.client.api_client", "kubernetes.client"]
)
def test_who_connects_while_the_client_is_loaded_waits_for_it(tmp_path: Path, begun: str) -> None:
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    words = [sys.executable, "-c", CONNECTED_MEANWHILE, begun, str(tmp_path / "kubeconfig")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment)

    assert done.stdout == "https://127.0.0.1:1\n"
    assert done.stderr == ""


def test_the_client_is_loaded_beside_what_goes_on_and_not_before() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", LOADED_AHEAD], check=True, capture_output=True, text=True, env=environment
    )

    assert done.stdout == "True\n"
