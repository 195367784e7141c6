"""
The answer of `_bulk_get` as real CouchDB gives it unless it is asked for JSON: multipart in multipart.

A document with attachments is a part of its own, multipart/related: its JSON first, then each attachment's bytes.
Source: https://docs.couchdb.org/en/stable/api/database/bulk-api.html#db-bulk-get
"""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import re
from collections.abc import Iterator
from email.message import Message
from email.parser import BytesHeaderParser
from typing import Any

from gxbackup.errors import IntegrityError


def documents(content_type: str, body: bytes) -> Iterator[dict[str, Any]]:
    """
    Give each document of an answer as its JSON form would: attachments inline, errors under `error`.

    Raises: IntegrityError where the answer is cut or does not hold what it announces.
    """
    for headers, content in _parts(content_type, body):
        if headers.get_content_type() == "multipart/related":
            yield {"ok": _with_attachments(headers["Content-Type"], content)}
        else:
            document = json.loads(content)
            yield {"error": document} if headers.get_param("error") else {"ok": document}


def _with_attachments(content_type: str, body: bytes) -> dict[str, Any]:
    parts = _parts(content_type, body)
    document: dict[str, Any] = json.loads(next(parts)[1])
    following = [name for name, told in document.get("_attachments", {}).items() if told.get("follows")]
    for name, (headers, content) in zip(following, parts, strict=True):
        name = headers.get_filename() or name
        told = document["_attachments"][name]
        if headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        for stored in ("follows", "encoded_length", "encoding", "length"):
            told.pop(stored, None)
        told["data"] = base64.b64encode(content).decode()
    return document


def _parts(content_type: str, body: bytes) -> Iterator[tuple[Message, bytes]]:
    """Give each part's headers and content; IntegrityError where the last boundary is not there."""
    outer = Message()
    outer["Content-Type"] = content_type
    boundary = outer.get_param("boundary")
    if not isinstance(boundary, str):
        raise IntegrityError(f"multipart: expected a boundary, seen {content_type!r}")
    mark = re.escape(b"--" + boundary.encode())
    cuts = list(re.finditer(rb"(?:^|\r\n)" + mark + rb"(--)?[ \t]*(?:\r\n|$|(?=\r\n))", body))
    if not cuts or not cuts[-1][1]:
        raise IntegrityError(f"multipart: cut off after {len(body)} bytes", retryable=True)
    for cut, following in itertools.pairwise(cuts):
        part = body[cut.end() : following.start()]
        head, _, content = (b"", b"", part[2:]) if part.startswith(b"\r\n") else part.partition(b"\r\n\r\n")
        yield BytesHeaderParser().parsebytes(head + b"\r\n\r\n"), content
