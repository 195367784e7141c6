"""
Read one artifact back to its last byte and open it as what it is: tar lists an archive, every JSON line is parsed.

Hashes prove that bytes are the ones sent; this proves that they are of use. Restores more than that: rehearsals do.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from gxbackup import layout, sealing, trees
from gxbackup.adapters import process
from gxbackup.errors import BackupError, IntegrityError
from gxbackup.model import Artifact

_TAIL_BYTES = 4096
# What a plain file of a kind begins with; its own program reads it in rehearsals.
_BEGINS: dict[str, bytes] = {".dump": b"PGDMP", ".rdb": b"REDIS", ".db": b"SQLite format 3\x00"}
# An etcd snapshot is a bbolt database and the sha256 of it.
_ETCD_SNAPSHOT = "etcd-snapshot.db"
_SQL_ENDS = (b"database dump complete", b"database cluster dump complete")


def open_artifact(artifact: Artifact, files: list[Path], identity_file: Path, nowhere: Path) -> str:
    """
    Unseal fetched files, check hash and form of what is in them, and say what was checked; nothing is unpacked.

    `nowhere` is a path that does not exist. Raises: SealingError, IntegrityError.
    """
    name = artifact.path.removesuffix(layout.SEALED_SUFFIX)
    with sealing.unseal(artifact, files, identity_file) as chunks:
        try:
            return _checker(artifact, name, nowhere)(chunks)
        except BackupError:
            raise
        except ValueError as error:
            raise IntegrityError(f"{artifact.path}: opened, and not what its name says: {error}") from None


def _checker(artifact: Artifact, name: str, nowhere: Path) -> Callable[[Iterable[bytes]], str]:
    if artifact.kind == "directory":
        return lambda chunks: f"{trees.preview(chunks, nowhere, artifact.evidence).added_count} members vetted"
    if name.endswith(".tar"):
        return lambda chunks: _list_tar(chunks, artifact.path)
    if name.endswith(".jsonl"):
        return _parse_lines
    if name.endswith(".sql"):
        return _look_at_end
    if name.endswith(_ETCD_SNAPSHOT):
        return _sum_etcd_snapshot
    begin = next((begin for suffix, begin in _BEGINS.items() if name.endswith(suffix)), b"")
    return lambda chunks: _look_at_beginning(chunks, begin)


def _list_tar(chunks: Iterable[bytes], path: str) -> str:
    with process.start(
        ["tar", "--list", "--file=-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as tar:
        assert tar.stdin
        reads_on = True
        for chunk in chunks:  # to the last, behind which its hash is compared, whether tar reads on or not
            reads_on = reads_on and trees.hand_on(tar.stdin, memoryview(chunk))
        tar.stdin.close()
        if (status := tar.wait(60)) != 0:
            raise IntegrityError(f"{path}: tar --list: expected exit status 0, seen {status}")
    return "listed by tar"


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
