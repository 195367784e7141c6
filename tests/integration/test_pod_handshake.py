"""An API server that takes a connection and says no more: frozen, or behind a tunnel that stands still."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gxbackup.adapters import pods
from gxbackup.adapters.cluster import Cluster
from gxbackup.adapters.pods import PodPlace
from gxbackup.errors import CommandError
from tests.kubeconfigs import turn_to, write_kubeconfig


def test_a_command_in_a_pod_is_not_waited_for_for_ever_where_the_handshake_is_not_answered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pods, "HANDSHAKE_TIMEOUT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        turn_to(write_kubeconfig(tmp_path / "config", f"http://127.0.0.1:{silent.getsockname()[1]}"), monkeypatch)
        place = PodPlace(Cluster().api, "backend-mainnet", "postgres-0", "postgres")

        with pytest.raises(CommandError, match="postgres-0: expected to run true, seen .*timed out"):
            place.run(["true"], timeout_seconds=5)
