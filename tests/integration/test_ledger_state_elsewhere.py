"""A peer that keeps its state in CouchDB: its restore says that it did not touch that, and what follows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.integration.fabric_ledgers import PEER, SOURCES, capture
from tests.local_cluster import LocalCluster
from tests.opened import work

SOURCE = SOURCES["peer"]


@pytest.mark.parametrize("known_by", ["the copy", "what is there"])
def test_a_peer_with_its_state_in_couchdb_is_restored_with_the_word_that_databases_above_it_keep_it_shut(
    peer: LocalCluster, tmp_path: Path, known_by: str
) -> None:
    shutil.rmtree(peer.volumes[PEER] / "ledgersData" / "stateLeveldb")  # Fabric makes none beside a CouchDB
    plain = capture(peer, tmp_path / "day 0")
    if known_by == "the copy":
        shutil.rmtree(peer.volumes[PEER] / "ledgersData")
    else:
        plain.capture.settings.pop("state_in_couchdb", None)  # a copy of an earlier version

    planned = SOURCE.preview(peer.host(), work(tmp_path, plain))
    told = SOURCE.apply(peer.host(), work(tmp_path, plain))

    for line in (planned[2], told[-1]):
        assert line.startswith(f"{PEER}: its state lies in CouchDB")
        assert line.endswith("drop them: restore-couchdb in place")


def test_a_peer_with_its_state_beside_its_blocks_hears_nothing_of_couchdb(peer: LocalCluster, tmp_path: Path) -> None:
    plain = capture(peer, tmp_path / "day 0")

    told = [*SOURCE.preview(peer.host(), work(tmp_path, plain)), *SOURCE.apply(peer.host(), work(tmp_path, plain))]

    assert not any("CouchDB" in line for line in told)
