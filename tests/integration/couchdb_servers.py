"""
Two servers that speak CouchDB's protocol: pouchdb-server, which keeps what it is given, and one that tells what a real
CouchDB told, in that one's own formats, and fails when it is told to.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from gxbackup.couchdb.client import CouchClient
from gxbackup.scratch.couchdb import scratch_couchdb

PROJECT = Path(__file__).resolve().parents[2]
GOLDEN = PROJECT / "tests" / "golden" / "fabric" / "couchdb-fabric.json.gz"
PROGRAMS = PROJECT / ".cache" / "couchdb_server" / "node_modules" / ".bin"
USER, PASSWORD = "admin", "hunter2-never-to-be-seen"

Databases = dict[str, dict[str, Any]]


def programs_path() -> str:
    """Return a PATH with pouchdb-server in it; `scripts/setup` has installed it."""
    return f"{PROGRAMS}:{os.environ['PATH']}"


@contextmanager
def pouchdb(folder: Path) -> Iterator[CouchClient]:
    """Run a pouchdb-server for the length of a block."""
    folder.mkdir(parents=True, exist_ok=True)
    with scratch_couchdb(folder, None) as scratch:
        yield scratch.client


def golden() -> Databases:
    """Return what a real CouchDB 3.4.3 held for a real Fabric."""
    with gzip.open(GOLDEN, "rt", encoding="utf-8") as file:
        return json.load(file)  # type: ignore[no-any-return]


class GoldenCouch:
    """Serves databases as CouchDB 3 does: multipart unless asked for JSON, sequences with opaque tails."""

    def __init__(self, databases: Databases, address: str = "127.0.0.1") -> None:
        self.databases = databases
        self.faults: dict[int, str] = {}  # the how manieth request meets which fault
        self.always_multipart = False
        self.requests: list[str] = []
        self._word = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        couch = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                couch.serve(self, b"")

            def do_POST(self) -> None:
                couch.serve(self, self.rfile.read(int(self.headers["Content-Length"])))

        self._server = ThreadingHTTPServer((address, 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://{address}:{self.port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        self.requests.append(f"{request.command} {request.path}")
        fault = self.faults.get(len(self.requests))
        status, kind, answer = 200, "application/json", b""
        if "text" in self.databases.get(request.path.strip("/"), {}):  # a peer's metrics, which no password guards
            kind, answer = "text/plain", self.databases[request.path.strip("/")]["text"].encode()
        elif request.headers.get("Authorization") != self._word:
            status, answer = 401, b'{"error":"unauthorized","reason":"Name or password is incorrect."}'
        elif fault == "500":
            status, answer = 500, b'{"error":"unknown_error","reason":"badarg"}'
        else:
            status, kind, answer = self._answer(request, body)
        request.send_response(status)
        request.send_header("Content-Type", kind)
        if fault == "cut chunk":  # an error in the middle of an answer, as CouchDB tells it: no last chunk comes
            request.send_header("Transfer-Encoding", "chunked")
            half = answer[: len(answer) // 2]
            answer = b"%x\r\n%s\r\n" % (len(half), half)
        else:
            request.send_header("Content-Length", str(len(answer)))
        request.end_headers()
        request.wfile.write(answer[: len(answer) // 2] if fault == "cut" else answer)
        if fault in ("cut", "cut chunk"):
            request.close_connection = True

    def _answer(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, str, bytes]:
        parts = urlsplit(request.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        steps = [unquote(step) for step in parts.path.strip("/").split("/")]
        match steps:
            case [""]:
                return _json({"couchdb": "Welcome", "version": "3.4.3"})
            case ["_all_dbs"]:
                return _json(sorted(self.databases))
            case [name, *_] if name not in self.databases:
                return _json({"error": "not_found", "reason": "Database does not exist."}, 404)
            case [name]:
                held = self.databases[name]
                gone = sum(bool(document.get("_deleted")) for document in _winners(held["docs"]).values())
                count = len(_winners(held["docs"])) - gone
                sequence = f"{len(held['docs'])}-g1AAAAopaque{len(self.requests)}"
                return _json({"doc_count": count, "doc_del_count": gone, "update_seq": sequence, "props": {}})
            case [name, "_security"]:
                return _json(self.databases[name]["security"])
            case [name, "_changes"]:
                return _json(_changes(self.databases[name]["docs"], query))
            case [name, "_local_docs"]:
                rows = [{"id": one["_id"], "doc": one} for one in self.databases[name].get("local", [])]
                start = next((n for n, row in enumerate(rows) if json.dumps(row["id"]) == query.get("startkey")), 0)
                start += int(query.get("skip", "0"))
                return _json({"rows": rows[start : start + int(query["limit"])]})
            case [name, "_bulk_get"]:
                wanted = json.loads(body)["docs"]
                if not self.always_multipart and "application/json" in request.headers["Accept"]:
                    return _json(_bulk_get(self.databases[name]["docs"], wanted))
                return 200, 'multipart/mixed; boundary="outer"', _multipart(self.databases[name]["docs"], wanted)
            case [name, document]:
                return _json(next(one for one in self.databases[name]["docs"] if one["_id"] == document))
        return _json({"error": "not_found", "reason": "missing"}, 404)


def _json(told: object, status: int = 200) -> tuple[int, str, bytes]:
    return status, "application/json", json.dumps(told).encode() + b"\n"


def _winners(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {document["_id"]: document for document in documents}


def _changes(documents: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
    leaves: dict[str, list[str]] = {}
    for document in documents:
        leaves.setdefault(document["_id"], []).append(document["_rev"])
    start = int(query["since"].split("-")[0])
    rows = [
        {"id": name, "seq": f"{number}-opaque", "changes": [{"rev": one} for one in revisions]}
        for number, (name, revisions) in enumerate(leaves.items(), 1)
        if number > start
    ]
    page = rows[: int(query["limit"])]
    last = page[-1]["seq"] if page else query["since"]
    return {"results": page, "last_seq": last, "pending": len(rows) - len(page)}


def _found(documents: list[dict[str, Any]], wanted: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    held = {(document["_id"], document["_rev"]): document for document in documents}
    for one in wanted:
        if (document := held.get((one["id"], one["rev"]))) is None:
            yield {"error": {"id": one["id"], "rev": one["rev"], "error": "not_found", "reason": "missing"}}
        else:
            yield {"ok": document}


def _bulk_get(documents: list[dict[str, Any]], wanted: list[dict[str, str]]) -> dict[str, Any]:
    return {"results": [{"id": one["id"], "docs": [found]} for one, found in
                        zip(wanted, _found(documents, wanted), strict=True)]}  # fmt: skip


def _multipart(documents: list[dict[str, Any]], wanted: list[dict[str, str]]) -> bytes:
    """Write an answer as CouchDB does: a document with attachments is multipart/related, compressible ones gzipped."""
    out = b""
    for number, found in enumerate(_found(documents, wanted)):
        if "error" in found:
            part = b'Content-Type: application/json; error="true"\r\n\r\n' + json.dumps(found["error"]).encode()
        elif not found["ok"].get("_attachments"):
            part = b"Content-Type: application/json\r\n\r\n" + json.dumps(found["ok"]).encode()
        else:
            part = _related(found["ok"], f"inner{number}")
        out += b"\r\n--outer\r\n" + part
    return out + b"\r\n--outer--"


def _related(document: dict[str, Any], boundary: str) -> bytes:
    stubs, bodies = {}, b""
    for name, held in document["_attachments"].items():
        content = base64.b64decode(held["data"])
        stub = {key: value for key, value in held.items() if key != "data"} | {"follows": True, "length": len(content)}
        head = f'Content-Disposition: attachment; filename="{name}"\r\nContent-Type: {held["content_type"]}\r\n'
        if held["content_type"].startswith("text/"):
            content = gzip.compress(content)
            stub |= {"encoding": "gzip", "encoded_length": len(content)}
            head += "Content-Encoding: gzip\r\n"
        stubs[name] = stub
        bodies += f"\r\n--{boundary}\r\n{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
    told = json.dumps({**document, "_attachments": stubs}).encode()
    head = f'Content-Type: multipart/related; boundary="{boundary}"\r\n\r\n--{boundary}\r\n'
    first = b"Content-Type: application/json\r\n\r\n" + told
    return head.encode() + first + bodies + f"\r\n--{boundary}--".encode()
