"""Servers that many tests read from: each is started once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import pytest

from gxbackup.couchdb import client as clients
from gxbackup.couchdb import loading
from gxbackup.couchdb.client import CouchClient
from gxbackup.sources import ledger
from gxbackup.sources.base import Opened
from tests import fabric_network
from tests.integration.couchdb_servers import GoldenCouch, golden, pouchdb, programs_path
from tests.integration.fabric_ledgers import cluster_of
from tests.integration.postgres_server import Protected, fill, running_server
from tests.integration.redis_servers import making_servers, taken, work
from tests.local_cluster import LocalCluster


@pytest.fixture(scope="session")
def postgres() -> Iterator[Protected]:
    """Give a PostgreSQL with databases of every kind; tests leave those as they are."""
    with running_server() as server:
        fill(server)
        yield server


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LocalCluster:
    """A stopped peer with a real ledger."""
    cluster = cluster_of(monkeypatch, "peer", peer0_org1_0=fabric_network.unpack("peer0", tmp_path / "volumes"))
    monkeypatch.setattr(ledger, "frozen", lambda uid, label: nullcontext())
    return cluster


@pytest.fixture(scope="session")
def pouch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CouchClient]:
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", programs_path())
            client = stack.enter_context(pouchdb(tmp_path_factory.mktemp("pouchdb")))
        yield client


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let scratch servers of CouchDB be found, and nobody wait between two tries."""
    monkeypatch.setenv("PATH", programs_path())
    monkeypatch.setattr(clients, "PAUSE_SECONDS", 0.001)


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


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Any]:
    """Make Redis servers that a test may stop, kill and starve."""
    with making_servers(tmp_path) as make:
        yield make


@pytest.fixture
def given(own: Any, tmp_path: Path) -> Opened:
    """What is restored to a Redis: the usual keys, of a server that is gone."""
    elsewhere = own("--save", "", name="elsewhere")
    elsewhere.fill()
    capture, rdb, end = taken(elsewhere)
    elsewhere.stop()
    return work(tmp_path / "area", capture, rdb, end).opened[0]
