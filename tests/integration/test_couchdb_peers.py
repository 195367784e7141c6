"""CouchDB is the state of Fabric's peers: by default they rebuild it, and while it is put back they stand still."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gxbackup.couchdb import loading, restore
from gxbackup.couchdb.client import CouchClient, path_of
from gxbackup.errors import RestoreError, RestoreRefusedError
from tests.integration.couchdb_dumps import HOST, Killed, put, revision, source, taken, with_state, work
from tests.integration.couchdb_servers import PASSWORD, USER, GoldenCouch

pytestmark = pytest.mark.usefixtures("programs")


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
    assert len(done) == 5
    assert {name for name in target.get("/_all_dbs") if not name.startswith("_")} == {"explorer", "fabric__internal"}
    assert scaled == [("peer0-org1", 0), ("peer0-org1", 2)]


@pytest.mark.parametrize("named", [["explorer"], ["fabric__internal"], ["gxchannel_", "gxchannel_gx", "explorer"]])
def test_what_no_peer_makes_anew_is_not_dropped_for_one_to_rebuild(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient, named: list[str]
) -> None:
    couch.databases["explorer"] = {"docs": [revision("theirs", "bb")], "security": {}}
    given = work(tmp_path / "area", *taken(couch), databases=named)
    with_state(couch, target)
    before = target.get("/_all_dbs")

    for ask in (source(target).preview, source(target).apply):
        with pytest.raises(RestoreRefusedError, match="seen one that no peer makes anew from its blocks"):
            ask(HOST, given)

    assert target.get("/_all_dbs") == before


def test_a_state_is_not_dropped_where_its_peer_would_open_nothing_afterwards(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient
) -> None:
    given = work(tmp_path / "area", *taken(couch))
    with_state(couch, target)
    loading.drop(target, "fabric__internal")

    with pytest.raises(RestoreRefusedError, match="expected fabric__internal beside explorer, seen none") as refused:
        source(target).apply(HOST, given)
    documents = work(tmp_path / "area", *taken(couch), method="documents", databases=["fabric__internal"])
    source(target).apply(HOST, documents)
    source(target).apply(HOST, given)

    assert "method=documents, databases fabric__internal" in str(refused.value)
    assert {name for name in target.get("/_all_dbs") if not name.startswith("_")} == {"explorer", "fabric__internal"}


def test_a_couchdb_without_a_fabric_is_put_back_by_its_documents(target: CouchClient, tmp_path: Path) -> None:
    put(target, "explorer", revision("mine", "aa"))
    given = taken(target)
    loading.drop(target, "explorer")

    with pytest.raises(RestoreRefusedError, match="expected a channel's state in the snapshot, seen explorer"):
        source(target).preview(HOST, work(tmp_path / "area", *given))
    named = work(tmp_path / "area", *given, method="documents", databases=["explorer"])
    source(target).preview(HOST, named)
    source(target).apply(HOST, named)

    assert target.get(path_of("explorer", "mine"))["_rev"] == "1-aa"


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
