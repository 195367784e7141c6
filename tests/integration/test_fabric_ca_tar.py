"""A CA in an image with BusyBox, as Fabric's own are: its tar ends with another status where it cannot read a file."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gxbackup.errors import CommandError
from gxbackup.sources.fabric_crypto import FabricCrypto
from tests.integration.test_fabric_crypto import make_ca
from tests.local_cluster import VOLUME, LocalCluster
from tests.opened import read

CA = "ca-org1"
SOURCE = FabricCrypto(cas=(CA,), folders=(VOLUME,), with_secrets=False, cainfo_port=0)
NOBODY = 65534


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    """A CA whose tar is BusyBox's and runs as its own user, who owns the CA's home."""
    tar = tmp_path / "bin" / "tar"
    tar.parent.mkdir()
    # Another user finds no way through the folder of this test.
    program = f"setpriv --reuid={NOBODY} --clear-groups busybox tar"
    tar.write_text(f'#!/bin/sh\nexec {program} "$@"\n')
    tar.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tar.parent}:{os.environ['PATH']}")
    with tempfile.TemporaryDirectory(prefix="gx-test-ca-", dir="/var/tmp") as made:
        Path(made).chmod(0o755)
        make_ca(Path(made, CA), CA)
        for path in Path(made).rglob("*"):
            shutil.chown(path, NOBODY)
        yield LocalCluster({f"{CA}-0": Path(made, CA)})


def test_a_home_that_busybox_can_read_is_whole(cluster: LocalCluster, tmp_path: Path) -> None:
    (found,) = SOURCE.collect(cluster.host(), "fabric-crypto")

    assert read(SOURCE, cluster.host(), found, tmp_path).end.shortfalls == ()


def test_a_file_that_busybox_cannot_read_is_an_error(cluster: LocalCluster, tmp_path: Path) -> None:
    key = cluster.volumes[f"{CA}-0"] / "fabric-ca-server" / "msp" / "keystore" / "of-root_sk"
    key.parent.mkdir(parents=True, exist_ok=True)
    key.touch(mode=0o600)
    (found,) = SOURCE.collect(cluster.host(), "fabric-crypto")

    with pytest.raises(CommandError, match="of-root_sk"):
        read(SOURCE, cluster.host(), found, tmp_path)
