"""Objects as a datastore keeps them: their names from its keys, their uids from protobuf and JSON, and what differs."""

from __future__ import annotations

import pytest

from gxbackup.datastore_objects import LINES_TOLD, differences, told, uid
from gxbackup.etcd_snapshot import ObjectName, object_name


def field(number: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


METADATA = field(1, field(1, b"web") + field(3, b"default") + b"\x38\x96\x01" + field(5, b"a-uid"))
STORED = b"k8s\0" + field(1, field(1, b"v1") + field(2, b"Service")) + field(2, METADATA + field(2, b"spec"))


@pytest.mark.parametrize(
    ("value", "told_uid"),
    [
        (STORED, "a-uid"),
        (b'{"metadata": {"uid": "a-uid"}}', "a-uid"),
        (STORED[:30], None),
        (b"k8s:enc:aescbc:v1:key1:sealed", None),
        (b'{"metadata": {}}', None),
        (b'{"metadata"', None),
        (b"", None),
    ],
)
def test_a_uid_is_read_from_either_form_and_from_nothing_else(value: bytes, told_uid: str | None) -> None:
    assert uid(value) == told_uid


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (b"/registry/secrets/fabric/tls", ObjectName("secrets", "fabric", "tls")),
        (b"/registry/minions/vps3", ObjectName("nodes", "", "vps3")),
        (b"/registry/services/specs/default/web", ObjectName("services", "default", "web")),
        (b"/registry/example.com/widgets/default/w1", ObjectName("widgets.example.com", "default", "w1")),
        (b"/registry/ranges/serviceips", None),
        (b"/registry/health", None),
        (b"/bootstrap/0123", None),
    ],
)
def test_a_key_names_its_object(key: bytes, name: ObjectName | None) -> None:
    assert object_name(key) == name


def test_objects_are_missing_more_or_changed_and_an_unknown_uid_changes_nothing() -> None:
    same, gone, anew, sealed, more = (ObjectName("secrets", "default", name) for name in "abcde")

    found = differences({same: "1", gone: "2", anew: "3", sealed: None}, {same: "1", anew: "4", sealed: "5", more: "6"})

    assert found == ((gone,), (more,), (anew,))


def test_a_report_names_a_bounded_number_and_says_how_many_there_are() -> None:
    names = [ObjectName("nodes", "", f"node{number:03}") for number in range(LINES_TOLD + 5)]

    lines = told("missing", names)

    assert lines[0] == "missing: nodes node000"
    assert lines[-1] == "missing: and 5 more, 25 in all"
    assert len(lines) == LINES_TOLD + 1
    assert told("missing", []) == []
