"""What a run reads of manifests: each once where the remote lists hashes, and never on the word of a cache."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gxbackup import catalog, layout, signing
from gxbackup.inventory import Inventory
from gxbackup.model import Artifact, Catalog, Manifest, Part
from tests.conformance.conftest import Lab
from tests.conformance.drive_emulator import Emulator

KEY = Ed25519PrivateKey.generate()
START = datetime(2026, 11, 22, 2, tzinfo=UTC)
DAYS = (0, 1)


def inventory(lab: Lab, key: Ed25519PrivateKey = KEY) -> Inventory:
    website = {"source": {"kind": "directory", "root": "/srv"}, "rpo_hours": 24, "keep_days": 30}
    server = {"runs_on": "vps1", "remote_dir": "vps1-website", "data_types": {"website": website}}
    return Inventory.model_validate(
        {
            "remote": {"path": lab.root},
            "hosts": {"vps1": {"pool": "vps1", "signers": [signing.public_text(key)]}},
            "servers": {"vps1": server},
        }
    )


def manifest(day: int) -> Manifest:
    moment = START + timedelta(days=day)
    digest = f"{day:064d}"
    part = Part(path="files/website/website.tar.zst.age", size_bytes=1, sha256=digest)
    artifact = Artifact(
        data_type="website", kind="directory", path=part.path, parts=(part,), keep_days=30, sealed_size_bytes=1,
        sealed_sha256=digest, plain_size_bytes=1, plain_sha256=digest,
    )  # fmt: skip
    return Manifest(
        snapshot=layout.snapshot_id(moment), server="vps1", host="vps1", started_at=moment, finished_at=moment,
        complete=True, artifacts=(artifact,),
    )  # fmt: skip


@pytest.fixture
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "staging"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("GX_STAGING_DIR", str(folder))
    return folder


def publish(lab: Lab, tmp_path: Path) -> None:
    for day in DAYS:
        area = tmp_path / f"day-{day}"
        area.mkdir()
        catalog.publish(lab.remote(), manifest(day), "page", KEY, "vps1-website", area)


def load(lab: Lab, scratch: Path, key: Ed25519PrivateKey = KEY) -> Catalog:
    return catalog.load(lab.remote(), inventory(lab, key), "vps1", scratch)


def held(found: Catalog) -> list[str]:
    return [each.snapshot for each in found.snapshots]


def cached(staging: Path) -> list[Path]:
    return sorted(file for file in staging.rglob("manifests/*/*") if file.is_file())


@pytest.fixture
def stocked(drive_lab: Lab, staging: Path, tmp_path: Path) -> Lab:
    """Two snapshots on the emulated Google Drive, read once."""
    publish(drive_lab, tmp_path)
    assert held(load(drive_lab, tmp_path)) == [manifest(day).snapshot for day in DAYS]
    return drive_lab


def test_what_was_read_once_is_not_read_again(stocked: Lab, drive: Emulator, staging: Path, tmp_path: Path) -> None:
    first = load(stocked, tmp_path)
    drive.drive.log.clear()

    assert load(stocked, tmp_path) == first

    assert [line for line in drive.drive.log if "alt=media" in line] == []
    assert len(cached(staging)) == 4
    assert {file.parent.stat().st_mode & 0o777 for file in cached(staging)} == {0o700}


def test_only_the_new_one_is_read(stocked: Lab, drive: Emulator, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    catalog.publish(stocked.remote(), manifest(2), "page", KEY, "vps1-website", tmp_path / "new")
    drive.drive.log.clear()

    assert len(held(load(stocked, tmp_path))) == 3

    assert len([line for line in drive.drive.log if "alt=media" in line]) == 2


def test_a_manifest_that_was_changed_on_the_remote_is_found(stocked: Lab, tmp_path: Path) -> None:
    changed = manifest(0).encoded().replace(b'"keep_days": 30', b'"keep_days": 31')
    stocked.put(f"vps1-website/{manifest(0).snapshot}/manifest.json", changed)

    found = load(stocked, tmp_path)

    assert held(found) == [manifest(1).snapshot]
    assert "not signed by a trusted host" in found.rejected[0].reason


def test_a_signer_that_is_trusted_no_more_is_found(stocked: Lab, tmp_path: Path) -> None:
    found = load(stocked, tmp_path, Ed25519PrivateKey.generate())

    assert held(found) == []
    assert len(found.rejected) == 2


def test_a_cache_that_was_tampered_with_is_not_believed(stocked: Lab, staging: Path, tmp_path: Path) -> None:
    for file in cached(staging):
        file.write_bytes(file.read_bytes().replace(b'"keep_days": 30', b'"keep_days": 31') + b" ")

    found = load(stocked, tmp_path)

    assert held(found) == [manifest(day).snapshot for day in DAYS]
    assert found.snapshots[0].manifest.artifacts[0].keep_days == 30


def test_what_is_gone_from_the_remote_is_forgotten(stocked: Lab, staging: Path, tmp_path: Path) -> None:
    stocked.remote().delete_file(f"vps1-website/{manifest(0).snapshot}/manifest.json")

    assert held(load(stocked, tmp_path)) == [manifest(1).snapshot]

    assert len(cached(staging)) == 2


def test_where_the_remote_lists_no_hash_nothing_is_kept(local_lab: Lab, staging: Path, tmp_path: Path) -> None:
    publish(local_lab, tmp_path)

    assert len(held(load(local_lab, tmp_path))) == 2

    assert cached(staging) == []
