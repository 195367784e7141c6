"""A peer's ledger through backup and restore as an operator starts them: two days, one of them a differential."""

from __future__ import annotations

import os
import shutil
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.backup_vps3 import backup_vps3
from flows.backup_vps4 import backup_vps4
from flows.check_backup_health import check_backup_health
from flows.restore_orderer_ledger import restore_orderer_ledger
from flows.restore_peer_ledger import restore_peer_ledger
from gxbackup import catalog
from gxbackup.adapters.volumes import Volume
from gxbackup.errors import IncompleteBackupError, RemoteError, RestoreRefusedError, UnprovenError
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


class Ledgers:
    """An estate of servers that promise ledgers alone; each is played with a stopped node of its own."""

    def __init__(self, place: Place, monkeypatch: pytest.MonkeyPatch, remote: str = "", **roles: str) -> None:
        self.place = place
        self._monkeypatch = monkeypatch
        self._volumes: dict[str, Path] = {}
        monkeypatch.setattr("gxbackup.adapters.volumes.volume_of", self._volume_of)
        monkeypatch.setattr(ledger, "frozen", lambda *_: nullcontext())

        def reduce(document: dict[str, Any]) -> None:
            for server, role in roles.items():
                promise = document["servers"][server]["data_types"][f"{role}-ledger"]
                promise["source"] = {**promise["source"], "node": "here"}
                document["servers"][server]["data_types"] = {f"{role}-ledger": promise}
            document["servers"] = {server: document["servers"][server] for server in roles}
            document["watch"] = {}
            document["remote"]["path"] = remote or document["remote"]["path"]

        place.create(reduce)

    def _volume_of(self, cluster: object, namespace: str, claim: str) -> Volume:
        return Volume(name="pv", folder=self._volumes[claim], driver="local", nodes=("here",))

    def node(self, role: str, pod: str, into: Path, channel2: int = 0) -> LocalCluster:
        """Return a cluster of this node alone, with a real ledger and so many blocks of a second channel."""
        name = {"peer": "peer0", "orderer": "orderer1"}[role]
        cluster = LocalCluster({pod: fabric_network.unpack(name, into)}, files.PRODUCTION[role])
        self._volumes[f"data-{pod}"] = cluster.volumes[pod]
        if channel2:
            BlockWriter(cluster.volumes[pod] / files.CHAINS[role] / "channel2").append(channel2)
        for path in cluster.volumes[pod].rglob("*"):
            os.utime(path, (1_700_000_000, 1_700_000_000), follow_symlinks=False)
        return cluster

    def play(self, server: str, cluster: LocalCluster) -> None:
        """Be this host from now on."""
        self.place.play(server)
        self._monkeypatch.setattr(host, "host", lru_cache(maxsize=1)(cluster.host))


@pytest.fixture
def peer(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LocalCluster:
    """An estate that plays vps3, whose one promise is the ledger of a stopped peer."""
    ledgers = Ledgers(place, monkeypatch, vps3="peer")
    cluster = ledgers.node("peer", POD, tmp_path / "volumes")
    ledgers.play("vps3", cluster)
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


def test_after_the_keys_were_replaced_a_ledger_opens_with_the_new_ones_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ledgers = Ledgers(place, monkeypatch, vps3="peer")
    cluster = ledgers.node("peer", POD, tmp_path / "volumes")
    ledgers.play("vps3", cluster)
    backup_vps3()
    BlockWriter(chains(cluster) / "channel2").append(1)
    document = yaml.safe_load(place.inventory_file.read_text())
    document["recipients"] = {name: place._age_key(f"new-{name}") for name in ("recovery", "rehearsal")}
    place.inventory_file.write_text(yaml.safe_dump(document))
    ledgers.play("vps3", cluster)

    fresh, following = backup_vps3(), backup_vps3()
    monkeypatch.setenv("GX_IDENTITY_FILE", str(place.root / "keys" / "new-recovery.txt"))
    restore_peer_ledger("vps3", mode="scratch")

    assert [manifest(place, snapshot).artifacts[0].base for snapshot in (fresh, following)] == [None, fresh]


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


def test_orderers_come_back_where_another_host_holds_them_at_the_same_height(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledgers = Ledgers(place, monkeypatch, vps3="orderer", vps4="orderer")
    here = ledgers.node("orderer", "orderer0-0", tmp_path / "vps3", channel2=3)
    there = ledgers.node("orderer", "orderer1-0", tmp_path / "vps4", channel2=3)
    ledgers.play("vps4", there)
    even = backup_vps4()
    channel2 = there.volumes["orderer1-0"] / files.CHAINS["orderer"] / "channel2"
    shutil.rmtree(channel2)
    BlockWriter(channel2).append(5)
    backup_vps4()
    ledgers.play("vps3", here)
    backup_vps3()
    shutil.rmtree(here.volumes["orderer0-0"] / "chains")

    restore_orderer_ledger("vps3", mode="in-place", approve=True)

    chains_there = here.volumes["orderer0-0"] / files.CHAINS["orderer"]
    assert blocks.heights(blocks.read_chains(chains_there, check_data=True)) == {CHANNEL: HEIGHT, "channel2": 3}
    assert here.scaled[:2] == [("orderer0", 0), ("orderer0", 0)]
    assert here.scaled[-1] == ("orderer0", 1)
    assert f"vps4 orderer-ledger: {even} belongs together with this, and none that is newer" in caplog.text
    assert place.staged() == []


def test_orderers_that_other_hosts_hold_at_another_height_alone_are_refused_with_the_heights_before_the_first_byte(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledgers = Ledgers(place, monkeypatch, vps3="orderer", vps4="orderer")
    here = ledgers.node("orderer", "orderer0-0", tmp_path / "vps3", channel2=3)
    ledgers.play("vps4", ledgers.node("orderer", "orderer1-0", tmp_path / "vps4", channel2=5))
    backup_vps4()
    ledgers.play("vps3", here)
    backup_vps3()

    with pytest.raises(RestoreRefusedError, match="channel channel2: orderer0-0 at 3, orderer1-0 at 5") as refused:
        restore_orderer_ledger("vps3", mode="in-place", allow_older=True, approve=True)
    assert "no height is held of 2 of the 2 orderers" in str(refused.value)
    assert "put no orderer's copy onto another" in str(refused.value)
    restore_orderer_ledger("vps3", unmatched=True)
    load = catalog.load

    def cut_off(remote: Any, inventory: Any, server: str, scratch: Path) -> Any:
        if server == "vps4":
            raise RemoteError("mainnet-vps4: listing: connection reset")
        return load(remote, inventory, server, scratch)

    monkeypatch.setattr(catalog, "load", cut_off)
    restore_orderer_ledger("vps3")

    assert here.scaled == []
    assert "vps4: its copies are not compared, they could not be listed: mainnet-vps4: listing" in caplog.text


def test_a_peer_above_the_orderers_that_another_host_holds_is_told_and_refused_unless_orderers_run(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledgers = Ledgers(place, monkeypatch, vps3="peer", vps4="orderer")
    here = ledgers.node("peer", POD, tmp_path / "vps3", channel2=5)
    orderer = ledgers.node("orderer", "orderer1-0", tmp_path / "vps4", channel2=3)
    ledgers.play("vps4", orderer)
    backup_vps4()
    ledgers.play("vps3", here)
    backup_vps3()

    with pytest.raises(UnprovenError, match="Fabric fabric"):
        check_backup_health()
    with pytest.raises(RestoreRefusedError, match=f"peer {POD} is at height 5, orderer orderer1-0 only at 3"):
        restore_peer_ledger("vps3", mode="in-place", allow_older=True, approve=True)
    restore_peer_ledger("vps3", unmatched=True)
    assert f"Fabric fabric: the newest copies do not belong together: channel channel2: peer {POD} is" in caplog.text
    here.volumes["orderer1-0"] = orderer.volumes["orderer1-0"]
    here.mounts["orderer1-0"] = "/elsewhere"  # it runs, and its volume is not on this node
    restore_peer_ledger("vps3")

    assert here.scaled == []
