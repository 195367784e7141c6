"""The client of the API server, before any server is asked."""

from __future__ import annotations

import os
import subprocess
import sys

LOADED_AHEAD = """
import sys
from gxbackup.adapters.kubernetes_api import load_ahead
assert "kubernetes" not in sys.modules
load_ahead().join()
print("kubernetes.client.api.core_v1_api" in sys.modules)
"""


def test_the_client_is_loaded_beside_what_goes_on_and_not_before() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", LOADED_AHEAD], check=True, capture_output=True, text=True, env=environment
    )

    assert done.stdout == "True\n"
