"""Where a ledger lies may change, and a pod may lay links in it: what is kept and put back stays where it belongs."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

from gxbackup.errors import SourceMissingError
from gxbackup.fabric import blocks
from gxbackup.fabric import layout as files
from gxbackup.frozen_copy import OURS
from gxbackup.sources import ledger
from tests import fabric_network
from tests.fabric_network import CHANNEL, HEIGHT
from tests.integration.fabric_ledgers import PEER, SOURCES, capture, cluster_of
from tests.local_cluster import LocalCluster
from tests.opened import read, work

SOURCE = SOURCES["peer"]


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LocalCluster:
    """A peer with a real ledger, in a folder below its claim's: /var/hyperledger is mounted, not production."""
    volume = tmp_path / "volume"
    volume.mkdir()
    fabric_network.unpack("peer0", tmp_path / "golden").rename(volume / "production")
    cluster = cluster_of(monkeypatch, "peer", peer0_org1_0=volume)
    cluster.mount = str(Path(files.PRODUCTION["peer"]).parent)
    monkeypatch.setattr(ledger, "frozen", lambda uid, label: nullcontext())
    return cluster


def test_what_was_kept_without_a_claim_goes_onto_the_one_that_its_pod_was_given_since(
    peer: LocalCluster, tmp_path: Path
) -> None:
    plain = capture(peer, tmp_path / "day 0")
    for setting in ("claim", "below", "statefulset"):
        del plain.capture.settings[setting]
    shutil.rmtree(peer.volumes[PEER] / "production" / "ledgersData")

    (told,) = SOURCE.apply(peer.host(), work(tmp_path, plain))

    there = peer.volumes[PEER] / "production"
    assert told.startswith(f"{PEER}: restored and started at {CHANNEL} {HEIGHT}")
    assert blocks.heights(blocks.read_chains(there / files.CHAINS["peer"], check_data=True)) == {CHANNEL: HEIGHT}
    assert peer.scaled == [("peer0-org1", 0), ("peer0-org1", 1)]


def test_a_link_that_leads_out_of_the_volume_is_followed_neither_by_a_backup_nor_by_a_restore(
    peer: LocalCluster, tmp_path: Path
) -> None:
    plain = capture(peer, tmp_path / "day 0")
    of_the_host = tmp_path / "of the host"
    (peer.volumes[PEER] / "production").rename(of_the_host)
    (peer.volumes[PEER] / "production").symlink_to(of_the_host)
    before = sorted(of_the_host.rglob("*"))

    for step in (SOURCE.preview, SOURCE.apply):
        with pytest.raises(SourceMissingError, match=f"seen a link to {of_the_host}"):
            step(peer.host(), work(tmp_path, plain))
    with pytest.raises(SourceMissingError, match=f"seen a link to {of_the_host}"):
        SOURCE.collect(peer.host(), "peer-ledger")

    assert sorted(of_the_host.rglob("*")) == before
    assert peer.scaled == []


def test_a_link_that_lies_where_the_copy_is_kept_is_removed_and_what_it_leads_to_stays(
    peer: LocalCluster, tmp_path: Path
) -> None:
    of_the_host = tmp_path / "of the host"
    of_the_host.mkdir()
    (of_the_host / "passwd").touch()
    production = peer.volumes[PEER] / "production"
    area = production.parent / f"{OURS}frozen-production"
    area.symlink_to(of_the_host)

    first = capture(peer, tmp_path / "day 0")

    assert first.end.evidence["heights"] == {CHANNEL: HEIGHT}
    assert [path.name for path in of_the_host.iterdir()] == ["passwd"]
    assert area.is_dir()
    assert not area.is_symlink()
    shutil.rmtree(area)
    area.mkdir()
    (area / "tree").symlink_to(of_the_host)
    shutil.chown(area, 1000)
    second = read(SOURCE, peer.host(), SOURCE.collect(peer.host(), "peer-ledger")[0], tmp_path)

    assert second.end.evidence["heights"] == {CHANNEL: HEIGHT}
    assert [path.name for path in of_the_host.iterdir()] == ["passwd"]
    assert area.stat().st_uid == 0
