"""
Every Kubernetes object that a datastore holds, by name, with the uid that tells it from a later one of that name.

Reads what `etcd_snapshot` and `kine` give; knows no K3s. What the API server sealed (`encryption-config`) has no uid.
Source: k8s.io/apimachinery, runtime/serializer/protobuf (`k8s\\0`, then runtime.Unknown) and meta/v1/generated.proto.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

from gxbackup.etcd_snapshot import ObjectName

Uids: TypeAlias = Mapping[ObjectName, str | None]
LINES_TOLD = 20
_PROTOBUF = b"k8s\0"
_RAW, _METADATA, _UID = 2, 1, 5
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


class Differences(NamedTuple):
    """What two lists of objects differ in."""

    missing: tuple[ObjectName, ...]
    extra: tuple[ObjectName, ...]
    changed: tuple[ObjectName, ...]  # there again under their name, as other objects


def differences(expected: Uids, seen: Uids) -> Differences:
    """Compare every object by resource, namespace and name, and by uid where both know it."""
    changed = (
        name for name, uid in expected.items() if name in seen and uid and seen[name] and seen[name] != uid
    )  # fmt: skip
    return Differences(
        tuple(sorted(expected.keys() - seen.keys())), tuple(sorted(seen.keys() - expected.keys())),
        tuple(sorted(changed)),
    )  # fmt: skip


def told(what: str, names: Iterable[ObjectName]) -> list[str]:
    """Name objects one by one, in a bounded list that says how many there are."""
    listed = [*names]
    if not listed:
        return []
    lines = [f"{what}: {name.spelled()}" for name in listed[:LINES_TOLD]]
    if len(listed) > LINES_TOLD:
        lines.append(f"{what}: and {len(listed) - LINES_TOLD} more, {len(listed)} in all")
    return lines


def uid(value: bytes | memoryview) -> str | None:
    """Return the uid in an object as the API server keeps it: protobuf, or JSON; None where it cannot be read."""
    content = bytes(value)
    try:
        if content.startswith(b"{"):
            found = json.loads(content)["metadata"]["uid"]
        elif content.startswith(_PROTOBUF):
            raw = _field(content[len(_PROTOBUF) :], _RAW)
            found = _field(_field(raw, _METADATA), _UID).decode()
        else:
            return None
    except (ValueError, LookupError, TypeError):
        return None
    return str(found) or None


def _field(message: bytes, wanted: int) -> bytes:
    """Return a field that has a length; LookupError where the message lacks it."""
    for number, value in _fields(message):
        if number == wanted:
            return value
    raise LookupError(wanted)


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(message, at)
            continue
        if kind == _LENGTH:
            size, at = _varint(message, at)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if kind == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"field of kind {kind}")
        if at + size > len(message):
            raise ValueError("a field reaches beyond its message")
        yield tag >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def value_of(key_value: bytes | memoryview) -> bytes:
    """Return the value in a mvccpb.KeyValue; empty where it has none."""
    try:
        return _field(bytes(key_value), 5)
    except LookupError:
        return b""
