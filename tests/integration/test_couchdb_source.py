"""CouchDB: every revision read and put back, by a server that keeps them and from what a real one told of a Fabric."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gxbackup import contents
from gxbackup.couchdb import client as clients
from gxbackup.couchdb import loading, multipart, reading, restore
from gxbackup.couchdb.client import CouchClient, path_of
from gxbackup.couchdb.dump import in_order
from gxbackup.errors import (
    CollectError,
    EmptyArtifactError,
    IntegrityError,
    RestoreError,
    RestoreRefusedError,
    SourceMissingError,
)
from gxbackup.model import Artifact, Capture, Part
from gxbackup.ports import StreamEnd
from gxbackup.scratch.couchdb import scratch_couchdb
from gxbackup.sources.base import Opened, Work
from gxbackup.sources.couchdb import CouchDB, SecretRef
from tests.integration.couchdb_servers import PASSWORD, USER, GoldenCouch, golden, pouchdb, programs_path

SECRET = SecretRef(name="couchdb", user_key="user", password_key="password")
HOST: Any = SimpleNamespace(
    cluster=SimpleNamespace(secret=lambda *_: {"user": USER.encode(), "password": PASSWORD.encode()})
)


@pytest.fixture(scope="module", autouse=True)
def programs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", programs_path())
        patch.setattr(clients, "PAUSE_SECONDS", 0.001)
        yield


@pytest.fixture(scope="module")
def pouch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CouchClient]:
    with pouchdb(tmp_path_factory.mktemp("pouchdb")) as client:
        yield client


@pytest.fixture
def target(pouch: CouchClient) -> CouchClient:
    """The shared server, emptied."""
    for name in pouch.get("/_all_dbs"):
        if not name.startswith("_"):
            loading.drop(pouch, name)
    return pouch


@pytest.fixture
def couch() -> Iterator[GoldenCouch]:
    server = GoldenCouch(golden())
    yield server
    server.stop()


def source(server: GoldenCouch | CouchClient, **settings: Any) -> CouchDB:
    """The golden server wants a password; pouchdb-server has none."""
    if isinstance(server, GoldenCouch):
        return CouchDB(url=server.url, namespace="fabric", secret=SECRET, **settings)
    return CouchDB(url=url_of(server), namespace="fabric", leave_out=("_users", "_replicator"), **settings)


def url_of(client: CouchClient) -> str:
    return client.name.removeprefix("CouchDB ")


def taken(server: GoldenCouch | CouchClient, **settings: Any) -> tuple[Capture, bytes, StreamEnd]:
    """Collect and read."""
    kind = source(server, **settings)
    [capture] = kind.collect(HOST, "couchdb-fabric")
    out, buffer = bytearray(), memoryview(bytearray(5000))
    with kind.open(HOST, capture) as stream:
        while count := stream.readinto(buffer):
            out += buffer[:count]
        return capture, bytes(out), stream.finish()


def work(folder: Path, capture: Capture, dump: bytes, end: StreamEnd, **options: Any) -> Work:
    folder.mkdir(exist_ok=True)
    file = folder / capture.name
    file.write_bytes(dump)
    digest = hashlib.sha256(dump).hexdigest()
    artifact = Artifact(
        data_type=capture.data_type, kind="couchdb", path=f"databases/{capture.name}.zst.age",
        parts=(Part(path="x", size_bytes=1, sha256=digest),), sealed_size_bytes=1, sealed_sha256=digest,
        plain_size_bytes=len(dump), plain_sha256=digest, keep_days=30,
        settings=capture.settings, evidence={**capture.evidence, **end.evidence},
    )  # fmt: skip
    opened = Opened(artifact=artifact, file=file)
    options = {"peers_stopped": True, **options}
    return Work(
        data_type="couchdb-fabric", opened=(opened,), area=folder, safety_dir=folder / "safety", options=options
    )


def lines(dump: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in dump.splitlines()]


def put(client: CouchClient, database: str, *documents: dict[str, Any]) -> None:
    client.request("PUT", path_of(database), also=(412,))
    body = json.dumps({"new_edits": False, "docs": documents}).encode()
    answer = clients.parsed(client.request("POST", path_of(database, "_bulk_docs"), body=body), database)
    assert answer == [], answer


def revision(name: str, *ids: str, **more: Any) -> dict[str, Any]:
    history = {"start": len(ids), "ids": list(ids)}
    return {"_id": name, "_rev": f"{len(ids)}-{ids[0]}", "_revisions": history, **more}


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


def test_a_rehearsal_sees_a_lost_revision_and_a_changed_attachment(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient
) -> None:
    _, dump, end = taken(couch)
    lost = b"".join(line for line in dump.splitlines(True) if b'"_id":"bin1"' not in line)
    changed = dump.replace(b'"data":"djI="', b'"data":"djM="')

    for damaged, seen in ((lost, "doc_count: expected 74, seen 73"), (changed, "revisions_digest")):
        names = {name: name for name in loading.load(target, damaged.splitlines(True), lambda name: name)}
        with pytest.raises(IntegrityError, match=f"gxchannel_gx: {re.escape(seen)}"):
            loading.compare(target, end.evidence, names, "back")


def test_a_scratch_server_that_holds_databases_is_refused(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture, dump, end = taken(couch)
    put(target, "in-use", revision("a", "aa"))
    monkeypatch.setenv("GX_SCRATCH_COUCHDB_URL", url_of(target))

    with pytest.raises(RestoreRefusedError, match="without databases, seen in-use"):
        source(couch).rehearse(HOST, work(tmp_path / "area", capture, dump, end))
    loading.drop(target, "in-use")
    source(couch).rehearse(HOST, work(tmp_path / "area2", capture, dump, end))

    assert [name for name in target.get("/_all_dbs") if not name.startswith("_")] == []


def test_a_rehearsal_drops_nothing_on_its_scratch_server_that_it_did_not_make(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture, dump, end = taken(couch)
    monkeypatch.setenv("GX_SCRATCH_COUCHDB_URL", url_of(target))

    with scratch_couchdb(tmp_path, None) as scratch:
        put(target, "gxchannel_gx", revision("theirs", "aa"))
        with pytest.raises(RestoreRefusedError, match="expected no database gxchannel_gx yet"):
            loading.load(scratch.client, dump.splitlines(True), scratch.owned)

    assert [name for name in target.get("/_all_dbs") if not name.startswith("_")] == ["gxchannel_gx"]
    assert target.get(path_of("gxchannel_gx", "theirs"))["_rev"] == "1-aa"
    loading.drop(target, "gxchannel_gx")
    source(couch).rehearse(HOST, work(tmp_path / "area", capture, dump, end))


def test_the_protected_server_is_no_scratch_server_though_it_is_empty_and_spelled_otherwise(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GX_SCRATCH_COUCHDB_URL", url_of(target).replace("127.0.0.1", "localhost") + "/")
    given = work(tmp_path / "area", *taken(couch))

    with pytest.raises(RestoreRefusedError, match="expected another server than the protected one"):
        source(target).rehearse(HOST, given)

    assert [name for name in target.get("/_all_dbs") if not name.startswith("_")] == []


def with_state(couch: GoldenCouch, target: CouchClient) -> None:
    """Fill the target as a later state of the same Fabric, and with a database that is none of its."""
    later = copy.deepcopy(couch.databases)
    for document in later["gxchannel_"]["docs"]:
        if document["_id"] == "statedb_savepoint":
            document["BlockNum"] = 90
    for name, held in later.items():
        put(target, name, *held["docs"])
    put(target, "explorer", revision("mine", "aa"))


def test_by_default_the_state_is_dropped_for_the_peer_to_rebuild(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient
) -> None:
    given = work(tmp_path / "area", *taken(couch))
    with_state(couch, target)
    kind = source(target, peers=("peer0-org1",))
    scaled: list[tuple[str, int]] = []
    host: Any = SimpleNamespace(
        cluster=SimpleNamespace(
            secret=HOST.cluster.secret,
            replicas=lambda *_: 2,
            scale=lambda _namespace, name, count: scaled.append((name, count)),
        )
    )

    planned = kind.preview(host, given)
    done = kind.apply(host, given)

    assert "now: gxchannel_: 3 documents, height 91" in planned
    assert "as captured: channel gxchannel at height 77" in planned
    assert done[0] == "dropped: gxchannel_"
    assert len(done) == 6
    assert [name for name in target.get("/_all_dbs") if not name.startswith("_")] == ["explorer"]
    assert scaled == [("peer0-org1", 0), ("peer0-org1", 2)]


class StatefulSets:
    """A cluster's pods by number; those in `stuck` are asked for and never become ready."""

    def __init__(self, **pods: int) -> None:
        self.pods = pods
        self.stuck: set[str] = set()
        self.killed = False

    def secret(self, *_: str) -> dict[str, bytes]:
        return {"user": USER.encode(), "password": PASSWORD.encode()}

    def replicas(self, _: str, name: str) -> int:
        return self.pods[name]

    def scale(self, _: str, name: str, replicas: int) -> None:
        if self.killed:
            raise Killed
        self.pods[name] = replicas
        if replicas and name in self.stuck:
            raise RestoreError(f"statefulset fabric/{name}: expected {replicas} ready pods")


@pytest.mark.parametrize("method", ["rebuild", "documents"])
def test_a_restore_is_refused_where_peers_may_be_running(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient, method: str
) -> None:
    given = work(tmp_path / "area", *taken(couch), method=method, peer_height=77, peers_stopped=False)
    with_state(couch, target)

    assert source(target).preview(HOST, given)[-1].endswith("stop them first, then peers_stopped")
    with pytest.raises(RestoreRefusedError, match="expected peers in the inventory, or peers_stopped, seen neither"):
        source(target).apply(HOST, given)

    assert target.get(path_of("gxchannel_", "statedb_savepoint"))["BlockNum"] == 90


PEERS = ("peer0", "peer1", "peer2")


def test_a_peer_that_does_not_come_back_keeps_no_other_one_stopped_and_hides_no_error(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient
) -> None:
    capture, dump, end = taken(couch)
    broken = dump.replace(b'"_id":"bin1"', b'"_id":"_bad"')
    sets = StatefulSets(peer0=1, peer1=2, peer2=0)
    sets.stuck = {"peer0"}
    host: Any = SimpleNamespace(cluster=sets)
    kind = source(target, peers=PEERS)

    with pytest.raises(RestoreError, match="restore failed, and what was there is back") as raised:
        kind.apply(host, work(tmp_path / "area", capture, broken, end, method="documents", peer_height=77))
    assert raised.value.hints[-1].startswith("peer peer0 was given 1 pods again: statefulset fabric/peer0")
    assert sets.pods == {"peer0": 1, "peer1": 2, "peer2": 0}
    with pytest.raises(RestoreError, match="the databases are restored, and not every peer is back: peer peer0"):
        kind.apply(host, work(tmp_path / "area", capture, dump, end))

    assert sets.pods == {"peer0": 1, "peer1": 2, "peer2": 0}


def test_the_run_after_a_killed_one_gives_the_peers_the_pods_they_had_before_that(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = work(tmp_path / "area", *taken(couch))
    sets = StatefulSets(peer0=1, peer1=2, peer2=0)
    host: Any = SimpleNamespace(cluster=sets)
    kind = source(target, peers=PEERS)

    def killed(*_: Any) -> None:
        sets.killed = True
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(restore, "rebuild", killed)
        with pytest.raises(Killed):
            kind.apply(host, given)
    assert sets.pods == {"peer0": 0, "peer1": 0, "peer2": 0}
    sets.killed = False
    kind.apply(host, given)

    assert sets.pods == {"peer0": 1, "peer1": 2, "peer2": 0}
    assert list(given.safety_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("height", "said"),
    [(0, "expected the peer's height of gxchannel beside it, seen none"), (74, "seen gxchannel 77 above 74")],
)
def test_documents_are_refused_unless_the_peer_is_known_to_be_as_high(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient, height: int, said: str
) -> None:
    given = work(tmp_path / "area", *taken(couch), method="documents", peer_height=height)

    for ask in (source(target).preview, source(target).apply):
        with pytest.raises(RestoreRefusedError, match=said):
            ask(HOST, given)

    assert [name for name in target.get("/_all_dbs") if not name.startswith("_")] == []


def test_the_peers_own_metrics_tell_the_height(couch: GoldenCouch, tmp_path: Path, target: CouchClient) -> None:
    given = work(tmp_path / "area", *taken(couch), method="documents")
    told = 'ledger_blockchain_height{channel="other"} 5\nledger_blockchain_height{channel="gxchannel"} '
    couch.databases["metrics"] = {"text": told + "74\n"}
    kind = source(target, peer_metrics=(f"{couch.url}/metrics",))

    with pytest.raises(RestoreRefusedError, match="seen gxchannel 77 above 74"):
        kind.preview(HOST, given)
    couch.databases["metrics"] = {"text": told + "1.2e+02\n"}
    kind.preview(HOST, given)


def test_data_without_its_savepoint_is_refused(couch: GoldenCouch, tmp_path: Path, target: CouchClient) -> None:
    options: dict[str, Any] = {"method": "documents", "peer_height": 77, "databases": ["gxchannel_gx"]}
    given = work(tmp_path / "area", *taken(couch), **options)

    with pytest.raises(RestoreRefusedError, match="expected gxchannel_ among them"):
        source(target).preview(HOST, given)


def test_documents_replace_the_state_and_a_copy_of_it_stays(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient
) -> None:
    given = work(tmp_path / "area", *taken(couch), method="documents", peer_height=77)
    with_state(couch, target)
    kind = source(target)

    kind.preview(HOST, given)
    done = kind.apply(HOST, given)

    assert done[0] == "6 databases with 89 revisions equal what was captured"
    assert target.get(path_of("gxchannel_", "statedb_savepoint"))["BlockNum"] == 76
    assert target.get(path_of("explorer", "mine"))["_rev"] == "1-aa"
    [kept] = given.safety_dir.iterdir()
    assert str(kept) in done[-1]
    assert kept.stat().st_mode & 0o777 == 0o600
    assert b'"BlockNum":90' in kept.read_bytes()


def test_a_restore_of_documents_that_fails_puts_back_what_was_there(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient
) -> None:
    capture, dump, end = taken(couch)
    broken = dump.replace(b'"_id":"bin1"', b'"_id":"_bad"')
    given = work(tmp_path / "area", capture, broken, end, method="documents", peer_height=77)
    with_state(couch, target)

    with pytest.raises(RestoreError, match="restore failed, and what was there is back"):
        source(target).apply(HOST, given)

    assert target.get(path_of("gxchannel_", "statedb_savepoint"))["BlockNum"] == 90
    assert target.get(path_of("gxchannel_gx"))["doc_count"] == 74
    assert list(given.safety_dir.iterdir()) == []


class Killed(BaseException):
    """The process ends here; nothing after this line of it runs."""


@pytest.mark.parametrize("moment", ["copying", "loading"])
def test_a_restore_of_documents_that_was_killed_ends_well_when_it_is_run_again(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    given = work(tmp_path / "area", *taken(couch), method="documents", peer_height=77)
    with_state(couch, target)
    kind = source(target)
    request, sent = CouchClient.request, 0

    def killed(self: CouchClient, method: str, path: str, *rest: Any, **more: Any) -> Any:
        nonlocal sent
        sent += (moment == "copying" and "_bulk_get" in path) or (moment == "loading" and "_bulk_docs" in path)
        if sent >= 2:  # from the second on, also what would put back
            raise Killed
        return request(self, method, path, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(CouchClient, "request", killed)
        with pytest.raises(Killed):
            kind.apply(HOST, given)
    done = kind.apply(HOST, given)

    assert done[0] == "6 databases with 89 revisions equal what was captured"
    [kept] = [path for path in given.safety_dir.iterdir() if path.suffix == ".jsonl"]
    assert b'"BlockNum":90' in kept.read_bytes()
    assert target.get(path_of("gxchannel_", "statedb_savepoint"))["BlockNum"] == 76


def test_a_restore_that_was_killed_among_its_documents_goes_on_with_those_that_are_missing(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = work(tmp_path / "area", *taken(couch), method="documents", peer_height=77)
    with_state(couch, target)
    monkeypatch.setattr(loading, "DOCUMENTS_PER_REQUEST", 10)
    request = CouchClient.request
    sent: list[list[tuple[str, str]]] = []

    def told(self: CouchClient, method: str, path: str, *rest: Any, **more: Any) -> Any:
        if "_bulk_docs" in path and len(sent) == stop_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if "_bulk_docs" in path:
            sent.append([(path, one["_id"]) for one in json.loads(more["body"])["docs"]])
        return request(self, method, path, *rest, **more)

    monkeypatch.setattr(CouchClient, "request", told)
    stop_after = 6
    if (child := os.fork()) == 0:
        try:
            source(target).apply(HOST, given)
        finally:
            os._exit(0)  # never on into pytest
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    reached = {name: target.get(path_of(name))["doc_count"] for name in target.get("/_all_dbs") if "gxch" in name}

    stop_after = -1
    done = source(target).apply(HOST, given)

    assert 0 < reached["gxchannel_gx"] < 74
    again = [path for page in sent for path, _ in page]
    assert again.count("/gxchannel_gx/_bulk_docs") == 74 - reached["gxchannel_gx"]
    assert done[0] == "6 databases with 89 revisions equal what was captured"
    assert target.request("GET", path_of("gxchannel_gx", *loading.BEGUN), also=(404,)).status == 404


def test_what_a_killed_restore_of_another_snapshot_has_loaded_is_not_gone_on_with(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"method": "documents", "peer_height": 77}
    first = work(tmp_path / "first", *taken(couch), **options)
    couch.databases["gxchannel_gx"]["docs"].pop()
    second = work(tmp_path / "second", *taken(couch), **options)
    second = second.model_copy(update={"safety_dir": first.safety_dir})
    with_state(couch, target)
    cut(source(target), first, "compare", monkeypatch)
    loading.drop(target, "gxchannel_")  # so far it had come

    done = source(target).apply(HOST, second)

    assert done[0] == "6 databases with 88 revisions equal what was captured"


def cut(kind: CouchDB, given: Work, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a restore that ends, as killed, where this function of the restore is called."""

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(restore, name, killed)
        with pytest.raises(Killed):
            kind.apply(HOST, given)


def test_the_copy_of_a_killed_restore_of_other_databases_is_not_taken_for_these(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = taken(couch)
    options: dict[str, Any] = {"method": "documents", "peer_height": 77}
    some = work(tmp_path / "area", *state, **options, databases=["gxchannel_", "gxchannel_gx"])
    every = work(tmp_path / "area", *state, **options)
    with_state(couch, target)
    cut(source(target), some, "_load", monkeypatch)
    loading.drop(target, "gxchannel_")  # so far it had come
    before = target.get("/_all_dbs")

    with pytest.raises(RestoreRefusedError, match="seen gxchannel_, gxchannel_gx of http"):
        source(target).apply(HOST, every)
    elsewhere = source(target).model_copy(update={"url": url_of(target) + "/"})
    with pytest.raises(RestoreRefusedError, match="expected it to be of http"):
        elsewhere.apply(HOST, some)

    assert target.get("/_all_dbs") == before
    source(target).apply(HOST, some)
    source(target).apply(HOST, every)


def test_a_restore_that_was_killed_once_all_was_there_does_not_bring_its_old_copy_back(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture, dump, end = taken(couch)
    options: dict[str, Any] = {"method": "documents", "peer_height": 77}
    with_state(couch, target)
    cut(source(target), work(tmp_path / "area", capture, dump, end, **options), "finish", monkeypatch)
    put(target, "gxchannel_gx", revision("since", "aa"))
    broken = dump.replace(b'"_id":"bin1"', b'"_id":"_bad"')
    given = work(tmp_path / "area", capture, broken, end, **options)

    with pytest.raises(RestoreError, match="restore failed, and what was there is back"):
        source(target).apply(HOST, given)

    assert target.get(path_of("gxchannel_", "statedb_savepoint"))["BlockNum"] == 76
    assert target.get(path_of("gxchannel_gx", "since"))["_rev"] == "1-aa"
    [kept] = given.safety_dir.iterdir()
    assert b'"BlockNum":90' in kept.read_bytes()


def test_a_dump_without_one_of_its_databases_is_refused_before_any_is_dropped(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient
) -> None:
    capture, dump, end = taken(couch)
    short = b"".join(line for line in dump.splitlines(True) if b'"database":"gxchannel_lscc"' not in line)
    given = work(tmp_path / "area", capture, short, end, method="documents", peer_height=77)
    with_state(couch, target)

    with pytest.raises(RestoreRefusedError, match="expected database gxchannel_lscc in it"):
        source(target).apply(HOST, given)

    assert target.get(path_of("gxchannel_", "statedb_savepoint"))["BlockNum"] == 90
    assert not given.safety_dir.exists()


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
