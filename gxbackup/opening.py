"""
Read one artifact back to its last byte and have its own tool open it: tar, pg_restore, redis-check-rdb, etcd, SQLite.

Hashes prove that bytes are the ones sent; this proves that they are of use. Restores more than that: rehearsals do.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gxbackup import kine, layout, sealing, trees
from gxbackup.adapters import etcd, process
from gxbackup.errors import BackupError, CommandError, IntegrityError
from gxbackup.model import Artifact

_TAIL_BYTES = 4096
_LAST_WORDS_SECONDS = 3600
_NO_CLIENT = "You must install at least one postgresql-client"
_DATABASE = ".db"
# An etcd snapshot is a bbolt database and the sha256 of it; every other database here is SQLite's.
_ETCD_SNAPSHOT = "etcd-snapshot.db"
_SQL_ENDS = (b"database dump complete", b"database cluster dump complete")


@dataclass(frozen=True)
class _Tool:
    """The program that knows a kind of file, and reads it from a pipe to its end."""

    suffix: str
    begin: bytes
    words: tuple[str, ...]
    verdict: str
    too_old: str | None = None
    tells_faults: bool = False  # on its stdout, which of others is long


_TOOLS = (
    _Tool(".tar", b"", ("tar", "--list", "--file=-"), "listed by tar"),
    _Tool(".dump", b"PGDMP", ("pg_restore", "--file=/dev/null"), "read whole by pg_restore", "unsupported version"),
    _Tool(
        ".rdb",
        b"REDIS",
        ("redis-check-rdb", "/dev/stdin"),
        "checked by redis-check-rdb",
        "Can't handle RDB format",
        True,
    ),
)


def room_bytes(artifact: Artifact) -> int:
    """Return what opening writes to disk beside the sealed files: a database's own tool wants it as a file."""
    return artifact.plain_size_bytes if _plain_name(artifact).endswith(_DATABASE) else 0


def open_artifact(artifact: Artifact, files: list[Path], identity_file: Path, nowhere: Path) -> str:
    """
    Unseal fetched files, have their own tool read what is in them to the end, and say what was checked.

    Where this host has no such tool, or one older than the bytes, their form is checked, and that is said. `nowhere`
    is a path that does not exist, and does not exist afterwards. Raises: SealingError, IntegrityError.
    """
    with sealing.unseal(artifact, files, identity_file) as chunks:
        try:
            return _checker(artifact, nowhere)(chunks)
        except BackupError:
            raise
        except ValueError as error:
            raise IntegrityError(f"{artifact.path}: opened, and not what its name says: {error}") from None
        finally:
            nowhere.unlink(missing_ok=True)


def _plain_name(artifact: Artifact) -> str:
    return artifact.path.removesuffix(layout.SEALED_SUFFIX)


def _checker(artifact: Artifact, nowhere: Path) -> Callable[[Iterable[bytes]], str]:
    name = _plain_name(artifact)
    if artifact.kind == "directory":
        return lambda chunks: f"{trees.preview(chunks, nowhere, artifact.evidence).added_count} members vetted"
    if name.endswith(".jsonl"):
        return _parse_lines
    if name.endswith(".sql"):
        return _look_at_end
    if name.endswith(_ETCD_SNAPSHOT):
        return lambda chunks: _ask_etcd(chunks, nowhere)
    if name.endswith(_DATABASE):
        return lambda chunks: _ask_sqlite(chunks, nowhere)
    tool = next((tool for tool in _TOOLS if name.endswith(tool.suffix)), None)
    return lambda chunks: _feed(chunks, tool, artifact.path) if tool else "read whole"


def _feed(chunks: Iterable[bytes], tool: _Tool, path: str) -> str:
    """Hand the bytes to their own tool; its refusal is the artifact's fault, unless it says that it is too old."""
    name = tool.words[0]
    if shutil.which(name) is None:
        return f"{_look_at_beginning(chunks, tool.begin)}; {name} is not installed here"
    with (
        tempfile.TemporaryFile() as said,
        process.start(
            tool.words, stdin=subprocess.PIPE, stdout=said if tool.tells_faults else subprocess.DEVNULL, stderr=said
        ) as child,
    ):
        assert child.stdin
        pipe, reads_on = child.stdin, True

        def passing() -> Iterator[bytes]:
            nonlocal reads_on
            for chunk in chunks:  # to the last, behind which its hash is compared, whether the tool reads on or not
                reads_on = reads_on and trees.hand_on(pipe, memoryview(chunk))
                yield chunk

        form = _look_at_beginning(passing(), tool.begin)
        pipe.close()
        try:
            status = child.wait(_LAST_WORDS_SECONDS)
        except subprocess.TimeoutExpired:
            raise CommandError(f"{path}: {name}: not finished {_LAST_WORDS_SECONDS} s after its last byte") from None
        said.seek(-min(said.tell(), _TAIL_BYTES), os.SEEK_END)
        words = " ".join(said.read().decode("utf-8", "replace").split())
    if status == 0:
        return tool.verdict
    if status < 0:
        raise CommandError(f"{path}: {name}: ended by signal {-status}", "is there memory for it? the copy may be good")
    if _NO_CLIENT in words:  # Debian's pg_restore stands for those of all versions, also where there is none
        return f"{form}; {name} is not installed here"
    if tool.too_old is not None and tool.too_old in words:
        return f"{form}; {name} of this host is too old for it"
    raise IntegrityError(f"{path}: {name}: expected exit status 0, seen {status}: {words}")


def _ask_etcd(chunks: Iterable[bytes], file: Path) -> str:
    with file.open("xb") as written:
        whole = _sum_etcd_snapshot(_written(chunks, written))
    told = etcd.status(file)
    if told is None:
        return f"{whole}; etcd's own tool is not installed here"
    return f"{whole}; etcd reads {told['total_keys']} keys at revision {told['revision']}"


def _ask_sqlite(chunks: Iterable[bytes], file: Path) -> str:
    with file.open("xb") as written:
        for _ in _written(chunks, written):
            pass
    state = kine.read_state(file)
    return f"checked by SQLite: {state.total_keys} rows, revision {state.revision}"


def _written(chunks: Iterable[bytes], file: IO[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        file.write(chunk)
        yield chunk


def _parse_lines(chunks: Iterable[bytes]) -> str:
    count, rest = 0, b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            json.loads(line)
            count += 1
    if rest:
        raise ValueError("the last line has no end")
    return f"{count} lines parsed"


def _look_at_end(chunks: Iterable[bytes]) -> str:
    tail = b""
    for chunk in chunks:
        tail = (tail + chunk)[-_TAIL_BYTES:]
    if not any(end in tail for end in _SQL_ENDS):
        raise ValueError("the line that ends a dump is missing")
    return "ends as a whole dump does"


def _sum_etcd_snapshot(chunks: Iterable[bytes]) -> str:
    digest, tail = hashlib.sha256(), b""
    for chunk in chunks:
        tail += chunk
        digest.update(tail[: -digest.digest_size])
        tail = tail[-digest.digest_size :]
    if digest.digest() != tail:
        raise ValueError(f"expected sha256 {tail.hex()} as its end tells, seen {digest.hexdigest()}")
    return "an etcd snapshot, whole by its own sha256"


def _look_at_beginning(chunks: Iterable[bytes], begin: bytes) -> str:
    head = b""
    for chunk in chunks:
        if len(head) < len(begin):
            head += chunk
    if not head.startswith(begin):
        raise ValueError(f"expected it to begin with {begin!r}, seen {head[: len(begin)]!r}")
    return "read whole, begins as it should" if begin else "read whole"
