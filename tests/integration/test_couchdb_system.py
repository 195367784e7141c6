"""CouchDB's own databases, users and replications: captured with the rest, put back where they are named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gxbackup.couchdb import client as clients
from gxbackup.couchdb.client import Answer, CouchClient, path_of
from gxbackup.couchdb.dump import Dump
from gxbackup.couchdb.loading import compare
from gxbackup.errors import IntegrityError, RestoreError
from tests.integration.couchdb_dumps import HOST, lines, revision, source, taken, work
from tests.integration.couchdb_servers import GoldenCouch, golden, pouchdb, programs_path

# As CouchDB 3 makes it, and lets nobody change for `_users`.
ADMINS_ONLY = {"members": {"roles": ["_admin"]}, "admins": {"roles": ["_admin"]}}
USER = {
    **revision("org.couchdb.user:explorer", "5e", "5d", type="user", roles=["reader"], iterations=10),
    "name": "explorer",
    "password_scheme": "pbkdf2",
    "pbkdf2_prf": "sha256",
    "derived_key": "aa" * 20,
    "salt": "bb" * 16,
}
SYSTEM = {
    "_users": [USER, revision("_design/_auth", "a1", language="javascript", validate_doc_update="function () {}")],
    "_replicator": [
        revision(
            "to-vps1", "c1", source="http://a/x", target="http://b/x", owner="admin", _replication_state="completed"
        )
    ],
}


@pytest.fixture
def pouch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CouchClient]:
    """Give a server of this test's own: it has no other user."""
    monkeypatch.setenv("PATH", programs_path())
    monkeypatch.setattr(clients, "PAUSE_SECONDS", 0.001)
    with pouchdb(tmp_path / "pouchdb") as client:
        yield client


@pytest.fixture
def couch() -> Iterator[GoldenCouch]:
    server = GoldenCouch(golden() | {name: {"docs": docs, "security": ADMINS_ONLY} for name, docs in SYSTEM.items()})
    yield server
    server.stop()


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Have a server answer as CouchDB 3 does where it is asked for the rights on `_users`, or told others."""
    told: dict[str, Any] = {"security": ADMINS_ONLY}
    once = CouchClient._once

    def as_couchdb_3(client: CouchClient, method: str, target: str, *rest: Any) -> Answer:
        if target != "/_users/_security":
            return once(client, method, target, *rest)
        if method == "PUT":
            return Answer(
                403, "application/json", b'{"error":"forbidden","reason":"You can\'t edit the security object"}'
            )
        return Answer(200, "application/json", clients.json.dumps(told["security"]).encode())

    monkeypatch.setattr(CouchClient, "_once", as_couchdb_3)
    return told


def test_they_are_captured_last_and_rehearsed_under_names_that_do_nothing(
    couch: GoldenCouch, pouch: CouchClient, tmp_path: Path
) -> None:
    capture, dump, end = taken(couch)

    done = source(couch).rehearse(HOST, work(tmp_path / "area", capture, dump, end))

    assert [one["database"] for one in lines(dump) if "security" in one][-2:] == ["_replicator", "_users"]
    assert [one["doc"] for one in lines(dump) if one["database"] == "_users" and "doc" in one] == SYSTEM["_users"]
    assert done == ["8 databases with 92 revisions equal what was captured"]


def test_users_are_put_back_where_they_are_named_though_nobody_may_tell_their_rights(
    couch: GoldenCouch, pouch: CouchClient, tmp_path: Path, strict: dict[str, Any]
) -> None:
    named = {"method": "documents", "peer_height": 77, "databases": ["_users"]}
    given = work(tmp_path / "area", *taken(couch), **named)

    done = source(pouch).apply(HOST, given)

    user = pouch.get(path_of("_users", USER["_id"]))
    assert done[0].endswith("revisions equal what was captured")  # and one that this server makes by itself
    assert (user["_rev"], user["derived_key"]) == (USER["_rev"], USER["derived_key"])


def test_as_many_others_are_not_what_was_captured(pouch: CouchClient) -> None:
    reading = Dump(pouch, ["_users"], False, "users")
    while reading.readinto(memoryview(bytearray(1024**2))):
        pass
    seen: Any = reading.finish().evidence["databases"]
    seen["_users"]["revisions_digest"] = "0" * 64

    with pytest.raises(IntegrityError, match="database _users: revisions_digest: expected 0000"):
        compare(pouch, {"databases": seen}, {"_users": "_users"}, "users")


def test_other_rights_on_them_than_the_server_lets_anyone_set_are_told(
    couch: GoldenCouch, pouch: CouchClient, tmp_path: Path, strict: dict[str, Any]
) -> None:
    named = {"method": "documents", "peer_height": 77, "databases": ["_users"]}
    given = work(tmp_path / "area", *taken(couch), **named)
    strict["security"] = {}

    with pytest.raises(RestoreError, match=r"PUT /_users/_security: .*can't edit the security object") as caught:
        source(pouch).apply(HOST, given)

    assert "users_db_security_editable" in str(caught.value)
