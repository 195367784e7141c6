"""A CA's keys and its registry in PostgreSQL, in real pods: kept by one flow, both lost, and brought back as a pair."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.backup_mainnet import backup_mainnet
from flows.restore_ca_postgres import restore_ca_postgres
from flows.restore_fabric_crypto import restore_fabric_crypto
from gxbackup.adapters.cluster import Cluster
from gxbackup.adapters.volumes import volume_of
from gxbackup.errors import RestoreRefusedError
from tests.cluster.fabric_nodes import node
from tests.cluster.protected import ServerPlace, rows, sql
from tests.cluster.scratch_api import kubectl
from tests.crypto_files import identity, tree
from tests.integration.node import until

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("prefect_server")]
NAMESPACE = f"gxt-ca-pair-{os.getpid()}"
CA, DATABASE, IDENTITIES = "ca-org1", "ca_org1", 50
CA_PROGRAM = "touch /run/gx-ready; exec sleep infinity"
READY_SECONDS = 240


def registry() -> dict[str, Any]:
    """Return a PostgreSQL that holds the registry of one CA."""
    made: dict[str, Any] = node("postgres", "database", ["gx-postgres"], "/var/lib/postgresql/data", NAMESPACE)
    (container,) = made["spec"]["template"]["spec"]["containers"]
    given = {"GX_DATABASES": DATABASE, "GX_SCHEMA": "fabric-ca", "GX_SIZE_MB": "0", "POSTGRES_PASSWORD": "hunter2"}
    container["env"] = [{"name": name, "value": value} for name, value in given.items()]
    container["readinessProbe"]["exec"]["command"] = ["pg_isready", "-q", "-h", "127.0.0.1", "-U", "postgres"]
    return made


def reduce(mainnet: dict[str, Any]) -> None:
    """Leave the pair, in the namespace of these tests."""
    kept = {name: mainnet["data_types"][name] for name in ("postgres-ca", "fabric-crypto")}
    for promise in kept.values():
        promise["source"]["namespace"] = NAMESPACE
    kept["postgres-ca"]["source"].pop("docker_container")
    kept["fabric-crypto"]["source"] |= {"cas": [CA], "with_secrets": False, "claims": [], "cainfo_port": 0}
    mainnet["data_types"] = kept


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the volume of a CA that keeps its registry in PostgreSQL, and play the host that protects both."""
    kubectl("create", "namespace", NAMESPACE)
    try:
        ca = node(CA, "ca", ["bash", "-c", CA_PROGRAM], "/var/hyperledger", NAMESPACE)
        kubectl("create", "--filename=-", stdin=f"{json.dumps(registry())}\n{json.dumps(ca)}")
        made = ServerPlace(tmp_path / "estate", monkeypatch)
        made.protect("mainnet", "vps3", reduce)
        until(lambda: sum(pod.ready for pod in Cluster().pods(NAMESPACE)) == 2, "CA and PostgreSQL run", READY_SECONDS)
        volume = volume_of(Cluster(), NAMESPACE, f"data-{CA}-0").folder
        assert volume is not None
        server = volume / "fabric-ca-server"
        identity(server / "ca-cert.pem", server / "msp" / "keystore" / "one_sk", CA)
        (server / "fabric-ca-server-config.yaml").write_text("db: {type: postgres}\n")
        yield volume
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def test_keys_come_back_beside_the_registry_of_their_own_moment_and_beside_no_other(home: Path) -> None:
    before = backup_mainnet()
    sql(NAMESPACE, "insert into users (id, type, affiliation) values ('late', 'client', 'org1')", DATABASE)
    after = backup_mainnet()
    kept = (tree(home), rows(NAMESPACE, DATABASE))
    sql(NAMESPACE, f"drop database {DATABASE} with (force)")
    Cluster().place(NAMESPACE, f"{CA}-0").run(["find", "/var/hyperledger", "-type", "f", "-delete"], timeout_seconds=60)
    (ca,) = Cluster().pods(NAMESPACE, f"app={CA}")

    restore_ca_postgres(after, mode="in-place", approve=True)
    with pytest.raises(
        RestoreRefusedError, match=f"not of the moment of these keys: .*users: expected {IDENTITIES}.*{IDENTITIES + 1}"
    ) as of_another_moment:
        restore_fabric_crypto(before, mode="in-place", approve=True)
    untouched = (tree(home), [pod.uid for pod in Cluster().pods(NAMESPACE, f"app={CA}")])
    restore_fabric_crypto(after, mode="in-place", approve=True)

    assert any("from the same snapshot (restore-ca-postgres)" in hint for hint in of_another_moment.value.hints)
    assert untouched == ({}, [ca.uid])
    assert (tree(home), rows(NAMESPACE, DATABASE)) == kept
    assert sql(NAMESPACE, "select count(*) from users where id = 'late'", DATABASE) == "1"
