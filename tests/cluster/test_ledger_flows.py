"""Ledgers and chaincode as the operator runs them: backed up from a real cluster, destroyed, brought back by flows."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows.backup_mainnet import backup_mainnet
from flows.backup_vps3 import backup_vps3
from flows.drill_disaster_recovery import drill_disaster_recovery
from flows.restore_chaincode import restore_chaincode
from flows.restore_orderer_ledger import restore_orderer_ledger
from flows.restore_peer_ledger import restore_peer_ledger
from gxbackup.adapters.cluster import Cluster
from gxbackup.adapters.volumes import volume_of
from gxbackup.errors import RestoreRefusedError
from gxbackup.fabric import blocks
from gxbackup.fabric import layout as files
from gxbackup.model import Artifact, Manifest
from gxbackup.sources.ledger import frozen_copy
from tests import fabric_network
from tests.cluster.fabric_nodes import NODE, node
from tests.cluster.scratch_api import kubectl
from tests.fabric_network import CHANNEL, HEIGHT, PACKAGE, BlockWriter
from tests.flows.conftest import Place
from tests.integration.node import until

pytestmark = pytest.mark.cluster
NAMESPACE = f"gxt-ledgers-{os.getpid()}"
PODS = {"peer": "peer0-org1-0", "orderer": "orderer0-0"}
GOLDEN = {"peer": "peer0", "orderer": "orderer1"}
BLOCKS, FIRST_FILE = 3000, "blockfile_000000"
# A peer gets its blocks from the orderers: it is never ahead of them.
FIRST_HEIGHT, PAUSE_SECONDS = {"peer": 20, "orderer": 60}, {"peer": 0.6, "orderer": 0.3}
WANTED = {"mainnet": ("chaincode-packages",), "vps3": ("peer-ledger", "orderer-ledger")}
PACKAGE_PATH = f"lifecycle/chaincodes/{PACKAGE.name}"
RAFT_LOG = f"etcdraft/wal/{CHANNEL}/0000000000000000-0000000000000000.wal"
# A node that commits the network's next block again and again, and goes on at the height that it finds.
NODE_PROGRAM = """
touch /run/gx-ready
while sleep "$1"; do
  size=$(stat -c %s "$2" 2>/dev/null) || continue
  end=$(awk -v size="$size" '$1 > size {print $1; exit}' /network/ends)
  tail -c +$((size + 1)) /network/chain | head -c $((end - size)) >>"$2"
done
"""


def network(folder: Path) -> tuple[bytes, list[int]]:
    """Return the blocks that every node of the network gets, one after the other, and where each ends."""
    writer = BlockWriter(folder)
    ends = []
    for _ in range(BLOCKS):
        writer.append(1, transaction_bytes=60)
        ends.append(writer.file.stat().st_size)
    return writer.file.read_bytes(), ends


def objects(chain: bytes, ends: list[int]) -> Iterator[dict[str, Any]]:
    """Yield the network's blocks as a ConfigMap, a peer and an orderer."""
    yield {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "network", "namespace": NAMESPACE},
        "data": {"ends": "\n".join(map(str, ends))}, "binaryData": {"chain": base64.b64encode(chain).decode()},
    }  # fmt: skip
    for role, pod in PODS.items():
        file = f"{files.PRODUCTION[role]}/{files.CHAINS[role]}/channel2/{FIRST_FILE}"
        command = ["bash", "-c", NODE_PROGRAM, role, str(PAUSE_SECONDS[role]), file]
        made: Any = node(pod.removesuffix("-0"), role, command, files.PRODUCTION[role], NAMESPACE)
        spec = made["spec"]["template"]["spec"]
        spec["volumes"] = [{"name": "network", "configMap": {"name": "network"}}]
        spec["containers"][0]["volumeMounts"].append({"name": "network", "mountPath": "/network"})
        yield made


@dataclass
class Ledgers:
    """An estate that plays vps3, whose promises are the ledgers of a peer and an orderer in the real cluster."""

    place: Place
    chain: bytes
    volumes: dict[str, Path]

    def artifact(self, snapshot: str, role: str) -> Artifact:
        """Return what a snapshot holds of a node."""
        text = (self.place.remote / "mainnet-vps3" / snapshot / "manifest.json").read_bytes()
        (found,) = Manifest.model_validate_json(text).of(f"{role}-ledger")
        return found

    def heights(self, role: str) -> dict[str, int]:
        """Return a node's heights now, every block's data read; a block that is just written is not counted."""
        return blocks.heights(blocks.read_chains(self.volumes[role] / files.CHAINS[role], check_data=True))

    def channel2(self, role: str) -> Path:
        """Return the file of a node that holds the network's blocks."""
        return self.volumes[role] / files.CHAINS[role] / "channel2" / FIRST_FILE

    def await_ticks(self) -> None:
        """Wait until both nodes have committed another block."""
        before = {role: self.heights(role)["channel2"] for role in PODS}
        for role, height in before.items():
            until(lambda role=role, height=height: self.heights(role)["channel2"] > height, f"the {role} commits", 60)

    def destroy(self) -> None:
        """Lose all that the nodes hold, while they run."""
        for role, pod in PODS.items():
            words = ["sh", "-c", 'rm -r "$1"/*', "sh", files.PRODUCTION[role]]
            Cluster().place(NAMESPACE, pod).run(words, timeout_seconds=60)


def reduce(document: dict[str, Any]) -> None:
    """Leave the data types that Fabric's nodes hold, in the namespace of these tests."""
    servers = document["servers"]
    for server, names in WANTED.items():
        servers[server]["data_types"] = {name: servers[server]["data_types"][name] for name in names}
    for promise in servers["vps3"]["data_types"].values():
        promise["source"] |= {"namespace": NAMESPACE, "node": NODE}
    servers["mainnet"]["data_types"]["chaincode-packages"]["source"]["namespace"] = NAMESPACE
    document["servers"] = {server: servers[server] for server in WANTED}


@pytest.fixture(scope="module")
def ledgers(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledgers]:
    """Give a peer and an orderer that commit blocks upon real ledgers; all is gone after the module."""
    del prefect_server
    folder = tmp_path_factory.mktemp("ledgers")
    chain, ends = network(folder / "network")
    volumes: dict[str, Path] = {}
    kubectl("create", "namespace", NAMESPACE)
    try:
        for one in objects(chain, ends):
            kubectl("create", "--filename=-", stdin=json.dumps(one))
        for role, pod in PODS.items():
            until(lambda pod=pod: any(one.ready for one in Cluster().pods(NAMESPACE) if one.name == pod), pod, 180)
            volume = volume_of(Cluster(), NAMESPACE, f"data-{pod}").folder
            assert volume is not None
            volumes[role] = volume
            shutil.copytree(fabric_network.unpack(GOLDEN[role], folder / role), volume, dirs_exist_ok=True)
            (volume / files.CHAINS[role] / "channel2").mkdir()
            (volume / files.CHAINS[role] / "channel2" / FIRST_FILE).write_bytes(chain[: ends[FIRST_HEIGHT[role] - 1]])
        with pytest.MonkeyPatch.context() as patch:
            estate = Place(folder / "estate", patch)
            super(Place, estate).create(reduce)
            estate.play("vps3")
            yield Ledgers(estate, chain, volumes)
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")
        for role, volume in volumes.items():
            shutil.rmtree(frozen_copy(volume, role).area, ignore_errors=True)


@pytest.fixture(scope="module")
def two_days(ledgers: Ledgers) -> tuple[str, str]:
    """Back the host up twice, with blocks in between."""
    first = backup_vps3()
    ledgers.await_ticks()
    return first, backup_vps3()


@pytest.fixture(scope="module")
def chaincode(ledgers: Ledgers) -> str:
    """Back up what the peers have installed."""
    del ledgers
    return backup_mainnet()


def test_nodes_that_commit_blocks_are_kept_on_two_days_and_go_on(ledgers: Ledgers, two_days: tuple[str, str]) -> None:
    ledgers.await_ticks()
    for role in PODS:
        full, differential = (ledgers.artifact(snapshot, role) for snapshot in two_days)
        assert (full.base, differential.base) == (None, two_days[0])
        assert differential.plain_size_bytes < full.plain_size_bytes
        kept = [artifact.evidence["heights"] for artifact in (full, differential)]
        assert [one[CHANNEL] for one in kept] == [HEIGHT] * 2
        assert FIRST_HEIGHT[role] <= kept[0]["channel2"] < kept[1]["channel2"] < ledgers.heights(role)["channel2"]


@pytest.mark.usefixtures("two_days")
def test_a_copy_older_than_a_running_node_is_refused_and_no_node_is_stopped(ledgers: Ledgers) -> None:
    ledgers.await_ticks()
    before = {pod.name: pod.uid for pod in Cluster().pods(NAMESPACE)}

    with pytest.raises(RestoreRefusedError, match=r"channel2: \d+ there, \d+ kept"):
        restore_peer_ledger("vps3", mode="in-place", approve=True)

    assert {pod.name: pod.uid for pod in Cluster().pods(NAMESPACE) if pod.ready} == before


def test_a_peer_gets_its_chaincode_back_and_is_started_again(ledgers: Ledgers, chaincode: str) -> None:
    before = Cluster().pods(NAMESPACE, "tier=peer")[0].uid
    package = ledgers.volumes["peer"] / PACKAGE_PATH
    package.unlink()

    restore_chaincode(chaincode, mode="in-place", approve=True)

    assert package.read_bytes() == PACKAGE.read_bytes()
    assert Cluster().pods(NAMESPACE, "tier=peer")[0].uid != before
    ledgers.await_ticks()


@pytest.mark.usefixtures("chaincode")
def test_destroyed_nodes_come_back_with_equal_heights_and_commit_the_next_blocks(
    ledgers: Ledgers, two_days: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    kept = {role: ledgers.artifact(two_days[1], role).evidence["heights"] for role in PODS}
    unchanging = {"orderer": RAFT_LOG, "peer": PACKAGE_PATH}
    digests = {role: _sha256(ledgers.volumes[role] / name) for role, name in unchanging.items()}
    before = {pod.name: pod.uid for pod in Cluster().pods(NAMESPACE)}
    ledgers.destroy()

    drill_disaster_recovery()
    restore_orderer_ledger("vps3", mode="in-place", approve=True)
    restore_peer_ledger("vps3", mode="in-place", approve=True)

    assert "# Disaster recovery drill: all restored, evidence equal" in caplog.text
    for step, name in enumerate(("vps3 orderer-ledger", "vps3 peer-ledger", "mainnet chaincode-packages"), start=1):
        assert f"| {step} | {name} |" in caplog.text
    for role, pod in PODS.items():
        heights = kept[role]
        assert f"every block's data fits its header: channel2 {heights['channel2']}, {CHANNEL} {HEIGHT}" in caplog.text
        assert f"{pod}: restored and started at channel2 " in caplog.text
        assert _sha256(ledgers.volumes[role] / unchanging[role]) == digests[role]
        assert ledgers.heights(role)[CHANNEL] == HEIGHT
        assert ledgers.heights(role)["channel2"] >= heights["channel2"]
    ledgers.await_ticks()
    for role in PODS:
        assert ledgers.chain.startswith(
            (ledgers.volumes[role] / files.CHAINS[role] / "channel2" / FIRST_FILE).read_bytes()
        )
    after = {pod.name: pod.uid for pod in Cluster().pods(NAMESPACE) if pod.ready}
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
