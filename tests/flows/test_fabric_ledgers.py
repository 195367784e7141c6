"""A peer's ledger through backup and restore as an operator starts them: two days, one of them a differential."""

from __future__ import annotations

import os
import shutil
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from flows.backup_vps3 import backup_vps3
from flows.restore_peer_ledger import restore_peer_ledger
from gxbackup.adapters.volumes import Volume
from gxbackup.errors import IncompleteBackupError, RestoreRefusedError
from gxbackup.fabric import blocks
from gxbackup.fabric import layout as files
from gxbackup.model import Manifest
from gxbackup.sources import ledger
from tasks import host
from tests import fabric_network
from tests.fabric_network import CHANNEL, HEIGHT, BlockWriter
from tests.flows.conftest import Place
from tests.local_cluster import LocalCluster

POD = "peer0-org1-0"


@pytest.fixture
def peer(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LocalCluster:
    """An estate that plays vps3, whose one promise is the ledger of a stopped peer."""

    def reduce(document: dict[str, Any]) -> None:
        promised = document["servers"]["vps3"]["data_types"]
        promise = promised["peer-ledger"]
        promise["source"] = {**promise["source"], "node": "here"}
        promised.clear()
        promised["peer-ledger"] = promise

    place.create(reduce)
    place.play("vps3")
    cluster = LocalCluster({POD: fabric_network.unpack("peer0", tmp_path / "volumes")}, files.PRODUCTION["peer"])
    volume = Volume(name="pv", folder=cluster.volumes[POD], driver="local", nodes=("here",))
    monkeypatch.setattr(ledger, "volume_of", lambda *_: volume)
    monkeypatch.setattr("gxbackup.adapters.volumes.volume_of", lambda *_: volume)
    monkeypatch.setattr(ledger, "frozen", lambda *_: nullcontext())
    for path in cluster.volumes[POD].rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000), follow_symlinks=False)
    monkeypatch.setattr(host, "host", lru_cache(maxsize=1)(cluster.host))
    return cluster


def manifest(place: Place, snapshot: str) -> Manifest:
    return Manifest.model_validate_json((place.remote / "mainnet-vps3" / snapshot / "manifest.json").read_bytes())


def chains(cluster: LocalCluster) -> Path:
    return cluster.volumes[POD] / files.CHAINS["peer"]


def test_the_second_day_builds_on_the_first_and_both_bring_the_ledger_back(place: Place, peer: LocalCluster) -> None:
    writer = BlockWriter(chains(peer) / "channel2")
    writer.append(40, transaction_bytes=50_000)
    # A file that was written this very moment is sent again: its times could not show a change.
    os.utime(writer.file, (1_700_000_000, 1_700_000_000))
    writer.next_file()
    first = backup_vps3()
    writer.append(5)
    second = backup_vps3()
    (full,) = manifest(place, first).artifacts
    (differential,) = manifest(place, second).artifacts
    shutil.rmtree(peer.volumes[POD] / "ledgersData")

    restore_peer_ledger("vps3", mode="scratch")
    restore_peer_ledger("vps3", mode="in-place", approve=True)

    assert (full.base, differential.base) == (None, first)
    assert differential.plain_size_bytes < full.plain_size_bytes / 4
    assert blocks.heights(blocks.read_chains(chains(peer), check_data=True)) == {CHANNEL: HEIGHT, "channel2": 45}
    assert place.staged() == []


def test_a_plan_tells_the_heights_and_touches_nothing(peer: LocalCluster, caplog: pytest.LogCaptureFixture) -> None:
    backup_vps3()
    BlockWriter(chains(peer) / "channel2").append(1)

    with pytest.raises(RestoreRefusedError, match="channel2: 1 there, not in the backup"):
        restore_peer_ledger("vps3")
    restore_peer_ledger("vps3", allow_older=True)

    assert f"heights kept: {CHANNEL} {HEIGHT}; there now: channel2 1, {CHANNEL} {HEIGHT}" in caplog.text
    assert peer.scaled == []


def test_a_damaged_chain_is_kept_and_red_and_the_next_whole_one_builds_on_the_last_good(
    place: Place, peer: LocalCluster
) -> None:
    backup_vps3()
    block_file = chains(peer) / CHANNEL / "blockfile_000000"
    whole = block_file.read_bytes()
    block_file.write_bytes(whole[:60_000] + whole[60_007:])

    with pytest.raises(IncompleteBackupError, match=f"channel {CHANNEL}: .*blockfile_000000"):
        backup_vps3()
    block_file.write_bytes(whole)
    last = backup_vps3()

    (artifact,) = manifest(place, last).artifacts
    assert artifact.evidence["heights"] == {CHANNEL: HEIGHT}
    assert artifact.base is not None
