"""CouchDB behind a Service of a real cluster, with its password in a Secret there."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from gxbackup.adapters.cluster import Cluster
from gxbackup.adapters.containers import Containers
from gxbackup.adapters.host import Host
from gxbackup.errors import SourceMissingError
from gxbackup.sources.couchdb import CouchDB, SecretRef
from tests.cluster.scratch_api import kubectl
from tests.integration.couchdb_servers import PASSWORD, USER, GoldenCouch, golden

pytestmark = pytest.mark.cluster
NAMESPACE = f"gxt-couchdb-{os.getpid()}"
HOST = Host(Containers(), Cluster())


@pytest.fixture(scope="module")
def service() -> Iterator[CouchDB]:
    """Give a Service that leads to a server on the node itself."""
    node = kubectl("get", "nodes", "-o", "jsonpath={.items[0].status.addresses[0].address}")
    couch = GoldenCouch(golden(), node)
    values = {"COUCHDB_USER": USER, "COUCHDB_PASSWORD": PASSWORD}
    documents = [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "couchdb"},
         "data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "couchdb"},
         "spec": {"clusterIP": "None", "ports": [{"port": couch.port}]}},
        {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "couchdb"},
         "subsets": [{"addresses": [{"ip": node}], "ports": [{"port": couch.port}]}]},
    ]  # fmt: skip
    kubectl("create", "namespace", NAMESPACE)
    try:
        kubectl("apply", "-n", NAMESPACE, "-f", "-", stdin=yaml.safe_dump_all(documents))
        secret = SecretRef(name="couchdb", user_key="COUCHDB_USER", password_key="COUCHDB_PASSWORD")
        yield CouchDB(namespace=NAMESPACE, service="couchdb", port=couch.port, secret=secret)
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")
        couch.stop()


def test_it_is_reached_by_its_service_and_let_in_by_its_secret(service: CouchDB, tmp_path: Path) -> None:
    [capture] = service.collect(HOST, "couchdb-fabric")
    size_bytes, buffer = 0, memoryview(bytearray(65536))
    with service.open(HOST, capture) as stream:
        while count := stream.readinto(buffer):
            size_bytes += count
        end = stream.finish()

    assert end.evidence["heights"] == {"gxchannel": 77}
    assert size_bytes > 10_000
    assert PASSWORD not in capture.model_dump_json()


def test_a_service_that_is_not_there_is_named(service: CouchDB) -> None:
    other = service.model_copy(update={"service": "couchdb-2"})

    with pytest.raises(SourceMissingError, match=f"{NAMESPACE}/couchdb-2"):
        other.collect(HOST, "couchdb-fabric")
