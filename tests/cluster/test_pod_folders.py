"""Ledgers that are no whole claim: a folder within one, an emptyDir, a container's own files; each kept on two days."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gxbackup.adapters.cluster import Cluster, Pod
from gxbackup.adapters.container_folder import container_folder
from gxbackup.adapters.containers import Containers
from gxbackup.adapters.freezer import frozen
from gxbackup.adapters.host import Host
from gxbackup.adapters.volumes import volume_of
from gxbackup.errors import CollectError, RestoreRefusedError
from gxbackup.fabric import blocks
from gxbackup.fabric import layout as files
from gxbackup.model import Capture
from gxbackup.sources.ledger import Ledger
from tests import fabric_network
from tests.cluster.fabric_nodes import NODE, node
from tests.cluster.scratch_api import kubectl
from tests.fabric_network import CHANNEL, HEIGHT, BlockWriter
from tests.integration.node import until
from tests.opened import Read, read, work

pytestmark = pytest.mark.cluster
NAMESPACE = f"gxt-folders-{os.getpid()}"
PRODUCTION, CHAINS = files.PRODUCTION["peer"], files.CHAINS["peer"]
SUB_PATH, EMPTY_DIR, OWN_FILES = PEERS = "by-sub-path-0", "on-empty-dir-0", "own-files-0"
WRITES = f"mkdir -p {PRODUCTION}; touch /run/gx-ready; while sleep 0.2; do echo tick >>{PRODUCTION}/ticks; done"
SOURCE = Ledger(role="peer", namespace=NAMESPACE, node=NODE)


def objects() -> Iterator[dict[str, Any]]:
    """Yield a peer for each kind of folder; the one on an emptyDir has a sidecar that has no such folder."""
    for name in PEERS:
        command = ["bash", "-c", WRITES]
        made: Any = node(name.removesuffix("-0"), "peer", command, PRODUCTION, NAMESPACE)
        spec = made["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        del container["volumeMounts"]
        if name == SUB_PATH:
            container["env"].append({"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}})
            container["volumeMounts"] = [{"name": "data", "mountPath": PRODUCTION, "subPathExpr": "peers/$(POD)"}]
        else:
            del made["spec"]["volumeClaimTemplates"]
        if name == EMPTY_DIR:
            container["volumeMounts"] = [{"name": "empty", "mountPath": PRODUCTION}]
            spec["volumes"] = [{"name": "empty", "emptyDir": {}}]
            spec["containers"].append({"name": "sidecar", "image": container["image"], "command": ["sleep", "600"]})
        yield made


@dataclass
class Days:
    """What was kept of each peer on two days, and the cluster that they run in."""

    host: Host
    kept: dict[str, list[Read]]

    def heights(self, pod: str) -> list[Any]:
        return [one.end.evidence["heights"] for one in self.kept[pod]]


def pod_named(cluster: Cluster, name: str) -> Pod:
    (found,) = [pod for pod in cluster.pods(NAMESPACE) if pod.name == name]
    return found


def grow(cluster: Cluster, network: BlockWriter, count: int) -> None:
    """Give each peer, whose ledger is a real one, more blocks of a second channel."""
    network.append(count)
    for name in PEERS:
        with container_folder(pod_named(cluster, name).uid, PRODUCTION, CHAINS, name) as folder:
            channel = folder / CHAINS / "channel2"
            channel.mkdir(exist_ok=True)
            shutil.copyfile(network.file, channel / network.file.name)


def day(host: Host, into: Path, last: dict[str, list[Read]]) -> dict[str, list[Read]]:
    into.mkdir()
    held = [one.opened().artifact.model_copy(update={"held_in": "29990101_000000"})
            for reads in last.values() for one in reads]  # fmt: skip
    return {
        str(found.settings["pod"]): [*last.get(str(found.settings["pod"]), []), kept(host, found, into)]
        for found in SOURCE.collect_since(host, "peer-ledger", held)
    }


def kept(host: Host, found: Capture, into: Path, tries: int = 5) -> Read:
    """Read a peer as a run does: what may go well when it is tried again is tried again, as on a busy machine."""
    try:
        return read(SOURCE, host, found, into)
    except CollectError as error:
        if not error.retryable or tries == 1:
            raise
        return kept(host, found, into, tries - 1)


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Days]:
    """Give peers that write all the time, kept twice; all of it is gone after the module."""
    folder = tmp_path_factory.mktemp("days")
    host = Host(Containers(), Cluster())
    kubectl("create", "namespace", NAMESPACE)
    try:
        for one in objects():
            kubectl("create", "--filename=-", stdin=json.dumps(one))
        until(lambda: [pod.name for pod in host.cluster.pods(NAMESPACE) if pod.ready] == [*PEERS], "peers", 180)
        golden = fabric_network.unpack("peer0", folder / "golden")
        for name in PEERS:
            with container_folder(pod_named(host.cluster, name).uid, PRODUCTION, CHAINS, name) as there:
                shutil.copytree(golden, there, dirs_exist_ok=True)
        network = BlockWriter(folder / "network")
        grow(host.cluster, network, 3)
        first = day(host, folder / "day 0", {})
        grow(host.cluster, network, 4)
        yield Days(host, day(host, folder / "day 1", first))
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def test_a_ledger_within_a_claim_is_kept_on_two_days_and_comes_back_at_its_height(days: Days, tmp_path: Path) -> None:
    cluster = days.host.cluster
    levels = days.kept[SUB_PATH]
    volume = volume_of(cluster, NAMESPACE, f"data-{SUB_PATH}").folder
    assert volume is not None
    with frozen(pod_named(cluster, SUB_PATH).uid, SUB_PATH):  # it writes a file there all the time
        shutil.rmtree(volume / "peers")

    SOURCE.apply(days.host, work(tmp_path, *levels))

    there = volume / "peers" / SUB_PATH
    settings = [one.capture.settings for one in levels]
    assert [(one["level"], one["read_through"], one["below"], one["volume"]) for one in settings] == [
        (level, "claim", f"peers/{SUB_PATH}", str(there)) for level in (0, 1)
    ]
    assert days.heights(SUB_PATH) == [{CHANNEL: HEIGHT, "channel2": height} for height in (3, 7)]
    assert blocks.heights(blocks.read_chains(there / CHAINS, check_data=True)) == {CHANNEL: HEIGHT, "channel2": 7}
    with container_folder(pod_named(cluster, SUB_PATH).uid, PRODUCTION, CHAINS, SUB_PATH) as seen:
        assert seen.samefile(there), "the pod has what was restored"


@pytest.mark.parametrize("peer", [EMPTY_DIR, OWN_FILES])
def test_a_ledger_on_no_claim_is_kept_as_its_container_sees_it_and_proven_but_not_put_back_in_place(
    days: Days, tmp_path: Path, peer: str
) -> None:
    levels = days.kept[peer]
    before = pod_named(days.host.cluster, peer).uid

    (told,) = SOURCE.rehearse(days.host, work(tmp_path, *levels))
    for step in (SOURCE.preview, SOURCE.apply):
        with pytest.raises(RestoreRefusedError, match=f"{peer}: its ledger lies on no claim") as refused:
            step(days.host, work(tmp_path, *levels))

    assert [(one.capture.settings["level"], one.capture.settings["read_through"]) for one in levels] == [
        (0, "container"), (1, "container"),
    ]  # fmt: skip
    assert days.heights(peer) == [{CHANNEL: HEIGHT, "channel2": height} for height in (3, 7)]
    assert [one.end.shortfalls for one in levels] == [(), ()]
    assert levels[1].file.stat().st_size < levels[0].file.stat().st_size
    assert told.endswith(f"every block's data fits its header: channel2 7, {CHANNEL} {HEIGHT}")
    assert f"give its StatefulSet a claim at {PRODUCTION}" in refused.value.hints[0]
    assert pod_named(days.host.cluster, peer).uid == before
