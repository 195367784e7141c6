"""CouchDB: every revision read and put back, by a server that keeps them and from what a real one told of a Fabric."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gxbackup import contents
from gxbackup.couchdb import loading, multipart, reading, restore
from gxbackup.couchdb.client import CouchClient, path_of
from gxbackup.couchdb.dump import in_order
from gxbackup.errors import CollectError, EmptyArtifactError, IntegrityError, SourceMissingError
from gxbackup.sources.couchdb import CouchDB
from tests.integration.couchdb_dumps import HOST, SECRET, lines, put, revision, source, taken, url_of, work
from tests.integration.couchdb_servers import GoldenCouch, golden

pytestmark = pytest.mark.usefixtures("programs")


def test_every_document_of_a_real_fabric_is_taken_savepoint_first(couch: GoldenCouch) -> None:
    _, dump, end = taken(couch)

    told = lines(dump)
    assert [one["database"] for one in told if "security" in one] == [
        "gxchannel_", "fabric__internal", "gxchannel__lifecycle", "gxchannel__lifecycle$$h_implicit_org_$org1$m$s$p",
        "gxchannel_gx", "gxchannel_lscc",
    ]  # fmt: skip
    expected = [document for held in golden().values() for document in held["docs"]]
    assert sorted((one["doc"] for one in told if "doc" in one), key=str) == sorted(expected, key=str)
    assert end.evidence["heights"] == {"gxchannel": 77}
    assert end.shortfalls == ()


@pytest.mark.parametrize("page", [1000, 3])
def test_multipart_answers_of_a_real_couchdb_give_the_same_documents(
    couch: GoldenCouch, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    held = couch.databases["gxchannel_gx"]["docs"]
    held[0]["_attachments"]["a note.txt"] = {"content_type": "text/plain", "revpos": 1, "data": "aGVsbG8gaGVsbG8="}
    monkeypatch.setattr(reading, "ROWS_PER_PAGE", page)
    _, plain, before = taken(couch)
    couch.always_multipart = True

    _, dump, end = taken(couch)

    assert end.content_sha256 == before.content_sha256
    assert end.evidence["databases"] == before.evidence["databases"]
    assert sorted(dump.splitlines()) == sorted(plain.splitlines())


def test_a_multipart_answer_that_is_cut_is_no_answer() -> None:
    whole = b'--b\r\nContent-Type: application/json\r\n\r\n{"_id":"a"}\r\n--b\r\n\r\n{"_id":"b"}\r\n--b--'
    kind = 'multipart/mixed; boundary="b"'

    assert [one["ok"]["_id"] for one in multipart.documents(kind, whole)] == ["a", "b"]
    for length in range(len(whole) - 1):
        with pytest.raises(IntegrityError):
            list(multipart.documents(kind, whole[:length]))


@pytest.mark.parametrize("fault", ["500", "cut", "cut chunk"])
def test_a_page_that_fails_in_the_middle_is_asked_for_again_and_nothing_before_it(
    couch: GoldenCouch, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(reading, "ROWS_PER_PAGE", 10)
    _, whole, _ = taken(couch)
    asked = list(couch.requests)
    couch.requests.clear()
    couch.faults = dict.fromkeys((1, 4, 7, 8, 9, 20, 35, 37), fault)

    _, dump, end = taken(couch)

    assert dump == whole
    assert end.shortfalls == ()
    assert [one for number, one in enumerate(couch.requests, 1) if number not in couch.faults] == asked
    failed = "\n".join(couch.requests[number - 1] for number in couch.faults)
    assert "/_bulk_get" in failed
    assert "since=20-opaque" in failed


def test_a_server_that_goes_on_failing_is_an_error_and_no_shorter_file(couch: GoldenCouch) -> None:
    couch.faults = dict.fromkeys(range(12, 100), "500")

    with pytest.raises(CollectError, match="seen 500 .* in 6 attempts") as raised:
        taken(couch)

    assert raised.value.retryable


def test_a_wrong_password_is_told_without_the_password(couch: GoldenCouch) -> None:
    host: Any = SimpleNamespace(cluster=SimpleNamespace(secret=lambda *_: {"user": b"admin", "password": b"wrong-one"}))

    with pytest.raises(CollectError, match="expected to be let in, seen 401") as raised:
        source(couch).collect(host, "couchdb-fabric")

    assert "wrong-one" not in str(raised.value)
    assert not raised.value.retryable


def test_a_secret_without_the_key_is_told_with_the_keys_it_has() -> None:
    host: Any = SimpleNamespace(cluster=SimpleNamespace(secret=lambda *_: {"COUCHDB_USER": b"x"}))

    with pytest.raises(SourceMissingError, match="expected key 'user', seen COUCHDB_USER"):
        CouchDB(url="http://127.0.0.1:1", namespace="fabric", secret=SECRET).collect(host, "couchdb-fabric")


def test_a_server_that_is_not_there_is_tried_again() -> None:
    with pytest.raises(CollectError, match="Connection refused") as raised:
        CouchDB(url="http://127.0.0.1:1", namespace="fabric", secret=SECRET).collect(HOST, "couchdb-fabric")

    assert raised.value.retryable


def test_a_server_without_databases_is_no_backup() -> None:
    empty = GoldenCouch({"_global_changes": {"docs": [], "security": {}}})

    with pytest.raises(EmptyArtifactError):
        source(empty).collect(HOST, "couchdb-fabric")

    empty.stop()


def test_documents_that_are_missing_from_the_changes_are_an_error(couch: GoldenCouch) -> None:
    answer = couch._answer

    def short(request: Any, body: bytes) -> tuple[int, str, bytes]:
        status, kind, told = answer(request, body)
        if "/gxchannel_gx/_changes" in request.path:
            page = json.loads(told)
            page["results"] = page["results"][:-1]
            told = json.dumps(page).encode()
        return status, kind, told

    couch._answer = short  # type: ignore[method-assign]

    with pytest.raises(IntegrityError, match="gxchannel_gx: expected 74 documents, seen 73"):
        taken(couch)


def test_a_revision_that_cannot_be_read_is_named(couch: GoldenCouch) -> None:
    answer = couch._answer

    def missing(request: Any, body: bytes) -> tuple[int, str, bytes]:
        return answer(request, body.replace(b'"rev": "1-9d6c', b'"rev": "1-0000'))

    couch._answer = missing  # type: ignore[method-assign]

    _, _, end = taken(couch)

    assert end.shortfalls == (
        "database gxchannel_gx: 1 revisions could not be read, the first: bin1 1-9d6c0bdcec4972cb8286f87992a4618b",
    )


def test_local_documents_are_taken_where_asked_and_page_by_page(
    couch: GoldenCouch, monkeypatch: pytest.MonkeyPatch
) -> None:
    couch.databases["gxchannel_gx"]["local"] = [{"_id": f"_local/{n}", "_rev": "0-1", "n": n} for n in range(7)]
    monkeypatch.setattr(reading, "LOCAL_PER_PAGE", 3)

    _, without, _ = taken(couch)
    _, dump, _ = taken(couch, local_documents=True)

    assert [one["local"]["n"] for one in lines(dump) if "local" in one] == list(range(7))
    assert not [one for one in lines(without) if "local" in one]


def test_real_documents_go_into_another_server_and_come_back_equal(
    couch: GoldenCouch, target: CouchClient, tmp_path: Path
) -> None:
    _, dump, end = taken(couch)

    names = {name: name for name in loading.load(target, dump.splitlines(True), lambda name: name)}
    told = loading.compare(target, end.evidence, names, "back")
    _, again, _ = taken(target)

    assert told == ["6 databases with 89 revisions equal what was captured"]
    expected = {(one["database"], one["doc"]["_id"]): one["doc"] for one in lines(dump) if "doc" in one}
    seen = {(one["database"], one["doc"]["_id"]): one["doc"] for one in lines(again) if "doc" in one}
    assert seen == expected
    assert target.get(path_of("gxchannel_gx", "_security")) == golden()["gxchannel_gx"]["security"]


def test_a_channel_whose_documents_were_deleted_counts_as_emptied_whatever_its_peer_keeps_beside(
    couch: GoldenCouch, target: CouchClient, tmp_path: Path
) -> None:
    _, dump, _ = taken(couch)
    loading.load(target, dump.splitlines(True), lambda name: name)
    full = work(tmp_path / "full", *taken(target)).opened[0].artifact

    gone = [
        {"_id": row["id"], "_rev": row["value"]["rev"], "_deleted": True}
        for row in target.get(path_of("gxchannel_gx", "_all_docs"))["rows"]
    ]
    target.request("POST", path_of("gxchannel_gx", "_bulk_docs"), body=json.dumps({"docs": gone}).encode())
    emptied = work(tmp_path / "emptied", *taken(target)).opened[0].artifact

    assert (contents.count(full), contents.count(emptied)) == (74, 0)
    assert emptied.evidence["heights"] == full.evidence["heights"]


def test_conflicts_tombstones_design_documents_and_odd_names_survive(target: CouchClient, tmp_path: Path) -> None:
    put(
        target, "odd$(name)+x",
        revision("a", "bb", "aa", value=1), revision("a", "cc", "aa", value=2),
        revision("gone", "dd", "cc", _deleted=True, why="kept"),
        revision("_design/view", "ee", views={"all": {"map": "function (doc) { emit(doc._id) }"}}),
        revision("ünïcode/\U0001f600 \"'%", "ff", text="\ud800 \u2028"),
        revision("big", "99", _attachments={"x": {"content_type": "image/png", "data": "AAECAw=="}}),
    )  # fmt: skip
    capture, dump, end = taken(target)
    told = end.evidence["databases"]["odd$(name)+x"]  # type: ignore[call-overload, index]

    done = source(target).rehearse(HOST, work(tmp_path / "area", capture, dump, end))

    assert (told["revisions"], told["conflicts"], told["attachments"]) == (6, 1, 1)
    assert done == ["1 databases with 6 revisions equal what was captured"]


def test_a_storm_of_a_thousand_conflicts_is_taken_whole(couch: GoldenCouch, monkeypatch: pytest.MonkeyPatch) -> None:
    storm = [revision("one", f"{n:032x}", "aa", text="x" * 500) for n in range(1000)]
    couch.databases = {"storm/of+1000": {"docs": storm, "security": {}}}
    monkeypatch.setattr(reading, "ANSWER_BYTES", 20_000)  # an answer that is too large is asked for in halves

    _, dump, end = taken(couch)

    assert sorted((one["doc"] for one in lines(dump) if "doc" in one), key=str) == sorted(storm, key=str)
    assert end.evidence["databases"]["storm/of+1000"]["conflicts"] == 999  # type: ignore[call-overload, index]


def test_a_storm_of_a_thousand_conflicts_is_put_back_every_one(target: CouchClient, tmp_path: Path) -> None:
    put(target, "storm", *(revision("one", f"{n:032x}", "aa") for n in range(1000)))
    capture, dump, end = taken(target)

    done = source(target).rehearse(HOST, work(tmp_path / "area", capture, dump, end))

    assert end.evidence["databases"]["storm"]["conflicts"] == 999  # type: ignore[call-overload, index]
    assert done == ["1 databases with 1000 revisions equal what was captured"]


def test_a_document_written_meanwhile_comes_again_and_the_bounds_tell_so(
    target: CouchClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put(target, "busy", *(revision(f"d{n}", f"{n:032x}") for n in range(200)))
    monkeypatch.setattr(reading, "ROWS_PER_PAGE", 10)
    kind = source(target)
    [capture] = kind.collect(HOST, "couchdb-fabric")
    out, buffer, written = bytearray(), memoryview(bytearray(500)), False
    with kind.open(HOST, capture) as stream:
        while count := stream.readinto(buffer):
            out += buffer[:count]
            if not written:
                other = CouchClient(url_of(target))
                put(other, "busy", revision("d0", "ff", f"{0:032x}"), revision("new", "ee"))
                other.close()
                written = True
        end = stream.finish()

    told = end.evidence["databases"]["busy"]  # type: ignore[call-overload, index]
    assert (told["moved"], told["rows"]) == (True, 202)
    assert kind.rehearse(HOST, work(tmp_path / "area", capture, bytes(out), end))


def test_the_order_puts_savepoints_first_and_system_databases_last() -> None:
    assert in_order(["_users", "b_x", "b_", "a_x", "a_", "fabric__internal"]) == [
        "a_", "b_", "a_x", "b_x", "fabric__internal", "_users",
    ]  # fmt: skip
    assert restore.is_fabric("a_x", ["a"])
    assert not restore.is_fabric("ab", ["a"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "expected a service or a url"),
        ({"service": "couchdb"}, "expected the namespace"),
        ({"url": "http://u:p@host"}, "should match pattern"),
        ({"url": "http://h", "user_variable": "U"}, "or neither"),
    ],
)
def test_settings_that_do_not_hold_together_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CouchDB(**settings)
