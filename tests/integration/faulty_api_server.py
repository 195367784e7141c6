"""
An API server that only lists, for faults that a real one shows too rarely: discovery, pages, and what it is told to do.

`records` holds for a path all objects that are listed there, where names alone do not do. `faults` holds for a path
what its next answers are, each used once: a status, `expired` (410), or `cut` in the middle.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.kubeconfigs import write_kubeconfig

VERBS = ["get", "list"]


class FaultyApiServer(ThreadingHTTPServer):
    """Serves ConfigMaps, Secrets and Namespaces, and one group with Channels."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, list[str]] = {"namespaces": ["fabric"], "configmaps": [], "secrets": [], "channels": []}
        self.records: dict[str, list[dict[str, Any]]] = {}
        self.faults: dict[str, list[int | str]] = {}
        self.asked: list[str] = []

    def answer(self, path: str, query: dict[str, str]) -> Any:
        """Return what is served at a path."""
        if path in self.records:
            return {"items": self.records[path]}
        match path.strip("/").split("/"):
            case ["version"]:
                return {"gitVersion": "v1.20.0"}
            case ["apis"]:
                version = {"groupVersion": "gx.example/v1", "version": "v1"}
                return {"groups": [{"name": "gx.example", "versions": [version], "preferredVersion": version}]}
            case ["api", "v1"]:
                return {"resources": [_resource("namespaces", "Namespace", False), _resource("configmaps", "ConfigMap"),
                                      _resource("secrets", "Secret")]}  # fmt: skip
            case ["apis", "gx.example", "v1"]:
                return {"resources": [_resource("channels", "Channel")]}
            case [*_, plural]:
                return self._page(plural, query)

    def _page(self, plural: str, query: dict[str, str]) -> Any:
        names = sorted(self.objects[plural])
        begin = int(query.get("continue", "0"))
        end = begin + int(query["limit"])
        place = {} if plural == "namespaces" else {"namespace": "fabric"}
        metadata = {"resourceVersion": "7", **({"continue": str(end)} if end < len(names) else {})}
        return {"metadata": metadata, "items": [{"metadata": {**place, "name": name}} for name in names[begin:end]]}


def _resource(name: str, kind: str, namespaced: bool = True) -> dict[str, Any]:
    return {"name": name, "kind": kind, "namespaced": namespaced, "verbs": VERBS}


class _Handler(BaseHTTPRequestHandler):
    server: FaultyApiServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(asked.query).items()}
        self.server.asked.append(self.path)
        waiting = self.server.faults.get(asked.path)
        fault = waiting.pop(0) if waiting else 200
        status = {"expired": 410, "cut": 200}.get(str(fault)) or int(fault)
        said = {
            "kind": "Status",
            "reason": {403: "Forbidden", 410: "Expired"}.get(status, ""),
            "message": f"told {status}",
        }
        body = json.dumps(self.server.answer(asked.path, query) if status == 200 else said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)
        if fault == "cut":
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its base class names it so
        """Say nothing."""


@contextmanager
def faulty_api_server(folder: Path) -> Iterator[tuple[FaultyApiServer, Path]]:
    """Run one for the length of a block; give it and its kubeconfig."""
    with FaultyApiServer() as server:
        kubeconfig = write_kubeconfig(folder / "kubeconfig", f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server, kubeconfig
        finally:
            server.shutdown()
            thread.join()
