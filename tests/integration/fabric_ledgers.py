"""Peers and orderers with real ledgers as stopped nodes, read as a backup reads them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gxbackup import clock, layout
from gxbackup.adapters.volumes import Volume
from gxbackup.fabric import layout as files
from gxbackup.model import Artifact
from gxbackup.sources.ledger import Ledger
from tests.fabric_network import BlockWriter
from tests.local_cluster import LocalCluster
from tests.opened import Read, read

PEER, ORDERER = "peer0-org1-0", "orderer0-0"
SOURCES = {role: Ledger(role=role, node="here") for role in ("peer", "orderer")}


def cluster_of(monkeypatch: pytest.MonkeyPatch, role: str, **volumes: Path) -> LocalCluster:
    cluster = LocalCluster({name.replace("_", "-"): folder for name, folder in volumes.items()}, files.PRODUCTION[role])

    def volume_of(asked: object, namespace: str, claim: str) -> Volume:
        folder = cluster.volumes[claim.removeprefix("data-")]
        return Volume(name="pv", folder=folder, driver="local", nodes=("here",))

    monkeypatch.setattr("gxbackup.adapters.volumes.volume_of", volume_of)
    return cluster


def capture(cluster: LocalCluster, into: Path, *last_good: Artifact, role: str = "peer") -> Read:
    (found,) = SOURCES[role].collect_since(cluster.host(), f"{role}-ledger", last_good)
    into.mkdir(exist_ok=True)
    return read(SOURCES[role], cluster.host(), found, into)


def held(plain: Read, snapshot: str | None = None) -> Artifact:
    """Return the artifact as the newest good copy tells it."""
    return plain.opened().artifact.model_copy(update={"held_in": snapshot or layout.snapshot_id(clock.now())})


def age(folder: Path) -> None:
    """Make files as old as those of a node are that nobody writes now."""
    for path in folder.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000), follow_symlinks=False)


def grow(cluster: LocalCluster, blocks_more: int = 5, channel: str = "channel2") -> None:
    BlockWriter(cluster.volumes[PEER] / files.CHAINS["peer"] / channel).append(blocks_more)
