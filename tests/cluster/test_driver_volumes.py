"""A ledger on a volume that only its CSI driver can mount: a disk image, mounted by way of a real kubelet."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gxbackup.adapters.cluster import OURS, Cluster
from gxbackup.adapters.containers import Containers
from gxbackup.adapters.host import Host
from gxbackup.adapters.volumes import Volume, mounted_at, volume_of
from gxbackup.errors import RestoreError, SourceMissingError
from gxbackup.fabric import blocks
from gxbackup.fabric import layout as files
from gxbackup.sources.ledger import Ledger
from tests import fabric_network
from tests.cluster.csi_driver import DRIVER, NodeDriver
from tests.cluster.fabric_nodes import NODE, WRITES, node
from tests.cluster.scratch_api import kubectl
from tests.fabric_network import CHANNEL, HEIGHT, BlockWriter
from tests.integration.node import until
from tests.opened import read, work

pytestmark = pytest.mark.cluster
NAMESPACE = VOLUME = f"gxt-driver-{os.getpid()}"
CLAIM = "data-peer0-org1-0"


@pytest.fixture(scope="module")
def run_dir() -> Path:
    """Where the cluster keeps its state, its kubelet's too."""
    return Path(os.environ["KUBECONFIG"]).parent


@pytest.fixture(scope="module")
def host(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Give the host with a peer that writes into a disk image; all of it is gone after the module."""
    image = tmp_path_factory.mktemp("disk") / "ledger.img"
    with image.open("wb") as disk:
        disk.truncate(256 * 1024**2)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "256Mi"}}, "storageClassName": ""}
    with NodeDriver(run_dir / "kubelet", NODE).running():
        try:
            for one in (
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
                {"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": DRIVER},
                 "spec": {"attachRequired": False}},
                {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": VOLUME},
                 "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "256Mi"}, "storageClassName": "",
                          "persistentVolumeReclaimPolicy": "Retain",
                          "claimRef": {"namespace": NAMESPACE, "name": CLAIM},
                          "csi": {"driver": DRIVER, "volumeHandle": str(image)}}},
                {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                 "metadata": {"name": CLAIM, "namespace": NAMESPACE}, "spec": {**claim, "volumeName": VOLUME}},
                node("peer0-org1", "peer", ["bash", "-c", WRITES], files.PRODUCTION["peer"], NAMESPACE),
            ):  # fmt: skip
                kubectl("apply", "--filename=-", stdin=json.dumps(one))
            cluster = Cluster()
            until(lambda: any(pod.ready for pod in cluster.pods(NAMESPACE)), "the peer is ready", 180)
            yield Host(Containers(), cluster)
        finally:
            kubectl("delete", "namespace", NAMESPACE)  # with the driver there, which the kubelet tells to unmount
            kubectl("delete", "persistentvolume", VOLUME)
            kubectl("delete", "csidriver", DRIVER)


@pytest.fixture(scope="module")
def source(run_dir: Path) -> Ledger:
    return Ledger(role="peer", namespace=NAMESPACE, node=NODE, kubelet_dir=str(run_dir / "kubelet"))


def volume(host: Host, source: Ledger) -> Path:
    """Return where the peer's volume is mounted now."""
    (pod,) = host.cluster.pods(NAMESPACE, "tier=peer")
    return mounted_at(volume_of(host.cluster, NAMESPACE, CLAIM), pod.uid, Path(source.kubelet_dir))


def test_a_volume_of_a_csi_driver_is_kept_on_two_days_and_comes_back_at_its_height(
    host: Host, source: Ledger, tmp_path: Path
) -> None:
    folder = volume(host, source)
    shutil.copytree(fabric_network.unpack("peer0", tmp_path / "golden"), folder, dirs_exist_ok=True)
    writer = BlockWriter(folder / files.CHAINS["peer"] / "channel2")
    writer.append(3)
    (day0, day1) = (tmp_path / "day 0", tmp_path / "day 1")
    day0.mkdir()
    day1.mkdir()
    first = read(source, host, source.collect(host, "peer-ledger")[0], day0)
    writer.append(4)
    last_good = [first.opened().artifact.model_copy(update={"held_in": "29990101_000000"})]
    second = read(source, host, source.collect_since(host, "peer-ledger", last_good)[0], day1)
    shutil.rmtree(folder / "ledgersData")
    host.cluster.scale(NAMESPACE, "peer0-org1", 0)
    until(lambda: not folder.is_mount(), "no pod uses the volume", 60)

    told = source.preview(host, work(tmp_path, first, second))
    source.apply(host, work(tmp_path, first, second))

    there = volume(host, source)
    assert there != folder
    assert there.parts[-4:-1] == ("volumes", "kubernetes.io~csi", VOLUME)
    assert f"its claim {CLAIM} is exchanged; heights kept: channel2 7, {CHANNEL} {HEIGHT}; not mounted now" in told[0]
    assert [one.capture.settings["level"] for one in (first, second)] == [0, 1]
    assert [one.end.shortfalls for one in (first, second)] == [(), ()]
    assert second.file.stat().st_size < first.file.stat().st_size
    assert blocks.heights(blocks.read_chains(there / files.CHAINS["peer"], check_data=True)) == {
        CHANNEL: HEIGHT, "channel2": 7,
    }  # fmt: skip
    assert [pod.name for pod in host.cluster.pods(NAMESPACE)] == ["peer0-org1-0"]
    assert [one for one in there.iterdir() if one.name.startswith(".gxbackup-new")] == []


def test_a_peer_that_does_not_come_up_gets_back_what_its_driver_mounts_for_it(
    host: Host, source: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = read(source, host, source.collect(host, "peer-ledger")[0], tmp_path)
    (volume(host, source) / "since").write_text("written after the backup")
    scale = host.cluster.scale
    asked: list[int] = []

    def failing_once(namespace: str, name: str, replicas: int, timeout_seconds: float = 600) -> None:
        asked.append(replicas)
        scale(namespace, name, replicas, timeout_seconds)
        if asked == [0, 1]:
            raise RestoreError("peer0-org1: expected ready, seen CrashLoopBackOff")

    monkeypatch.setattr(host.cluster, "scale", failing_once)

    with pytest.raises(RestoreError, match="as it was, and started again: peer0-org1: expected ready"):
        source.apply(host, work(tmp_path, plain))

    assert asked == [0, 1, 0, 1]
    assert (volume(host, source) / "since").read_text() == "written after the backup"


def test_a_volume_that_is_mounted_at_no_place_known_here_is_read_as_its_pod_sees_it(
    host: Host, source: Ledger, tmp_path: Path
) -> None:
    elsewhere = source.model_copy(update={"kubelet_dir": str(tmp_path)})
    (pod,) = host.cluster.pods(NAMESPACE, "tier=peer")
    (found,) = elsewhere.collect(host, "peer-ledger")

    plain = read(elsewhere, host, found, tmp_path)

    assert (found.settings["read_through"], found.settings["claim"], found.settings["level"]) == ("container", CLAIM, 0)
    assert plain.end.evidence["heights"] == {CHANNEL: HEIGHT, "channel2": 7}
    with pytest.raises(SourceMissingError, match=rf"volume {VOLUME} \(driver {DRIVER}\): expected mounted below"):
        mounted_at(volume_of(host.cluster, NAMESPACE, CLAIM), pod.uid, tmp_path)
    assert not host.cluster.pods(NAMESPACE, ",".join(f"{key}={value}" for key, value in OURS.items()))


def test_a_volume_of_another_kind_of_driver_is_found_where_the_kubelet_mounts_it(host: Host, source: Ledger) -> None:
    (pod,) = host.cluster.pods(NAMESPACE, "tier=peer")
    (token,) = (Path(source.kubelet_dir).resolve() / "pods" / pod.uid / "volumes" / "kubernetes.io~secret").iterdir()
    secret = Volume(name=token.name, folder=None, driver="of the kubelet's own", nodes=())

    assert mounted_at(secret, pod.uid, Path(source.kubelet_dir)) == token
