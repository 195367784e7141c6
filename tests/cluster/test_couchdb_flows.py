"""Fabric's CouchDB as the operator runs it: backed up from a real cluster, destroyed, and brought back in both ways."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from flows.backup_mainnet import backup_mainnet
from flows.restore_couchdb import restore_couchdb
from gxbackup.adapters.cluster import Cluster
from gxbackup.couchdb.client import CouchClient, path_of
from gxbackup.couchdb.loading import drop
from gxbackup.errors import RestoreRefusedError
from tests.cluster.couchdb_estate import PEER, fabric_state, state, without_revisions
from tests.cluster.protected import ServerPlace
from tests.integration.couchdb_dumps import put, revision
from tests.integration.couchdb_servers import programs_path

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("prefect_server")]
HEIGHT = 77
USER_ID = "org.couchdb.user:explorer"


@dataclass
class Fabric:
    """A peer's namespace, its CouchDB, and the estate that protects both."""

    namespace: str
    couch: CouchClient
    place: ServerPlace

    def peer(self) -> str:
        """Return which pod the peer is now; it is ready."""
        [pod] = [one for one in Cluster().pods(self.namespace) if one.name == f"{PEER}-0"]
        assert pod.ready
        return pod.uid

    def move_savepoint(self, block: int) -> None:
        """Have CouchDB say that it is at another block."""
        document = self.couch.get(path_of("gxchannel_", "statedb_savepoint")) | {"BlockNum": block}
        self.couch.request("POST", path_of("gxchannel_"), body=json.dumps(document).encode())


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    """Give a peer with its CouchDB, beside which an explorer keeps a database; MainNet promises nothing else here."""

    def reduce(mainnet: dict[str, Any]) -> None:
        promise = mainnet["data_types"]["couchdb-fabric"]
        promise["source"]["namespace"] = namespace
        mainnet["data_types"] = {"couchdb-fabric": promise}

    with fabric_state() as (namespace, couch), pytest.MonkeyPatch.context() as patch:
        put(couch, "explorer", revision("mine", "aa"))
        user = {"name": "explorer", "password": "x", "type": "user", "roles": ["reader"]}
        couch.request("PUT", path_of("_users", USER_ID), body=json.dumps(user).encode())
        patch.setenv("PATH", programs_path())
        place = ServerPlace(tmp_path_factory.mktemp("couchdb"), patch)
        place.protect("mainnet", "vps3", reduce)
        yield Fabric(namespace, couch, place)


@pytest.fixture(scope="module")
def rebuilt(fabric: Fabric) -> dict[str, Any]:
    """Return what the state says as the peer made it from its blocks."""
    return without_revisions(state(fabric.couch))


@pytest.fixture(scope="module")
def snapshot(fabric: Fabric, rebuilt: dict[str, Any]) -> str:
    """Back it up, with a history: a document that was changed, one in conflict, one that is gone."""
    put(
        fabric.couch, "gxchannel_gx",
        revision("changed", "bb", "aa", value=2), revision("gone", "dd", "cc", _deleted=True),
        revision("conflict", "ee", "aa", value=1), revision("conflict", "ff", "aa", value=2),
    )  # fmt: skip
    return backup_mainnet()


def test_every_database_is_in_a_complete_snapshot_with_the_channels_height(fabric: Fabric, snapshot: str) -> None:
    manifest = fabric.place.manifest(snapshot)

    [artifact] = manifest.artifacts
    assert manifest.complete
    assert artifact.evidence["heights"] == {"gxchannel": HEIGHT}
    assert set(state(fabric.couch)) <= set(artifact.evidence["databases"])  # type: ignore[arg-type]


def test_a_plan_and_a_rehearsal_touch_nothing(fabric: Fabric, snapshot: str, caplog: pytest.LogCaptureFixture) -> None:
    before = (state(fabric.couch), fabric.peer())

    restore_couchdb(snapshot=snapshot)
    restore_couchdb(snapshot=snapshot, mode="scratch")

    assert "dropped: gxchannel_, gxchannel__lifecycle" in caplog.text
    assert f"stopped meanwhile: {PEER}" in caplog.text
    assert "equal what was captured" in caplog.text
    assert (state(fabric.couch), fabric.peer()) == before


def test_documents_that_may_be_newer_than_the_peer_are_refused(fabric: Fabric, snapshot: str) -> None:
    before = (state(fabric.couch), fabric.peer())

    for height, message in ((0, "expected the peer's height"), (HEIGHT - 1, f"gxchannel {HEIGHT} above {HEIGHT - 1}")):
        with pytest.raises(RestoreRefusedError, match=message):
            restore_couchdb(snapshot=snapshot, mode="in-place", approve=True, method="documents", peer_height=height)

    assert (state(fabric.couch), fabric.peer()) == before


def test_destroyed_databases_come_back_with_every_revision_while_the_peer_is_stopped(
    fabric: Fabric, snapshot: str
) -> None:
    before, peer = state(fabric.couch), fabric.peer()
    drop(fabric.couch, "gxchannel_gx")
    drop(fabric.couch, "fabric__internal")
    fabric.move_savepoint(90)
    put(fabric.couch, "gxchannel__lifecycle", revision("stray", "ab"))

    restore_couchdb(snapshot=snapshot, mode="in-place", approve=True, method="documents", peer_height=HEIGHT)

    assert state(fabric.couch) == before
    assert len(before["gxchannel_gx"]["leaves"]["conflict"]) == len(("ee", "ff"))
    assert fabric.peer() != peer


def test_databases_that_no_peer_made_come_back_where_they_are_named(fabric: Fabric, snapshot: str) -> None:
    before = state(fabric.couch)
    for database in ("explorer", "_users"):
        drop(fabric.couch, database)

    restore_couchdb(
        snapshot=snapshot, mode="in-place", approve=True, method="documents", peer_height=HEIGHT,
        databases=["explorer", "_users"],
    )  # fmt: skip

    assert state(fabric.couch) == before
    assert fabric.couch.get(path_of("_users", USER_ID))["roles"] == ["reader"]


def test_by_default_a_state_ahead_of_its_peer_is_dropped_and_the_peer_makes_it_anew(
    fabric: Fabric, rebuilt: dict[str, Any], snapshot: str
) -> None:
    peer = fabric.peer()
    fabric.move_savepoint(90)
    put(fabric.couch, "gxchannel_gx", revision("from-a-block-that-is-gone", "ab"))

    restore_couchdb(snapshot=snapshot, mode="in-place", approve=True)

    assert without_revisions(state(fabric.couch)) == rebuilt
    assert fabric.couch.get(path_of("gxchannel_", "statedb_savepoint"))["BlockNum"] + 1 == HEIGHT
    assert fabric.peer() != peer
