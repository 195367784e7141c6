"""
An API server for faults that a real one shows too rarely: discovery, pages, applying, and what it is told to do.

`records` holds for a path all objects that are listed there, where names alone do not do; `kept` holds what is there by
the path of each. `faults` holds for a path, or for `PATCH` or `PUT` and a path, what its next answers are, each used
once: a status, `expired` (410), `cut` in the middle, or `lost`, where what was asked for is done and not answered.
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
        self.kept: dict[str, dict[str, Any]] = {"/api/v1/namespaces/fabric": {"metadata": {"name": "fabric"}}}
        self.resources: dict[str, list[dict[str, Any]]] = {}
        self.serve("v1", "namespaces", "Namespace", namespaced=False)
        self.serve("v1", "configmaps", "ConfigMap")
        self.serve("v1", "secrets", "Secret")
        self.serve("gx.example/v1", "channels", "Channel")
        self.faults: dict[str, list[int | str]] = {}
        self.asked: list[str] = []

    def serve(self, version: str, plural: str, kind: str, *, namespaced: bool = True) -> None:
        """Serve one kind more."""
        told = {"name": plural, "kind": kind, "namespaced": namespaced, "verbs": VERBS}
        self.resources.setdefault(version, []).append(told)

    def answer(self, path: str, query: dict[str, str]) -> Any:
        """Return what is served at a path."""
        if path in self.records:
            return {"items": self.records[path]}
        if path in self.kept:
            return self.kept[path]
        match path.strip("/").split("/"):
            case ["version"]:
                return {"gitVersion": "v1.20.0"}
            case ["apis"]:
                return {"groups": [_group(version) for version in self.resources if "/" in version]}
            case ["api", "v1"]:
                return {"resources": self.resources["v1"]}
            case ["apis", group, version]:
                found = self.resources.get(f"{group}/{version}")
                return found and {"resources": found}
            case [*_, plural] if plural in self.objects:
                return self._page(plural, query)
            case _:
                return None

    def apply(self, path: str, wanted: dict[str, Any], is_trial: bool) -> tuple[dict[str, Any], int]:
        """Keep an object as it is wanted, merged into what is there; a definition serves its kind from then on."""
        status = 200 if path in self.kept else 201
        fresh = {"metadata": {"uid": f"uid of {path}", "resourceVersion": "7"}}
        done = _merged(self.kept.get(path, fresh), wanted)
        if not is_trial:
            self.kept[path] = done
            if done["kind"] == "CustomResourceDefinition":
                spec = wanted["spec"]
                for version in spec["versions"]:
                    self.serve(f"{spec['group']}/{version['name']}", spec["names"]["plural"], spec["names"]["kind"])
        return done, status

    def _page(self, plural: str, query: dict[str, str]) -> Any:
        names = sorted(self.objects[plural])
        begin = int(query.get("continue", "0"))
        end = begin + int(query["limit"])
        place = {} if plural == "namespaces" else {"namespace": "fabric"}
        metadata = {"resourceVersion": "7", **({"continue": str(end)} if end < len(names) else {})}
        return {"metadata": metadata, "items": [{"metadata": {**place, "name": name}} for name in names[begin:end]]}


def _merged(there: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    found = {**there}
    for key, value in change.items():
        found[key] = _merged(found.get(key) or {}, value) if isinstance(value, dict) else value
    return found


def _group(version: str) -> dict[str, Any]:
    told = {"groupVersion": version, "version": version.rpartition("/")[2]}
    return {"name": version.partition("/")[0], "versions": [told], "preferredVersion": told}


class _Handler(BaseHTTPRequestHandler):
    server: FaultyApiServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(asked.query).items()}
        self.server.asked.append(self.path)
        fault = self._fault(asked.path)
        status = {"expired": 410, "cut": 200}.get(str(fault)) or int(fault)
        answer = self.server.answer(asked.path, query) if status == 200 else None
        self._say(status if answer or status != 200 else 404, answer, is_cut=fault == "cut")

    def do_PATCH(self) -> None:
        asked = urlsplit(self.path)
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_trial = "dryRun" in asked.query
        fault = 200 if is_trial else self._fault(f"{self.command} {asked.path}")
        if fault not in (200, "lost"):
            self._say(int(fault), None)
            return
        done, status = self.server.apply(asked.path, wanted, is_trial)
        if fault == "lost":
            self.close_connection = True
        else:
            self._say(status, done)

    def do_PUT(self) -> None:
        self.do_PATCH()

    def do_DELETE(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._say(200 if self.server.kept.pop(urlsplit(self.path).path, None) else 404, {})

    def _fault(self, key: str) -> int | str:
        waiting = self.server.faults.get(key)
        return waiting.pop(0) if waiting else 200

    def _say(self, status: int, answer: Any, *, is_cut: bool = False) -> None:
        reason = {403: "Forbidden", 410: "Expired"}.get(status, "")
        said = {"kind": "Status", "reason": reason, "message": f"told {status}"}
        body = json.dumps(answer if status < 300 else said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if is_cut else body)
        if is_cut:
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
