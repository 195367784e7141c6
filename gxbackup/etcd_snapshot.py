"""
An etcd snapshot file, read without etcd: is it whole, at which revision, and which Kubernetes objects it holds.

K3s hosts have no etcd tools: the server is built into k3s. Only reads; knows no K3s.

Source: a snapshot is a bbolt database (pages, meta 0 or 1, a B+ tree of buckets) and the sha256 of all before it; the
bucket `key` maps revisions to mvccpb.KeyValue messages (etcd-io/bbolt, etcd-io/etcd, api/mvccpb/kv.proto).
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

from gxbackup.errors import IntegrityError
from gxbackup.model import Frozen

TRAILER_BYTES = 32
SECTOR_BYTES = 512
CHUNK_BYTES = 1024**2
REGISTRY = b"/registry/"

_MAGIC = 0xED0CDAED
_PAGE = struct.Struct("<QHHI")  # id, flags, count, overflow
_META = struct.Struct("<IIIIQQQQQ")  # magic, version, page size, flags, root page, sequence, freelist, pages, txid
_BRANCH = struct.Struct("<IIQ")  # position, key size, page
_LEAF = struct.Struct("<IIII")  # flags, position, key size, value size
_BUCKET = struct.Struct("<QQ")  # root page (0: the page follows here), sequence
_BRANCH_PAGE, _LEAF_PAGE = 0x01, 0x02
_IS_BUCKET = 0x01
_KEY_FIELD = 0x0A
_REVISION_BYTES = 17  # main, `_`, sub; one more says that the key was deleted
# Kubernetes keeps these under older names, or not as objects at all.
_NAMES = {
    "minions": "nodes",
    "controllers": "replicationcontrollers",
    "ingress": "ingresses.networking.k8s.io",
    "services/specs": "services",
    "services/endpoints": "endpoints",
    "apiextensions.k8s.io/customresourcedefinitions": "customresourcedefinitions.apiextensions.k8s.io",
    "apiregistration.k8s.io/apiservices": "apiservices.apiregistration.k8s.io",
}
_NO_OBJECTS = ("ranges", "masterleases", "health")

Leaf: TypeAlias = tuple[int, bytes, memoryview]


class ObjectName(NamedTuple):
    """One Kubernetes object; `resource` as kubectl takes it: pods, deployments, widgets.example.com."""

    resource: str
    namespace: str  # empty: of the whole cluster
    name: str

    def spelled(self) -> str:
        """Name it for people: `secrets fabric/orderer0-tls`."""
        return f"{self.resource} {self.namespace}/{self.name}" if self.namespace else f"{self.resource} {self.name}"


class SnapshotState(Frozen):
    """What an etcd holds, as far as two of them can be compared."""

    revision: int
    total_keys: int
    objects: dict[str, int]

    @property
    def object_count(self) -> int:
        """All Kubernetes objects."""
        return sum(self.objects.values())


def require_whole(file: Path) -> None:
    """
    Check the length and the sha256 that a snapshot file ends with; etcd's own `snapshot status` accepts a cut one.

    Raises: IntegrityError (retryable: the next snapshot may be whole).
    """
    size_bytes = file.stat().st_size
    if size_bytes <= TRAILER_BYTES or size_bytes % SECTOR_BYTES != TRAILER_BYTES:
        raise IntegrityError(
            f"{file.name}: expected whole pages and a sha256 of {TRAILER_BYTES} bytes, seen {size_bytes} bytes",
            "the snapshot was cut short; is the disk full?",
            retryable=True,
        )
    digest = hashlib.sha256()
    left = size_bytes - TRAILER_BYTES
    with file.open("rb") as snapshot:
        while left:
            chunk = snapshot.read(min(CHUNK_BYTES, left))
            if not chunk:
                raise IntegrityError(f"{file.name}: it became shorter while it was read", retryable=True)
            digest.update(chunk)
            left -= len(chunk)
        told = snapshot.read().hex()
    if digest.hexdigest() != told:
        raise IntegrityError(
            f"{file.name}: expected sha256 {told} as its end tells, seen {digest.hexdigest()}", retryable=True
        )


def read_state(file: Path) -> SnapshotState:
    """
    Return the revision, the keys of all buckets (as `etcdctl snapshot status` counts them) and the living objects.

    Raises: IntegrityError where it is no bbolt database, or one that does not hold together.
    """
    try:
        with file.open("rb") as opened:
            view = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
        return _state(_Database(view, file.name))
    except (struct.error, IndexError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{file.name}: is no whole etcd database: {error}") from None


def read_pairs(file: Path) -> Iterator[tuple[bytes, memoryview]]:
    """Give every living key with its KeyValue message; the file was checked before."""
    with file.open("rb") as opened:
        view = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
    living: dict[bytes, memoryview | None] = {}
    for name, entries in _Database(view, file.name).buckets():
        for _, entry, value in entries if name == b"key" else ():
            living[_key_of(value)] = value if len(entry) == _REVISION_BYTES else None
    return ((key, value) for key, value in living.items() if value is not None)


def count_objects(keys: Iterable[bytes]) -> dict[str, int]:
    """Count Kubernetes objects by resource."""
    counts = Counter(found.resource for key in keys if (found := object_name(key)))
    return dict(sorted(counts.items()))


def object_name(key: bytes) -> ObjectName | None:
    """Return the object that a key of the datastore is of; None where it is of none."""
    if not key.startswith(REGISTRY):
        return None
    first, _, rest = key[len(REGISTRY) :].decode("utf-8", "replace").partition("/")
    second, _, below = rest.partition("/")
    if first in _NO_OBJECTS or not second:
        return None
    if (both := f"{first}/{second}") in _NAMES:
        return _named(_NAMES[both], below)
    if "." in first:  # a custom resource lies below its group
        return _named(f"{second}.{first}", below)
    return _named(_NAMES.get(first, first), rest)


def _named(resource: str, below: str) -> ObjectName | None:
    namespace, slash, name = below.partition("/")
    return ObjectName(resource, namespace if slash else "", name if slash else namespace) if below else None


class _Database:
    def __init__(self, view: memoryview, name: str) -> None:
        self._view = view
        self._name = name
        metas = [meta for meta in (self._meta(offset) for offset in self._meta_offsets()) if meta is not None]
        if not metas:
            raise IntegrityError(f"{name}: expected a bbolt database, seen another kind of file")
        _, self._page_bytes, self._root = max(metas)

    def buckets(self) -> Iterator[tuple[bytes, Iterator[Leaf]]]:
        """Give every bucket's name and its entries."""
        for flags, name, value in self._page(self._root):
            if flags & _IS_BUCKET:
                root, _ = _BUCKET.unpack_from(value)
                yield name, (self._page(root) if root else self._inline(value[_BUCKET.size :]))

    def _meta_offsets(self) -> tuple[int, ...]:
        # The second one lies a page behind, and its size stands in the first: the usual sizes are tried.
        return (0, 4096, 8192, 16384, 32768, 65536)

    def _meta(self, offset: int) -> tuple[int, int, int] | None:
        if offset + _PAGE.size + _META.size > len(self._view):
            return None
        magic, version, page_bytes, _, root, _, _, _, txid = _META.unpack_from(self._view, offset + _PAGE.size)
        if magic != _MAGIC or version != 2 or (offset and offset != page_bytes):
            return None
        return txid, page_bytes, root

    def _page(self, number: int) -> Iterator[Leaf]:
        start = number * self._page_bytes
        _, flags, count, _ = _PAGE.unpack_from(self._view, start)
        body = self._view[start + _PAGE.size :]
        if flags & _BRANCH_PAGE:
            for index in range(count):
                _, _, child = _BRANCH.unpack_from(body, index * _BRANCH.size)
                if child == number:
                    raise IntegrityError(f"{self._name}: page {number} leads to itself")
                yield from self._page(child)
        elif flags & _LEAF_PAGE:
            yield from self._leaves(body, count)
        else:
            raise IntegrityError(f"{self._name}: page {number}: expected a branch or a leaf, seen flags {flags:#x}")

    def _inline(self, view: memoryview) -> Iterator[Leaf]:
        _, _, count, _ = _PAGE.unpack_from(view)
        yield from self._leaves(view[_PAGE.size :], count)

    def _leaves(self, body: memoryview, count: int) -> Iterator[Leaf]:
        for index in range(count):
            here = index * _LEAF.size
            flags, position, key_bytes, value_bytes = _LEAF.unpack_from(body, here)
            at = here + position
            if at + key_bytes + value_bytes > len(body):
                raise IntegrityError(f"{self._name}: an entry reaches beyond the file")
            yield flags, bytes(body[at : at + key_bytes]), body[at + key_bytes : at + key_bytes + value_bytes]


def _state(database: _Database) -> SnapshotState:
    total_keys = 0
    revision = 0
    living: dict[bytes, bool] = {}
    for name, entries in database.buckets():
        for _, entry, value in entries:
            total_keys += 1
            if name == b"key":  # in the order of revisions: the last word about a key stands
                revision = max(revision, int.from_bytes(entry[:8], "big"))
                living[_key_of(value)] = len(entry) == _REVISION_BYTES
    if not living:
        raise IntegrityError("the etcd snapshot holds no key at all")
    return SnapshotState(
        revision=revision,
        total_keys=total_keys,
        objects=count_objects(key for key, lives in living.items() if lives),
    )


def _key_of(message: memoryview) -> bytes:
    """Return the first field of a mvccpb.KeyValue."""
    if not message or message[0] != _KEY_FIELD:
        raise ValueError("expected a KeyValue message")
    length = shift = 0
    at = 1
    while True:
        byte = message[at]
        at += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return bytes(message[at : at + length])
        shift += 7
