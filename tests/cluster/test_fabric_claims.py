"""MSP and TLS material on claims of a real cluster: of a running peer, and on a claim that no pod mounts."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from gxbackup import clock
from gxbackup.adapters import ledger_pods
from gxbackup.adapters.cluster import CLAIM_FOLDER, Cluster
from gxbackup.adapters.containers import Containers
from gxbackup.adapters.host import Host
from gxbackup.adapters.volumes import volume_of
from gxbackup.errors import SourceMissingError
from gxbackup.ledger_watch import Watched
from gxbackup.sources.fabric_crypto import FabricCrypto
from tests.cluster.conftest import IMAGE
from tests.cluster.fabric_nodes import NODE, WRITES, node
from tests.cluster.scratch_api import kubectl
from tests.crypto_files import identity, make_msp, tree
from tests.integration.node import until
from tests.opened import read, work

pytestmark = pytest.mark.cluster
NAMESPACE = f"gxt-claims-{os.getpid()}"
PEER, ADMINS = "data-peer0-org1-0", "org1-admins"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Give a namespace with a peer that writes, and a claim for admins; both are gone after the test."""
    made = Cluster()
    admins = {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": ADMINS, "namespace": NAMESPACE},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Mi"}}},
    }  # fmt: skip
    kubectl("create", "namespace", NAMESPACE)
    try:
        for one in (node("peer0-org1", "peer", ["bash", "-c", f"mkdir -p /var/hyperledger/production; {WRITES}"],
                         "/var/hyperledger", NAMESPACE), admins):  # fmt: skip
            kubectl("apply", "--filename=-", stdin=json.dumps(one))
        until(lambda: any(pod.ready for pod in made.pods(NAMESPACE, "tier=peer")), "the peer is ready", 120)
        yield made
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def volume(cluster: Cluster, claim: str) -> Path:
    folder = volume_of(cluster, NAMESPACE, claim).folder
    assert folder is not None
    return folder


def test_a_peer_and_an_admin_get_their_keys_back_from_their_claims(cluster: Cluster, tmp_path: Path) -> None:
    host = Host(Containers(), cluster)
    source = FabricCrypto(namespace=NAMESPACE, cas=(), with_secrets=False, claims=("*", "org2-admins"))
    with cluster.claim_place(NAMESPACE, ADMINS, IMAGE, read_only=True) as place:  # binds it
        refused = place.run(["touch", f"{CLAIM_FOLDER}/x"], timeout_seconds=30, check=False)
    peer, admins = volume(cluster, PEER), volume(cluster, ADMINS)
    make_msp(peer / "fabric" / "msp", "peer0")
    identity(peer / "fabric" / "tls" / "server.crt", peer / "fabric" / "tls" / "server.key", "peer0 tls")
    make_msp(admins / "Admin@org1", "admin")
    kept = {claim: tree(claim / name) for claim, name in ((peer, "fabric"), (admins, "Admin@org1"))}
    captures = source.collect(host, "fabric-crypto")
    reads = [read(source, host, one, tmp_path) for one in captures[:2]]
    uid = cluster.pods(NAMESPACE, "tier=peer")[0].uid
    shutil.rmtree(peer / "fabric" / "msp")
    (peer / "fabric" / "tls" / "server.key").write_text("lost")
    shutil.rmtree(admins / "Admin@org1")

    done = source.apply(host, work(tmp_path, *reads))

    (seen,) = ledger_pods.look(cluster, Watched(NAMESPACE, "peer", "tier=peer"))
    assert (seen.name, seen.node, seen.role) == ("peer0-org1-0", NODE, "peer")
    assert seen.claimed_at is not None
    assert seen.claimed_at < clock.now()
    assert "Read-only file system" in refused.complaint()
    assert [one.settings["crypto_claim"] for one in captures] == [PEER, ADMINS, "org2-admins"]
    with pytest.raises(SourceMissingError, match="org2-admins: expected bound to a volume, seen no such claim"):
        read(source, host, captures[2], tmp_path)
    assert [one.end.shortfalls for one in reads] == [(), ()]
    assert {one["subject"] for one in reads[0].end.evidence["certificates"] if one["has_key"]} == {
        "CN=peer0", "CN=peer0 tls",
    }  # fmt: skip
    assert tree(peer / "fabric") == kept[peer]
    assert tree(admins / "Admin@org1") == kept[admins]
    assert (peer / "production" / "ticks").stat().st_size
    assert "pod peer0-org1-0: started anew" in done
    (now,) = cluster.pods(NAMESPACE)  # none of ours is left
    assert now.ready
    assert now.uid != uid
    (before,) = peer.glob(".gxbackup-before-*")
    assert (before / "fabric" / "tls" / "server.key").read_text() == "lost"
