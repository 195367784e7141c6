"""A volume that is a folder of its node is restored on the node whose pod reads it, and on no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gxbackup.adapters import volumes
from gxbackup.adapters.volumes import Volume
from gxbackup.errors import RestoreRefusedError
from tests.local_cluster import LocalCluster

POD = "peer0-org1-0"


def test_a_folder_that_each_node_has_is_not_taken_for_that_of_another_ones_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster: Any = LocalCluster({POD: tmp_path})
    volume = Volume(name="pv", folder=tmp_path, driver="hostPath", nodes=())
    monkeypatch.setattr(volumes, "volume_of", lambda *_: volume)

    def folder_on(node: str) -> Path | None:
        return volumes.used_at(cluster, "fabric", f"data-{POD}", node=node, kubelet_dir=tmp_path)

    assert folder_on("here") == tmp_path
    with pytest.raises(RestoreRefusedError, match="on node vps4, seen it on here"):
        folder_on("vps4")
    cluster.stopped.add(POD)
    assert folder_on("vps4") == tmp_path
