"""CouchDB is not dropped for a peer to rebuild that never had the first blocks: its ledger's own copies tell."""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from flows.backup_mainnet import backup_mainnet
from flows.backup_vps3 import backup_vps3
from flows.restore_couchdb import restore_couchdb
from gxbackup import catalog
from gxbackup.adapters.volumes import Volume
from gxbackup.couchdb.client import path_of
from gxbackup.errors import RemoteError, RestoreRefusedError
from gxbackup.fabric import blocks
from gxbackup.fabric import layout as files
from gxbackup.sources import ledger
from tasks import host
from tests import fabric_network
from tests.fabric_network import CHANNEL
from tests.flows.conftest import Place
from tests.integration.couchdb_dumps import put, url_of
from tests.integration.couchdb_servers import pouchdb, programs_path
from tests.local_cluster import LocalCluster

POD = "peer0-org1-0"
STATE = f"{CHANNEL}_"


def test_a_state_whose_peer_joined_by_a_snapshot_is_not_dropped(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", programs_path())
    peer = LocalCluster({POD: fabric_network.unpack("peer0", tmp_path / "volumes")}, files.PRODUCTION["peer"])
    (peer.volumes[POD] / files.CHAINS["peer"] / CHANNEL / blocks.SNAPSHOT_MARK).touch()
    volume = Volume(name="pv", folder=peer.volumes[POD], driver="local", nodes=("here",))
    monkeypatch.setattr("gxbackup.adapters.volumes.volume_of", lambda *_: volume)
    monkeypatch.setattr(ledger, "frozen", lambda *_: nullcontext())
    with pouchdb(tmp_path / "couchdb") as couch:
        put(couch, STATE, {"_id": "statedb_savepoint", "_rev": "1-a", "_revisions": {"start": 1, "ids": ["a"]},
                           "BlockNum": 3, "TxNum": 0})  # fmt: skip
        put(couch, "fabric__internal")

        def reduce(document: dict[str, Any]) -> None:
            servers = document["servers"]
            blocks_of = servers["vps3"]["data_types"]["peer-ledger"]
            blocks_of["source"] = {**blocks_of["source"], "node": "here"}
            state = servers["mainnet"]["data_types"]["couchdb-fabric"]
            state["source"] = {"kind": "couchdb", "url": url_of(couch), "namespace": "fabric", "peers": ["peer0-org1"],
                               "leave_out": ["_users", "_replicator"]}  # fmt: skip
            servers["vps3"]["data_types"] = {"peer-ledger": blocks_of}
            servers["mainnet"]["data_types"] = {"couchdb-fabric": state}
            document["servers"] = {name: servers[name] for name in ("vps3", "mainnet")}
            document["watch"] = {}

        place.create(reduce)
        place.play("vps3")
        monkeypatch.setattr(host, "host", lru_cache(maxsize=1)(peer.host))
        backup_mainnet()
        restore_couchdb()
        backup_vps3()

        with pytest.raises(RestoreRefusedError, match=f"{POD}, which joined {CHANNEL} by a snapshot") as refused:
            restore_couchdb(mode="in-place", approve=True)
        restore_couchdb(method="documents", peer_height=4)
        monkeypatch.setattr(catalog, "load", cut_off_from("vps3", catalog.load))
        restore_couchdb()

        assert "method=documents puts the captured state back" in str(refused.value)
        assert "vps3: its copies are not compared, they could not be listed" in caplog.text
        assert couch.get(path_of(STATE))["doc_count"] == 1
        assert peer.scaled == []


def cut_off_from(away: str, load: Any) -> Any:
    def loaded(remote: Any, inventory: Any, server: str, scratch: Path) -> Any:
        if server == away:
            raise RemoteError(f"{server}: listing: connection reset")
        return load(remote, inventory, server, scratch)

    return loaded
