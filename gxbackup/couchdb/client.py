"""
CouchDB over HTTP: one kept connection, JSON in and out, tried again where that can help.

Every request here may be sent twice: what is written carries its revision. Credentials are in memory and in one header.
"""

from __future__ import annotations

import base64
import http.client
import json
import time
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlencode, urlsplit

from gxbackup.errors import CollectError, IntegrityError, SourceMissingError

ATTEMPTS = 6
PAUSE_SECONDS = 0.1
TIMEOUT_SECONDS = 300
PIECE_BYTES = 1024 * 1024
JSON_TYPE = "application/json"


class TooLargeError(Exception):
    """An answer that would not fit; ask for less."""


class Answer(NamedTuple):
    """What the server answered, its status among those expected."""

    status: int
    content_type: str
    body: bytes


class CouchClient:
    """One CouchDB server, by its URL; not for several threads at once."""

    def __init__(self, url: str, user: str = "", password: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SourceMissingError(f"CouchDB: expected http://HOST:PORT, seen {url!r}")
        self.name = f"CouchDB {parts.scheme}://{parts.hostname}:{parts.port or ''}".rstrip(":")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=TIMEOUT_SECONDS)
        self._prefix = parts.path.rstrip("/")
        self._headers = {"Accept": JSON_TYPE, "Content-Type": JSON_TYPE}
        user, password = user or unquote(parts.username or ""), password or unquote(parts.password or "")
        if user:
            word = base64.b64encode(f"{user}:{password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {word}"

    def close(self) -> None:
        """Close the connection; it opens again when it is asked."""
        self._connection.close()

    def get(self, path: str, **query: object) -> Any:
        """Return the JSON at a path. Raises: SourceMissingError (404), CollectError."""
        return parsed(self.request("GET", path, query), f"{self.name}{path}")

    def request(
        self,
        method: str,
        path: str,
        query: dict[str, object] | None = None,
        body: bytes | None = None,
        also: tuple[int, ...] = (),
        limit_bytes: int | None = None,
    ) -> Answer:
        """
        Send a request and return its answer: a status of 2xx, or one of `also`.

        A cut connection, a 5xx and a 429 are tried again. Raises: TooLargeError beyond `limit_bytes`;
        SourceMissingError (404); CollectError, retryable where the server was to blame.
        """
        target = f"{self._prefix}{path}" + (f"?{urlencode(query)}" if query else "")
        said = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE_SECONDS * 3 ** (attempt - 1))
            try:
                answer = self._once(method, target, body, limit_bytes)
            except (http.client.HTTPException, OSError) as error:
                self.close()
                said = f"{type(error).__name__}: {error}"
                continue
            if answer.status < 300 or answer.status in also:
                return answer
            said = f"{answer.status} {answer.body[:300].decode('utf-8', 'replace').strip()}"
            if answer.status < 500 and answer.status != 429:
                raise _refused(f"{self.name}: {method} {path}", answer.status, said)
        raise CollectError(
            f"{self.name}: {method} {path}: expected an answer, seen {said} in {ATTEMPTS} attempts",
            "is it up, and has it room? its own log says why",
            retryable=True,
        )

    def _once(self, method: str, target: str, body: bytes | None, limit_bytes: int | None) -> Answer:
        self._connection.request(method, target, body, self._headers)
        response = self._connection.getresponse()
        told = response.getheader("Content-Length")
        pieces = bytearray()
        while piece := response.read(PIECE_BYTES):
            pieces += piece
            if limit_bytes is not None and len(pieces) > limit_bytes:
                self.close()
                raise TooLargeError
        if told is not None and int(told) != len(pieces):
            raise http.client.IncompleteRead(bytes(pieces[-10:]), int(told) - len(pieces))
        return Answer(response.status, response.getheader("Content-Type", ""), bytes(pieces))


def path_of(database: str, *steps: str) -> str:
    """Return the path of a database: Fabric's names hold `$`, others `/` and `+`."""
    return "/" + "/".join([quote(database, safe=""), *steps])


def parsed(answer: Answer, what: str) -> Any:
    """Return an answer's JSON; IntegrityError (retryable) where it is none, as where it was cut without a length."""
    try:
        return json.loads(answer.body)
    except ValueError:
        raise IntegrityError(
            f"{what}: expected JSON, seen {answer.content_type} {answer.body[-80:]!r}", retryable=True
        ) from None


def _refused(what: str, status: int, said: str) -> CollectError:
    if status == 404:
        return SourceMissingError(f"{what}: expected, seen {said}")
    if status in (401, 403):
        return CollectError(
            f"{what}: expected to be let in, seen {said}",
            "source.secret names the Secret with its user and password; it must be a server admin",
        )
    return CollectError(f"{what}: seen {said}")
