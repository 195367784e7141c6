"""Chaincode packages, read from peers and put back: a real package, and every way a peer can disagree with it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gxbackup.errors import CollectError, CommandError, IntegrityError, RestoreRefusedError, SourceMissingError
from gxbackup.sources.chaincode import Chaincode
from tests.fabric_network import PACKAGE
from tests.local_cluster import VOLUME, LocalCluster
from tests.opened import read, work

SOURCE = Chaincode(packages_dir=f"{VOLUME}/lifecycle/chaincodes")
PACKAGE_ID = "gx_1:c2900150623967f132a2abc122d711bfe7946e09dd9e9ec356c5dfebf5ef7bfd"


@pytest.fixture
def cluster(tmp_path: Path) -> LocalCluster:
    volumes = {name: tmp_path / name for name in ("peer0-org1-0", "peer0-org2-0")}
    for volume in volumes.values():
        (volume / "lifecycle" / "chaincodes").mkdir(parents=True)
        shutil.copy(PACKAGE, volume / "lifecycle" / "chaincodes")
    return LocalCluster(volumes)


def add(cluster: LocalCluster, peer: str, label: str, content: bytes) -> Path:
    file = cluster.volumes[peer] / "lifecycle" / "chaincodes" / f"{label}.{hashlib.sha256(content).hexdigest()}.tar.gz"
    file.write_bytes(content)
    return file


def test_every_package_of_every_peer_is_taken_once_and_named_by_its_id(cluster: LocalCluster, tmp_path: Path) -> None:
    token = add(cluster, "peer0-org2-0", "token-2.1", os.urandom(3_000_000))

    (capture,) = SOURCE.collect(cluster.host(), "chaincode-packages")
    plain = read(SOURCE, cluster.host(), capture, tmp_path)

    token_id = f"token-2.1:{hashlib.sha256(token.read_bytes()).hexdigest()}"
    assert capture.evidence["packages"] == [PACKAGE_ID, token_id]
    assert capture.evidence["peers"] == {"peer0-org1-0": [PACKAGE_ID], "peer0-org2-0": [PACKAGE_ID, token_id]}
    subprocess.run(["tar", "-xf", plain.file, "-C", tmp_path], check=True)
    assert (tmp_path / PACKAGE.name).read_bytes() == PACKAGE.read_bytes()
    assert (tmp_path / token.name).read_bytes() == token.read_bytes()
    assert plain.end.shortfalls == ()


def test_equal_packages_make_equal_bytes(cluster: LocalCluster, tmp_path: Path) -> None:
    first = read(SOURCE, cluster.host(), SOURCE.collect(cluster.host(), "c")[0], tmp_path).file.read_bytes()
    for volume in cluster.volumes.values():
        os.utime(volume / "lifecycle" / "chaincodes" / PACKAGE.name, (0, 0))

    assert read(SOURCE, cluster.host(), SOURCE.collect(cluster.host(), "c")[0], tmp_path).file.read_bytes() == first


def test_a_damaged_package_is_told_and_the_good_one_of_another_peer_is_taken(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    (cluster.volumes["peer0-org1-0"] / "lifecycle" / "chaincodes" / PACKAGE.name).write_bytes(b"damaged")

    plain = read(SOURCE, cluster.host(), SOURCE.collect(cluster.host(), "c")[0], tmp_path)

    assert plain.capture.evidence["packages"] == [PACKAGE_ID]
    (shortfall,) = plain.end.shortfalls
    assert "peer0-org1-0" in shortfall
    assert "expected the sha256 in its name" in shortfall


def test_a_peer_that_is_down_is_a_shortfall_and_the_others_are_kept(cluster: LocalCluster, tmp_path: Path) -> None:
    cluster.not_ready = {"peer0-org2-0"}

    plain = read(SOURCE, cluster.host(), SOURCE.collect(cluster.host(), "c")[0], tmp_path)

    assert plain.capture.evidence["peers"] == {"peer0-org1-0": [PACKAGE_ID]}
    assert len(plain.end.shortfalls) == 1
    assert "peer0-org2-0" in plain.end.shortfalls[0]


def test_a_peer_that_has_no_pod_any_more_is_missed_until_it_is_said_to_be_retired(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    (before,) = SOURCE.collect(cluster.host(), "c")
    last_good = [read(SOURCE, cluster.host(), before, tmp_path).opened().artifact]
    cluster.stopped = {"peer0-org2-0"}

    (capture,) = SOURCE.collect_since(cluster.host(), "c", last_good)
    retired = SOURCE.model_copy(update={"retired": ("peer0-org2-0",)})

    assert (
        "peer0-org2-0: expected as in the last good copy, seen none"
        in read(SOURCE, cluster.host(), capture, tmp_path).end.shortfalls[0]
    )
    (quiet,) = retired.collect_since(cluster.host(), "c", last_good)
    assert read(retired, cluster.host(), quiet, tmp_path).end.shortfalls == ()


def test_peers_without_any_package_are_no_backup(tmp_path: Path) -> None:
    (tmp_path / "peer-0" / "lifecycle" / "chaincodes").mkdir(parents=True)

    with pytest.raises(SourceMissingError, match="expected packages on 1 peers"):
        SOURCE.collect(LocalCluster({"peer-0": tmp_path / "peer-0"}).host(), "c")


def test_a_package_that_is_replaced_after_it_was_listed_ends_the_reading(cluster: LocalCluster, tmp_path: Path) -> None:
    (capture,) = SOURCE.collect(cluster.host(), "c")
    for volume in cluster.volumes.values():
        (volume / "lifecycle" / "chaincodes" / PACKAGE.name).write_bytes(b"x" * PACKAGE.stat().st_size)

    with pytest.raises(IntegrityError, match="changed while it was read"):
        read(SOURCE, cluster.host(), capture, tmp_path)


def test_a_package_that_vanishes_after_it_was_listed_ends_the_reading(cluster: LocalCluster, tmp_path: Path) -> None:
    (capture,) = SOURCE.collect(cluster.host(), "c")
    for volume in cluster.volumes.values():
        (volume / "lifecycle" / "chaincodes" / PACKAGE.name).unlink()

    with pytest.raises(CommandError, match="No such file"):
        read(SOURCE, cluster.host(), capture, tmp_path)


def test_a_restore_gives_each_peer_what_it_had_with_its_owner_and_leaves_the_rest(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    token = add(cluster, "peer0-org2-0", "token-2.1", os.urandom(100_000))
    plain = read(SOURCE, cluster.host(), SOURCE.collect(cluster.host(), "c")[0], tmp_path)
    content = token.read_bytes()
    for volume in cluster.volumes.values():
        os.chown(volume / "lifecycle" / "chaincodes", 1234, 1235)
    token.unlink()
    newer = add(cluster, "peer0-org2-0", "newer", b"installed since")
    restore = work(tmp_path, plain)
    assert "added: " + token.name in SOURCE.preview(cluster.host(), restore)

    SOURCE.rehearse(cluster.host(), restore)
    SOURCE.apply(cluster.host(), restore)

    assert token.read_bytes() == content
    assert (token.stat().st_uid, token.stat().st_gid, token.stat().st_mode & 0o777) == (1234, 1235, 0o600)
    assert newer.exists()
    assert not (cluster.volumes["peer0-org1-0"] / "lifecycle" / "chaincodes" / token.name).exists()
    assert cluster.deleted == ["peer0-org2-0"]
    assert SOURCE.apply(cluster.host(), restore) == [
        "peer0-org1-0: 0 packages put back",
        "peer0-org2-0: 0 packages put back",
    ]


def test_a_package_that_was_damaged_is_replaced_and_told(cluster: LocalCluster, tmp_path: Path) -> None:
    plain = read(SOURCE, cluster.host(), SOURCE.collect(cluster.host(), "c")[0], tmp_path)
    damaged = cluster.volumes["peer0-org1-0"] / "lifecycle" / "chaincodes" / PACKAGE.name
    os.truncate(damaged, 100)
    restore = work(tmp_path, plain)
    assert "peer0-org1-0: 1 of 1 packages are missing or damaged there" in SOURCE.preview(cluster.host(), restore)

    SOURCE.apply(cluster.host(), restore)

    assert damaged.read_bytes() == PACKAGE.read_bytes()
    assert cluster.deleted == ["peer0-org1-0"]


def test_a_peer_that_was_not_started_again_is_so_by_the_next_run(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = read(SOURCE, cluster.host(), SOURCE.collect(cluster.host(), "c")[0], tmp_path)
    (cluster.volumes["peer0-org2-0"] / "lifecycle" / "chaincodes" / PACKAGE.name).unlink()
    restore = work(tmp_path, plain)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cluster, "delete_pod", killed)
        with pytest.raises(KeyboardInterrupt):
            SOURCE.apply(cluster.host(), restore)

    assert any("peer0-org2-0: a restore that was cut" in line for line in SOURCE.preview(cluster.host(), restore))
    assert SOURCE.apply(cluster.host(), restore) == [
        "peer0-org1-0: 0 packages put back",
        "peer0-org2-0: 0 packages put back",
        "peer0-org2-0: started again, so that it knows them",
    ]
    assert cluster.deleted == ["peer0-org2-0"]
    assert len(SOURCE.apply(cluster.host(), restore)) == len(cluster.volumes)


def test_who_may_not_start_a_peer_again_puts_no_package_there(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = read(SOURCE, cluster.host(), SOURCE.collect(cluster.host(), "c")[0], tmp_path)
    package = cluster.volumes["peer0-org2-0"] / "lifecycle" / "chaincodes" / PACKAGE.name
    package.unlink()

    def forbidden(*_: object) -> int:
        raise CollectError("statefulset fabric/peer0-org2: expected to be allowed, seen 403")

    monkeypatch.setattr(cluster, "replicas", forbidden)
    with pytest.raises(CollectError, match="403"):
        SOURCE.apply(cluster.host(), work(tmp_path, plain))

    assert not package.exists()


def test_a_named_peer_that_the_backup_does_not_know_gets_all_packages(cluster: LocalCluster, tmp_path: Path) -> None:
    plain = read(SOURCE, cluster.host(), SOURCE.collect(cluster.host(), "c")[0], tmp_path)
    cluster.volumes["peer1-org1-0"] = tmp_path / "peer1-org1-0"
    cluster.volumes["peer1-org1-0"].mkdir()

    SOURCE.apply(cluster.host(), work(tmp_path, plain, peers=["peer1-org1-0"], restart=False))

    assert (tmp_path / "peer1-org1-0" / "lifecycle" / "chaincodes" / PACKAGE.name).exists()
    assert cluster.deleted == []


def test_an_artifact_with_a_changed_package_is_refused(cluster: LocalCluster, tmp_path: Path) -> None:
    plain = read(SOURCE, cluster.host(), SOURCE.collect(cluster.host(), "c")[0], tmp_path)
    damaged = bytearray(plain.file.read_bytes())
    damaged[600] ^= 1
    plain.file.write_bytes(damaged)

    with pytest.raises(RestoreRefusedError, match="its content has sha256"):
        SOURCE.preview(cluster.host(), work(tmp_path, plain))
