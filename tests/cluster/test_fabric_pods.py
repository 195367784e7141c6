"""Fabric's pods in a real cluster: a CA, a peer with a real ledger, Secrets; each broken and put back."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from gxbackup.adapters.cluster import Cluster
from gxbackup.adapters.containers import Containers
from gxbackup.adapters.host import Host
from gxbackup.adapters.volumes import volume_of
from gxbackup.errors import RestoreRefusedError
from gxbackup.fabric import blocks
from gxbackup.fabric import layout as files
from gxbackup.sources.chaincode import Chaincode
from gxbackup.sources.fabric_crypto import FabricCrypto
from gxbackup.sources.ledger import Ledger, frozen_copy
from tests import fabric_network
from tests.cluster.scratch_api import kubectl
from tests.fabric_network import CHANNEL, HEIGHT, PACKAGE, BlockWriter
from tests.integration.node import until
from tests.opened import read, work

pytestmark = pytest.mark.cluster
NAMESPACE, ORDERERS, NODE = "gxt-fabric", "gxt-orderers", "gx-node"
WRITES = "touch /run/gx-ready; while :; do echo tick >>/var/hyperledger/production/ticks; sleep 0.05; done"


def node(name: str, tier: str, command: list[str], mount: str, namespace: str = NAMESPACE) -> dict[str, object]:
    labels = {"app": name, "tier": tier}
    container = {
        "name": tier, "image": "gx-test/base:1", "command": command,
        "env": [{"name": "FABRIC_CA_HOME", "value": "/var/hyperledger/fabric-ca-server"}],
        "readinessProbe": {"exec": {"command": ["test", "-e", "/run/gx-ready"]}, "periodSeconds": 1,
                           "timeoutSeconds": 20},
        "volumeMounts": [{"name": "data", "mountPath": mount}],
    }  # fmt: skip
    pod = {"containers": [container], "terminationGracePeriodSeconds": 0}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "100Mi"}}}
    return {
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "serviceName": name, "replicas": 1, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}],
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """Give the host with a CA and a peer that writes; both are gone after the module."""
    kubectl("create", "namespace", NAMESPACE)
    try:
        for one in (
            node("ca-org1", "ca", ["gx-fabric", "ca", "ca-org1"], "/var/hyperledger"),
            node("peer0-org1", "peer", ["bash", "-c", WRITES], files.PRODUCTION["peer"]),
        ):
            kubectl("apply", "--filename=-", stdin=json.dumps(one))
        cluster = Cluster()
        for name in ("ca-org1", "peer0-org1"):
            until(lambda name=name: any(
                pod.ready for pod in cluster.pods(NAMESPACE, f"app={name}")), f"{name} is ready", 120)  # fmt: skip
        yield Host(Containers(), cluster)
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture
def volume(host: Host, tmp_path: Path) -> Iterator[Path]:
    """Give the peer's volume, a folder of this host, with a real ledger in it."""
    folder = volume_of(host.cluster, NAMESPACE, "data-peer0-org1-0").folder
    assert folder is not None
    shutil.rmtree(folder / "ledgersData", ignore_errors=True)
    shutil.copytree(fabric_network.unpack("peer0", tmp_path / "golden"), folder, dirs_exist_ok=True)
    yield folder
    shutil.rmtree(frozen_copy(folder, "peer").area, ignore_errors=True)


def test_a_ca_loses_its_keys_and_gets_them_back_with_its_database(host: Host, tmp_path: Path) -> None:
    source = FabricCrypto(namespace=NAMESPACE, cas=("ca-org1",), with_secrets=False, cainfo_port=0)
    (found,) = source.collect(host, "fabric-crypto")
    plain = read(source, host, found, tmp_path)
    place = host.cluster.place(NAMESPACE, selector="app=ca-org1")
    home = "/var/hyperledger/fabric-ca-server"
    place.run(["sh", "-c", 'rm -r "$1"/msp "$1"/*.db', "sh", home], timeout_seconds=30)

    told = source.rehearse(host, work(tmp_path, plain))
    source.apply(host, work(tmp_path, plain))

    assert plain.end.shortfalls == ()
    assert {one["path"] for one in plain.end.evidence["certificates"] if one["has_key"]} == {
        "fabric-ca-server/ca-cert.pem", "fabric-ca-server/msp/cacerts/ca-cert.pem", "fabric-ca-server/tls/tls-cert.pem",
    }  # fmt: skip
    assert any("2 users" in line for line in told)
    again = read(source, host, source.collect(host, "fabric-crypto")[0], tmp_path)
    assert again.end.content_sha256 == plain.end.content_sha256


def test_secrets_come_back_as_they_were_and_what_was_overwritten_is_kept(host: Host, tmp_path: Path) -> None:
    source = FabricCrypto(namespace=NAMESPACE, cas=())
    blob = os.urandom(64)
    for name in ("org1-admin-msp", "org2-admin-msp"):
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE},
                  "data": {"key_sk": base64.b64encode(blob).decode()}}  # fmt: skip
        kubectl("apply", "--filename=-", stdin=json.dumps(secret))
    (found,) = source.collect(host, "fabric-crypto")
    plain = read(source, host, found, tmp_path)
    kubectl("delete", "secret", "org1-admin-msp", f"--namespace={NAMESPACE}")
    kubectl("patch", "secret", "org2-admin-msp", f"--namespace={NAMESPACE}", '--patch={"stringData": {"key_sk": "x"}}')

    source.apply(host, work(tmp_path, plain, cas=["org1"]))
    assert host.cluster.secret(NAMESPACE, "org2-admin-msp") == {"key_sk": b"x"}
    (line,) = source.apply(host, work(tmp_path, plain))

    for name in ("org1-admin-msp", "org2-admin-msp"):
        assert host.cluster.secret(NAMESPACE, name) == {"key_sk": blob}
    assert blob not in plain.file.read_bytes()
    assert "1 put back" in line
    copies = [json.loads(one) for file in tmp_path.glob("secrets-before-*") for one in file.read_text().splitlines()]
    assert [one["metadata"]["name"] for one in copies] == ["org2-admin-msp"]


@pytest.fixture
def orderer() -> Iterator[Host]:
    """Give the host with an orderer and no peer, whose heights it would have to fit; it is gone after the test."""
    kubectl("create", "namespace", ORDERERS)
    try:
        one = node("orderer0", "orderer", ["bash", "-c", WRITES], files.PRODUCTION["orderer"], ORDERERS)
        kubectl("apply", "--filename=-", stdin=json.dumps(one))
        until(lambda: any(pod.ready for pod in Cluster().pods(ORDERERS)), "the orderer is ready", 120)
        yield Host(Containers(), Cluster())
    finally:
        kubectl("delete", "namespace", ORDERERS, "--wait=false")


def test_a_destroyed_orderer_comes_back_with_its_raft_log(orderer: Host, tmp_path: Path) -> None:
    host = orderer
    source = Ledger(role="orderer", namespace=ORDERERS, node=NODE)
    folder = volume_of(host.cluster, ORDERERS, "data-orderer0-0").folder
    assert folder is not None
    shutil.copytree(fabric_network.unpack("orderer1", tmp_path / "golden"), folder, dirs_exist_ok=True)
    wal = folder / "etcdraft" / "wal" / CHANNEL / "0000000000000000-0000000000000000.wal"
    log = wal.read_bytes()
    plain = read(source, host, source.collect(host, "orderer-ledger")[0], tmp_path)
    shutil.rmtree(folder / "etcdraft")
    shutil.rmtree(folder / "chains")

    (told,) = source.apply(host, work(tmp_path, plain))

    assert f"restored and started at {CHANNEL} {HEIGHT}" in told
    assert wal.read_bytes() == log
    assert blocks.heights(blocks.read_chains(folder / files.CHAINS["orderer"], check_data=True)) == {CHANNEL: HEIGHT}
    assert host.cluster.pods(ORDERERS)[0].ready


def test_a_peer_gets_its_chaincode_back_and_is_started_again(host: Host, volume: Path, tmp_path: Path) -> None:
    source = Chaincode(namespace=NAMESPACE)
    plain = read(source, host, source.collect(host, "chaincode-packages")[0], tmp_path)
    before = host.cluster.pods(NAMESPACE, "tier=peer")[0].uid
    (volume / "lifecycle" / "chaincodes" / PACKAGE.name).unlink()

    source.apply(host, work(tmp_path, plain))

    assert (volume / "lifecycle" / "chaincodes" / PACKAGE.name).read_bytes() == PACKAGE.read_bytes()
    assert host.cluster.pods(NAMESPACE, "tier=peer")[0].uid != before


def test_a_running_peer_is_kept_on_two_days_and_comes_back_at_its_height(
    host: Host, volume: Path, tmp_path: Path
) -> None:
    source = Ledger(role="peer", namespace=NAMESPACE, node=NODE)
    writer = BlockWriter(volume / files.CHAINS["peer"] / "channel2")
    writer.append(3)
    (day0, day1) = (tmp_path / "day 0", tmp_path / "day 1")
    day0.mkdir()
    day1.mkdir()
    first = read(source, host, source.collect(host, "peer-ledger")[0], day0)
    ticks = (volume / "ticks").stat().st_size
    until(lambda: (volume / "ticks").stat().st_size > ticks, "the peer goes on")
    writer.append(4)
    last_good = [first.opened().artifact.model_copy(update={"held_in": "29990101_000000"})]
    second = read(source, host, source.collect_since(host, "peer-ledger", last_good)[0], day1)
    writer.append(1)
    restore = work(tmp_path, first, second)
    with pytest.raises(RestoreRefusedError, match="channel2: 8 there, 7 kept"):
        source.preview(host, restore)
    shutil.rmtree(volume / "ledgersData")

    source.apply(host, restore)

    assert [one.capture.settings["level"] for one in (first, second)] == [0, 1]
    assert [one.end.shortfalls for one in (first, second)] == [(), ()]
    assert second.end.evidence["heights"] == {CHANNEL: HEIGHT, "channel2": 7}
    assert blocks.heights(blocks.read_chains(volume / files.CHAINS["peer"], check_data=True)) == {
        CHANNEL: HEIGHT, "channel2": 7,
    }  # fmt: skip
    assert host.cluster.pods(NAMESPACE, "tier=peer")[0].ready
    ticks = (volume / "ticks").stat().st_size
    until(lambda: (volume / "ticks").stat().st_size > ticks, "the restored peer writes")
