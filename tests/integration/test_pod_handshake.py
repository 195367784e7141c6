"""An API server that takes a connection and says no more, or whose kubelet does not know a new pod yet."""

from __future__ import annotations

import base64
import hashlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

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


class Kubelet(BaseHTTPRequestHandler):
    """Answers as one that takes the pod for the one before it, so many times; then runs the command."""

    protocol_version = "HTTP/1.1"
    misses = 0
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.close_connection = True
        if len(self.asked) <= self.misses:
            told = b'container not found ("peer")'
            self.send_response(500)
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)
            return
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        for name, value in {
            "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Protocol": "v4.channel.k8s.io",
            "Sec-WebSocket-Accept": base64.b64encode(hashlib.sha1(key.encode()).digest()).decode(),
        }.items():  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        status = bytes([pods.STATUS]) + b'{"metadata":{},"status":"Success"}'
        self.wfile.write(bytes([0x82, len(status)]) + status)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Say nothing."""


@pytest.mark.parametrize(("misses", "is_found"), [(3, True), (10**6, False)])
def test_a_pod_that_was_just_started_anew_is_asked_again_until_its_kubelet_knows_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, misses: int, is_found: bool
) -> None:
    monkeypatch.setattr(pods, "FOUND_WITHIN_SECONDS", 60.0 if is_found else 0.5)
    monkeypatch.setattr(Kubelet, "misses", misses)
    monkeypatch.setattr(Kubelet, "asked", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Kubelet)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        turn_to(write_kubeconfig(tmp_path / "config", f"http://127.0.0.1:{server.server_port}"), monkeypatch)
        place = PodPlace(Cluster().api, "fabric", "peer0-org1-0", "peer")
        if is_found:
            assert place.run(["true"], timeout_seconds=5).returncode == 0
            assert len(Kubelet.asked) == misses + 1
        else:
            with pytest.raises(CommandError, match="expected to run true, seen .*container not found"):
                place.run(["true"], timeout_seconds=5)
            assert len(Kubelet.asked) > 1
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
