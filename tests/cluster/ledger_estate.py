"""
A small Fabric network in the test cluster, and an estate whose promises are its ledgers: three orderers and two peers,
each upon a real ledger in a volume of its own.

Its nodes write all the time; the network's next block is ordered when a test sends a transaction.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gxbackup.adapters import freezer
from gxbackup.adapters.cluster import Cluster
from gxbackup.adapters.volumes import volume_of
from gxbackup.fabric import blocks
from gxbackup.fabric import layout as files
from gxbackup.frozen_copy import OURS
from gxbackup.model import Artifact, Manifest
from tests import fabric_network
from tests.cluster.fabric_nodes import NODE, node
from tests.cluster.scratch_api import ADMIN, kubectl, programs
from tests.fabric_network import BlockWriter
from tests.flows.conftest import Place
from tests.integration.node import until

NAMESPACE = f"gxt-ledgers-{os.getpid()}"
PEERS = ("peer0-org1-0", "peer1-org1-0")
ORDERERS = ("orderer0-0", "orderer1-0", "orderer2-0")
ROLES = {**dict.fromkeys(PEERS, "peer"), **dict.fromkeys(ORDERERS, "orderer")}
WANTED = {"mainnet": ("chaincode-packages",), "vps3": ("peer-ledger", "orderer-ledger")}
_GOLDEN = {"peer": "peer0", "orderer": "orderer1"}
_BLOCKS, _FIRST_HEIGHT, _FIRST_FILE = 300, 40, "blockfile_000000"
_READY_SECONDS = 240
# A node that commits what was ordered, and goes on at the height that it finds; one that lost its ledger does nothing.
_NODE_PROGRAM = """
mapfile -t ends </network/ends
touch /run/gx-ready
while sleep 0.3; do
  [ -e "$1" ] || continue
  echo tick >>"$2/ticks"
  size=$(stat -c %s "$1")
  read -r ordered </network/ordered
  for ((block = 0; block < ordered; block++)); do
    ((ends[block] > size)) || continue
    tail -c +$((size + 1)) /network/chain | head -c $((ends[block] - size)) >>"$1"
    break
  done
done
"""
_EVENT = (
    'jsonpath={.type} {.object.metadata.uid} {.object.status.conditions[?(@.type=="Ready")].status} '
    '{.object.metadata.deletionTimestamp}{"\\n"}'
)


@dataclass
class Ledgers:
    """An estate that plays vps3, and the network whose ledgers it protects."""

    place: Place
    network: Path  # a folder that every node sees: the chain, where its blocks end, how many of them are ordered
    ends: list[int]
    volumes: dict[str, Path] = field(default_factory=dict)

    def artifacts(self, snapshot: str) -> dict[str, Artifact]:
        """Return what a snapshot holds of each node."""
        text = (self.place.remote / "mainnet-vps3" / snapshot / "manifest.json").read_bytes()
        return {str(one.settings["pod"]): one for one in Manifest.model_validate_json(text).artifacts}

    def kept(self, snapshot: str) -> dict[str, Any]:
        """Return each node's heights as a snapshot tells them."""
        return {pod: artifact.evidence["heights"] for pod, artifact in self.artifacts(snapshot).items()}

    def heights(self, pod: str) -> dict[str, int]:
        """Return a node's heights now, every block's data read; a block that is just written is not counted."""
        return blocks.heights(blocks.read_chains(self.volumes[pod] / files.CHAINS[ROLES[pod]], check_data=True))

    def channel2(self, pod: str) -> Path:
        """Return the file of a node that holds the network's blocks."""
        return self.volumes[pod] / files.CHAINS[ROLES[pod]] / "channel2" / _FIRST_FILE

    def ordered(self) -> int:
        """Return how many blocks are ordered."""
        return int((self.network / "ordered").read_text())

    def chain_as_ordered(self) -> bytes:
        """Return all blocks that are ordered, as a node holds them."""
        return (self.network / "chain").read_bytes()[: self.ends[self.ordered() - 1]]

    def order(self) -> None:
        """Have the network order one block, and wait until every node has committed it."""
        after = self.ordered() + 1
        (self.network / "next").write_text(f"{after}\n")
        (self.network / "next").rename(self.network / "ordered")
        for pod in ROLES:
            file, size_bytes = self.channel2(pod), self.ends[after - 1]
            until(lambda file=file, end=size_bytes: file.stat().st_size == end, f"{pod} has block {after}", 120)

    def destroy(self, *pods: str) -> None:
        """Lose all that nodes hold, while they run."""
        for pod in pods:
            words = ["sh", "-c", 'rm -r "$1"/*', "sh", files.PRODUCTION[ROLES[pod]]]
            Cluster().place(NAMESPACE, pod).run(words, timeout_seconds=60)


def uids() -> dict[str, str]:
    """Return the pods that are ready, each with what makes it this one."""
    return {pod.name: pod.uid for pod in Cluster().pods(NAMESPACE) if pod.ready}


def instances() -> list[str]:
    """Return each pod with its uid and how often its container was started anew."""
    told = "{.metadata.uid} {.status.containerStatuses[0].restartCount}"
    return kubectl(
        "get", "pods", "-n", NAMESPACE, "-o", f'jsonpath={{range .items[*]}}{told}{{"\\n"}}{{end}}'
    ).splitlines()


def freezers() -> dict[str, tuple[Path, str]]:
    """Return for each pod where the kernel tells whether its processes stand still, and by which word."""
    found = {pod: freezer._find(uid, pod, freezer.CGROUPS) for pod, uid in uids().items()}
    return {pod: (one.seen, one.word.removeprefix("^")) for pod, one in found.items()}


@contextmanager
def watched(selector: str, events: Path) -> Iterator[None]:
    """Have every change of pods written down, in the API server's order, up to those that are ready after the block."""
    words = ["get", "pods", "-n", NAMESPACE, "-l", selector, "--watch", "--output-watch-events", "-o", _EVENT]
    there = Cluster().pods(NAMESPACE, selector)
    with (
        events.open("wb") as file,
        subprocess.Popen([programs() / "kubectl", f"--kubeconfig={ADMIN}", *words], stdout=file) as watch,
    ):
        try:
            until(lambda: len(ready_by(events)) >= len(there), "the watch has begun", 60)
            yield
            now = {pod.uid for pod in Cluster().pods(NAMESPACE, selector) if pod.ready}
            until(lambda: ready_by(events)[-1] == now, "the watch has told all", 60)
        finally:
            watch.kill()


def ready_by(events: Path) -> list[frozenset[str]]:
    """Return which pods were ready, and not being stopped, after each change that was written down."""
    ready: frozenset[str] = frozenset()
    told = []
    for line in events.read_text().rpartition("\n")[0].splitlines():
        event, uid, status, stopped_at = line.split(" ")
        is_ready = status == "True" and not stopped_at and event != "DELETED"
        ready = ready | {uid} if is_ready else ready - {uid}
        told.append(ready)
    return told


def _reduce(document: dict[str, Any]) -> None:
    """Leave the data types that Fabric's nodes hold, in the namespace of these tests."""
    servers = document["servers"]
    for server, names in WANTED.items():
        servers[server]["data_types"] = {name: servers[server]["data_types"][name] for name in names}
    for promise in servers["vps3"]["data_types"].values():
        promise["source"] |= {"namespace": NAMESPACE, "node": NODE, "one_moment_seconds": 0}
    servers["mainnet"]["data_types"]["chaincode-packages"]["source"]["namespace"] = NAMESPACE
    document["servers"] = {server: servers[server] for server in WANTED}


def _write_chain(network: Path) -> list[int]:
    """Write the blocks that every node gets, one after the other; return where each ends."""
    writer = BlockWriter(network / "writer")
    ends = []
    for _ in range(_BLOCKS):
        writer.append(1, transaction_bytes=60)
        ends.append(writer.file.stat().st_size)
    writer.file.rename(network / "chain")
    (network / "ends").write_text("".join(f"{end}\n" for end in ends))
    (network / "ordered").write_text(f"{_FIRST_HEIGHT}\n")
    return ends


def _node(pod: str, network: Path) -> dict[str, Any]:
    role = ROLES[pod]
    production = files.PRODUCTION[role]
    command = [
        "bash",
        "-c",
        _NODE_PROGRAM,
        role,
        f"{production}/{files.CHAINS[role]}/channel2/{_FIRST_FILE}",
        production,
    ]
    made: dict[str, Any] = node(pod.removesuffix("-0"), role, command, production, NAMESPACE)
    spec = made["spec"]["template"]["spec"]
    spec["volumes"] = [{"name": "network", "hostPath": {"path": str(network), "type": "Directory"}}]
    spec["containers"][0]["volumeMounts"].append({"name": "network", "mountPath": "/network"})
    return made


def _fill(made: Ledgers, pod: str, golden: Path) -> None:
    """Put a real ledger, and the network's first blocks, into a node's volume."""
    volume = volume_of(Cluster(), NAMESPACE, f"data-{pod}").folder
    assert volume is not None
    made.volumes[pod] = volume
    shutil.copytree(golden, volume, dirs_exist_ok=True)
    made.channel2(pod).parent.mkdir()
    new = made.channel2(pod).with_name("new")  # the node begins once the file is there, and all of it is
    new.write_bytes(made.chain_as_ordered())
    new.rename(made.channel2(pod))


@contextmanager
def running_network(folder: Path) -> Iterator[Ledgers]:
    """Run the network, and play the host that holds its volumes; all is gone after the block."""
    (folder / "network").mkdir()
    golden = {role: fabric_network.unpack(name, folder / role) for role, name in _GOLDEN.items()}
    with pytest.MonkeyPatch.context() as patch:
        made = Ledgers(Place(folder / "estate", patch), folder / "network", _write_chain(folder / "network"))
        kubectl("create", "namespace", NAMESPACE)
        try:
            kubectl("create", "--filename=-", stdin="\n".join(json.dumps(_node(pod, made.network)) for pod in ROLES))
            until(lambda: uids().keys() == ROLES.keys(), "all nodes are ready", _READY_SECONDS)
            for pod, role in ROLES.items():
                _fill(made, pod, golden[role])
            super(Place, made.place).create(_reduce)
            made.place.play("vps3")
            yield made
        finally:
            kubectl("delete", "namespace", NAMESPACE, "--wait=false")
            for volume in made.volumes.values():
                shutil.rmtree(volume.parent / f"{OURS}frozen-{volume.name}", ignore_errors=True)
