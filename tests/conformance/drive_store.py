"""What the Google Drive of the emulator holds, how it is searched, and what goes wrong next. Serves nothing."""

from __future__ import annotations

import hashlib
import itertools
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

FOLDER = "application/vnd.google-apps.folder"


@dataclass
class Entry:
    """A file or folder."""

    id: str
    name: str
    parent: str
    mime: str
    body: bytes = b""
    modified: str = "2026-01-01T00:00:00.000Z"
    trashed: bool = False
    without_sha256: bool = False
    unlisted: int = 0

    def is_listed(self) -> bool:
        """Tell whether a listing that looks for it shows it yet: Google's are late now and then."""
        self.unlisted -= self.unlisted > 0
        return not self.unlisted

    def resource(self) -> dict[str, Any]:
        """Return what the API tells of it."""
        told: dict[str, Any] = {
            "id": self.id,
            "name": self.name,
            "parents": [self.parent],
            "mimeType": self.mime,
            "trashed": self.trashed,
            "modifiedTime": self.modified,
            "createdTime": self.modified,
            "capabilities": {"canDownload": True},
        }
        if self.mime != FOLDER:
            told["size"] = str(len(self.body))
            for name, digest in (("md5", "md5"), ("sha1", "sha1"), ("sha256", "sha256")):
                told[f"{name}Checksum"] = hashlib.new(digest, self.body).hexdigest()
        if self.without_sha256:
            del told["sha256Checksum"]
        return told


@dataclass
class Fault:
    """What the next matching requests meet instead of an answer."""

    method: str
    target: str
    status: int = 0
    reason: str = ""
    message: str = ""
    drop: bool = False
    hang: bool = False
    cut: bool = False
    change: dict[str, Any] | None = None
    done: bool = False
    """An upload is stored all the same, and shown by the listing after so many that lack it."""
    unlisted: int = 0
    times: int = 1


@dataclass
class Drive:
    """What is stored, what was asked, and what goes wrong next."""

    entries: dict[str, Entry] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    uploads: dict[str, tuple[dict[str, Any], bytearray]] = field(default_factory=dict)
    refresh_token: str = "good"
    quota_bytes: int = 1 << 40
    lock: threading.RLock = field(default_factory=threading.RLock)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def reset(self) -> None:
        """Forget everything."""
        with self.lock:
            self.entries.clear()
            self.log.clear()
            self.faults.clear()
            self.uploads.clear()
            self.refresh_token, self.quota_bytes = "good", 1 << 40

    def add(self, meta: dict[str, Any], body: bytes = b"") -> Entry:
        """Create an entry; two of one name are two, as with Google."""
        with self.lock:
            number = f"id{next(self.numbers)}"
            parent = (meta.get("parents") or ["ROOT"])[0]
            parent = "ROOT" if parent == "root" else parent
            mime = meta.get("mimeType") or "application/octet-stream"
            entry = Entry(number, meta["name"], parent, mime, body, meta.get("modifiedTime") or Entry.modified)
            self.entries[number] = entry
            return entry

    def find(self, *steps: str) -> list[Entry]:
        """Return the live entries at a path, however many there are."""
        parents = ["ROOT"]
        found: list[Entry] = []
        for step in steps:
            found = [e for e in self.entries.values() if e.parent in parents and e.name == step and not e.trashed]
            parents = [entry.id for entry in found]
        return found

    def used_bytes(self) -> int:
        """Return what the entries take, those in the trash too."""
        return sum(len(entry.body) for entry in self.entries.values())

    def fail(self, method: str, target: str, **how: Any) -> None:
        """Let requests of this method, whose target matches, meet a fault: once, or `times`."""
        self.faults.append(Fault(method, target, **how))

    def fault(self, method: str, target: str) -> Fault | None:
        """Take the first fault that fits a request."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and re.search(fault.target, target):
                    fault.times -= 1
                    return fault
        return None


def matches(query: str) -> Callable[[Entry], bool]:
    """Compile Drive's search grammar: and, or, not, parentheses, `in parents`, =, !=, contains and comparisons."""
    tokens = re.findall(r"'(?:[^'\\]|\\.)*'|\(|\)|[<>!]?=|[<>]|[A-Za-z]+", query)
    position = 0

    def take() -> str:
        nonlocal position
        position += 1
        return tokens[position - 1]

    def peek() -> str:
        return tokens[position] if position < len(tokens) else ""

    def text(token: str) -> str:
        return re.sub(r"\\(.)", r"\1", token[1:-1]) if token.startswith("'") else token

    def either() -> Callable[[Entry], bool]:
        left = both()
        while peek() == "or":
            take()
            left = (lambda a, b: lambda entry: a(entry) or b(entry))(left, both())
        return left

    def both() -> Callable[[Entry], bool]:
        left = one()
        while peek() == "and":
            take()
            left = (lambda a, b: lambda entry: a(entry) and b(entry))(left, one())
        return left

    def one() -> Callable[[Entry], bool]:
        token = take()
        if token == "not":
            inner = one()
            return lambda entry: not inner(entry)
        if token == "(":
            inner = either()
            assert take() == ")", query
            return inner
        operator, value = take(), take()
        if operator == "in":
            assert value == "parents", query
            return lambda entry: entry.parent == ("ROOT" if text(token) == "root" else text(token))
        return lambda entry: _compare(entry, token, operator, text(value))

    test = either()
    assert position == len(tokens), query
    return test


def _compare(entry: Entry, name: str, operator: str, value: str) -> bool:
    seen = {"name": entry.name, "mimeType": entry.mime, "modifiedTime": entry.modified}.get(name)
    if name == "trashed":
        return entry.trashed == (value == "true") if operator == "=" else entry.trashed != (value == "true")
    assert seen is not None, f"unknown search term {name}"
    tests = {"=": seen == value, "!=": seen != value, "contains": value in seen, "<": seen < value, ">": seen > value}
    tests |= {"<=": seen <= value, ">=": seen >= value}
    return tests[operator]
