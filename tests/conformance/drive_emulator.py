"""
A Google Drive that lives on loopback: as much of the v3 API as rclone's own drive backend calls, and its faults.

rclone is unmodified. It reaches www.googleapis.com and oauth2.googleapis.com through a CONNECT proxy, which is this
server itself: after the tunnel stands, the same connection speaks TLS with a certificate of our own authority.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.conformance.drive_store import FOLDER, Drive, matches

HOSTS = ("www.googleapis.com", "oauth2.googleapis.com", "accounts.google.com")


class RefusalError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, reason: str, message: str = "") -> None:
        super().__init__(reason)
        self.status, self.reason, self.message = status, reason, message or reason


class _Tunnel(ssl.SSLSocket):
    """A TLS socket that ends closed. Python 3.11 leaves it open where the client's reset came before the handshake."""

    def __del__(self) -> None:
        self.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Emulator

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        self.server.drive.log.append(format % args)

    def do_CONNECT(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        except OSError:
            self.close_connection = True
            return
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", 0)
        self.close_connection = False

    def finish(self) -> None:
        # A client that was killed leaves a broken pipe behind; that is what some tests are about.
        try:
            super().finish()
        except OSError:
            self.close_connection = True
        finally:
            self.connection.close()

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def do_any(self) -> None:
        fault = self.server.drive.fault(self.command, self.path)
        if fault is not None and fault.hang:
            self.server.ending.wait()
        if fault is not None and (fault.drop or fault.hang):
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) if not self._chunked() else self._chunks()
        try:
            if fault is not None and fault.status and not fault.done:
                raise RefusalError(fault.status, fault.reason, fault.message)
            url = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            with self.server.drive.lock:
                status, answer, headers = self._route(url.path, query, body)
            if fault is not None and fault.change is not None:
                answer = json.dumps({**json.loads(answer), **fault.change}).encode()
            if fault is not None and fault.done:
                self.server.drive.entries[json.loads(answer)["id"]].unlisted = fault.unlisted
                raise RefusalError(fault.status, fault.reason, fault.message)
        except RefusalError as refusal:
            told = {
                "code": refusal.status,
                "message": refusal.message,
                "errors": [{"reason": refusal.reason, "message": refusal.message}],
            }
            oauth = {"error": refusal.reason}
            status, headers = refusal.status, {}
            answer = json.dumps(oauth if self.path == "/token" and status < 500 else {"error": told}).encode()
        self.send_response(status)
        headers.setdefault("Content-Type", "application/json")
        for name, value in {**headers, "Content-Length": str(len(answer))}.items():
            self.send_header(name, value)
        self.end_headers()
        if fault is not None and fault.cut:
            answer, self.close_connection = answer[: len(answer) // 2], True
        self.wfile.write(answer)

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = do_any  # noqa: N815 - the base class names them so

    def _chunked(self) -> bool:
        return self.headers.get("Transfer-Encoding") == "chunked"

    def _chunks(self) -> bytes:
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def _route(self, path: str, query: dict[str, str], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        drive = self.server.drive
        if path == "/token":
            if parse_qs(body.decode())["refresh_token"] != [drive.refresh_token]:
                raise RefusalError(400, "invalid_grant")
            return _json({"access_token": "fresh", "expires_in": 3600, "token_type": "Bearer"})
        if path == "/drive/v3/about":
            quota = {"limit": str(drive.quota_bytes), "usage": str(drive.used_bytes())}
            return _json({"storageQuota": {**quota, "usageInDrive": quota["usage"], "usageInDriveTrash": "0"}})
        if path.startswith("/upload/drive/v3/files"):
            return self._upload(path.removeprefix("/upload/drive/v3/files").strip("/"), query, body)
        assert path.startswith("/drive/v3/files"), path
        return self._files(path.removeprefix("/drive/v3/files").strip("/"), query, body)

    def _files(self, number: str, query: dict[str, str], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        drive = self.server.drive
        if not number and self.command == "POST":
            return _json(drive.add(json.loads(body)).resource())
        if not number:
            return self._list(query)
        if number == "root":
            return _json({"id": "ROOT", "name": "My Drive", "mimeType": FOLDER})
        if number not in drive.entries:
            raise RefusalError(404, "notFound")
        entry = drive.entries[number]
        if self.command == "DELETE":
            del drive.entries[number]
            return 204, b"", {}
        if self.command == "PATCH":
            change = json.loads(body or b"{}")
            entry.trashed = change.get("trashed", entry.trashed)
            entry.name = change.get("name") or entry.name
            entry.modified = change.get("modifiedTime") or entry.modified
        elif query.get("alt") == "media":
            return self._media(entry.body)
        return _json(entry.resource())

    def _list(self, query: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        test, start = matches(query["q"]), int(query.get("pageToken", "0"))
        # Google may answer with fewer than were asked for, so every longer listing here comes in pages.
        size = min(int(query.get("pageSize", "100")), 3)
        found = [entry.resource() for entry in self.server.drive.entries.values() if test(entry) and entry.is_listed()]
        answer: dict[str, Any] = {"files": found[start : start + size], "incompleteSearch": False}
        if start + size < len(found):
            answer["nextPageToken"] = str(start + size)
        return _json(answer)

    def _media(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted is None:
            return 200, body, {"Content-Type": "application/octet-stream"}
        first, last = int(wanted[1]), min(int(wanted[2] or len(body) - 1), len(body) - 1)
        span = {"Content-Range": f"bytes {first}-{last}/{len(body)}", "Content-Type": "application/octet-stream"}
        return 206, body[first : last + 1], span

    def _upload(self, number: str, query: dict[str, str], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        drive = self.server.drive
        if query["uploadType"] == "multipart":
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            meta, media = BytesParser().parsebytes(head + body).get_payload()  # type: ignore[misc]
            return self._store(number, json.loads(meta.get_payload(decode=True)), media.get_payload(decode=True))  # type: ignore[union-attr]
        if "upload_id" not in query:
            session = f"session{next(drive.numbers)}"
            drive.uploads[session] = (json.loads(body), bytearray())
            where = (
                f"https://www.googleapis.com/upload/drive/v3/files/{number}?uploadType=resumable&upload_id={session}"
            )
            return 200, b"", {"Location": where}
        meta, so_far = drive.uploads[query["upload_id"]]
        span = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", self.headers["Content-Range"])
        assert span is not None, self.headers["Content-Range"]
        if span[1] is not None:
            so_far[int(span[1]) :] = body
        if span[2] == "*" or len(so_far) < int(span[2]):
            return 308, b"", {"Range": f"bytes=0-{len(so_far) - 1}"} if so_far else {}
        return self._store(number, meta, bytes(so_far))

    def _store(self, number: str, meta: dict[str, Any], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        drive = self.server.drive
        if drive.used_bytes() + len(body) > drive.quota_bytes:
            raise RefusalError(403, "storageQuotaExceeded")
        if number:
            drive.entries[number].body = body
            return _json(drive.entries[number].resource())
        return _json(drive.add(meta, body).resource())


def _json(answer: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
    return 200, json.dumps(answer).encode(), {}


class Emulator(ThreadingHTTPServer):
    """The proxy and the API behind it, on a free port of loopback."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.drive = Drive()
        self.ending = threading.Event()
        self.ca_file, chain = _certificates(folder)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.sslsocket_class = _Tunnel
        self.tls.load_cert_chain(chain)

    def environment(self) -> dict[str, str]:
        """Return what leads rclone here."""
        return {"HTTPS_PROXY": f"http://127.0.0.1:{self.server_port}", "RCLONE_CA_CERT": str(self.ca_file)}


@contextmanager
def running(folder: Path) -> Iterator[Emulator]:
    """Serve until the block is left."""
    with Emulator(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.ending.set()
            server.shutdown()
            thread.join()


def _certificates(folder: Path) -> tuple[Path, Path]:
    """Write a self-signed certificate for Google's names, and the same with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "drive emulator")])
    start = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=3))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    ca_file, chain = folder / "drive-ca.pem", folder / "drive-chain.pem"
    ca_file.write_bytes(public)
    chain.write_bytes(private + public)
    return ca_file, chain
