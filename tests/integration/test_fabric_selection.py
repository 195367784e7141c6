"""What a restore of Fabric's data is told to put back by name: all of that, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from gxbackup.errors import RestoreRefusedError
from gxbackup.sources.fabric_crypto import FabricCrypto
from tests.integration.fabric_ledgers import PEER, SOURCES, capture, held
from tests.local_cluster import LocalCluster


def test_a_pod_that_the_snapshot_does_not_hold_is_not_left_out_in_silence(peer: LocalCluster, tmp_path: Path) -> None:
    artifact = held(capture(peer, tmp_path))

    with pytest.raises(RestoreRefusedError, match=f"pods: expected peer0-org2-0 in this snapshot, seen {PEER}"):
        SOURCES["peer"].select([artifact], {"pods": [PEER, "peer0-org2-0"]})

    assert SOURCES["peer"].select([artifact], {"pods": [PEER]}) == (artifact,)


def test_a_ca_that_the_snapshot_does_not_hold_is_not_left_out_in_silence(peer: LocalCluster, tmp_path: Path) -> None:
    like = held(capture(peer, tmp_path))
    ca = like.model_copy(update={"settings": {"ca": "ca-org1"}})
    secrets = like.model_copy(update={"settings": {}, "evidence": {"secrets": ["org3-admin"]}})

    with pytest.raises(RestoreRefusedError, match="expected ca-org2 in this snapshot, seen ca-org1, org3-admin"):
        FabricCrypto().select([ca, secrets], {"cas": ["ca-org1", "ca-org2"]})

    assert FabricCrypto().select([ca, secrets], {"cas": ["org1", "org3"]}) == (ca, secrets)
    assert FabricCrypto().select([ca, secrets], {}) == (ca, secrets)
