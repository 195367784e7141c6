"""A pod that was given another claim since its ledger was kept: it reads what is put back, or it is no restore."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gxbackup.adapters.cluster import Pod
from gxbackup.errors import RestoreError
from gxbackup.fabric import blocks
from gxbackup.fabric import layout as files
from tests import fabric_network
from tests.fabric_network import CHANNEL, HEIGHT
from tests.integration.fabric_ledgers import PEER, SOURCES, capture, grow
from tests.local_cluster import LocalCluster
from tests.opened import work

SOURCE = SOURCES["peer"]
NEW = "ledger-peer0-org1-0"


@pytest.fixture
def deployed_anew(peer: LocalCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LocalCluster:
    """The peer, whose StatefulSet was made anew with a claim of another name; the old one is still there."""
    peer.volumes["old"] = peer.volumes[PEER]
    volumes, pods = dict(peer.volumes), peer.pods
    volumes[NEW] = fabric_network.unpack("peer0", tmp_path / "new")
    volumes[f"data-{PEER}"] = volumes["old"]
    del peer.volumes["old"]

    monkeypatch.setattr("gxbackup.sources.ledger.used_at", lambda cluster, namespace, claim, **_: volumes[claim])
    monkeypatch.setattr("gxbackup.adapters.volumes.used_at", lambda cluster, namespace, claim, **_: volumes[claim])
    peer.unmounted[NEW] = volumes[NEW]

    def with_new_claim(namespace: str, selector: str = "") -> tuple[Pod, ...]:
        return tuple(
            pod.model_copy(
                update={
                    "claims": {NEW: peer.mount},
                    "mounts": tuple(mount.model_copy(update={"claim": NEW}) for mount in pod.mounts),
                }
            )
            for pod in pods(namespace, selector)
        )

    monkeypatch.setattr(peer, "deploy", lambda: monkeypatch.setattr(peer, "pods", with_new_claim), raising=False)
    return peer


def test_a_running_peer_is_put_back_on_the_claim_that_it_mounts_now(
    deployed_anew: LocalCluster, tmp_path: Path
) -> None:
    plain = capture(deployed_anew, tmp_path / "day 0")
    deployed_anew.deploy()
    shutil.rmtree(deployed_anew.unmounted[NEW] / "ledgersData")

    SOURCE.apply(deployed_anew.host(), work(tmp_path, plain))

    there = deployed_anew.unmounted[NEW] / files.CHAINS["peer"]
    assert blocks.heights(blocks.read_chains(there)) == {CHANNEL: HEIGHT}
    assert not [*deployed_anew.volumes[PEER].glob(".gxbackup-before-*")]


def test_a_stopped_peer_that_starts_on_another_claim_is_no_restore_and_the_old_claim_is_as_it_was(
    deployed_anew: LocalCluster, tmp_path: Path
) -> None:
    plain = capture(deployed_anew, tmp_path / "day 0")
    grow(deployed_anew)
    deployed_anew.deploy()
    deployed_anew.scale("fabric", "peer0-org1", 0)

    with pytest.raises(RestoreError, match=f"expected on claim data-{PEER}, seen on claim {NEW}"):
        SOURCE.apply(deployed_anew.host(), work(tmp_path, plain, allow_older=True))

    old = blocks.read_chains(deployed_anew.volumes[PEER] / files.CHAINS["peer"])
    assert blocks.heights(old) == {CHANNEL: HEIGHT, "channel2": 5}
