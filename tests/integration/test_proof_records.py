"""Proofs on a real remote: kept by every host, believed only with a trusted signature, never in another's place."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from estate import Estate

from gxbackup import inventory as inventories
from gxbackup import proof_records, signing
from gxbackup.adapters.rclone import Remote
from gxbackup.inventory import Inventory
from gxbackup.model import Catalog
from gxbackup.proofs import Proofs, Rehearsal

NOW = datetime(2026, 11, 28, 8, 0, tzinfo=UTC)
GOOD = Rehearsal(snapshot="20261127_020000", at=NOW, rto_seconds=12.5)


class Shelf:
    """A remote, its inventory, and vps3 that proves what lies there."""

    def __init__(self, root: Path) -> None:
        self.estate = Estate(root)
        self.estate.create()
        self.inventory: Inventory = inventories.load(self.estate.inventory_file)
        self.remote = Remote(self.inventory.remote, self.estate.staging)
        self.folder = self.estate.remote / "_proofs" / "vps1"

    def load(self) -> Proofs:
        return proof_records.load(self.remote, self.inventory, "vps1")

    def add(self, rehearsals: dict[str, Rehearsal], now: datetime = NOW, key: str = "vps3") -> Proofs:
        return proof_records.update(
            self.remote, self.inventory, "vps1", lambda before: before.with_rehearsals(rehearsals),
            signing.load_key(self.estate.signing_key(key)), self.estate.staging, now,
        )  # fmt: skip

    def names(self) -> list[str]:
        return sorted(file.name for file in self.folder.iterdir())


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "estate")


def test_what_was_proven_is_read_back_and_added_to(shelf: Shelf) -> None:
    assert shelf.load() == Proofs(server="vps1")

    shelf.add({"website": GOOD})
    shelf.add({"ssh-keys": GOOD.model_copy(update={"failure": "cut"})})

    assert shelf.load().rehearsed() == {"website": "20261127_020000"}
    assert set(shelf.load().last) == {"website", "ssh-keys"}


def test_records_of_one_moment_or_of_a_slow_clock_replace_none_and_the_old_ones_go(shelf: Shelf) -> None:
    moments = [NOW, NOW, NOW.replace(hour=7), NOW.replace(hour=9), NOW]
    for number, now in enumerate(moments):
        shelf.add({f"number-{number}": GOOD}, now)

    assert len(shelf.load().last) == len(moments)
    assert len(shelf.names()) == proof_records.KEPT
    assert [entry.name for entry in shelf.estate.staging.iterdir()] == []


@pytest.mark.parametrize(
    "forged",
    [
        pytest.param(b"", id="cut to nothing"),
        pytest.param(b'{"body": 1', id="cut"),
        pytest.param(json.dumps({"body": '{"server": "vps1"}', "signature": "AAAA"}).encode(), id="a stranger's"),
    ],
)
def test_a_forged_or_cut_record_proves_nothing_and_hides_nothing(shelf: Shelf, forged: bytes) -> None:
    shelf.add({"website": GOOD})
    (shelf.folder / "20291231_000000_000000.json").write_bytes(forged)

    assert shelf.load().rehearsed() == {"website": "20261127_020000"}
    shelf.add({"ssh-keys": GOOD})
    assert set(shelf.load().last) == {"website", "ssh-keys"}


def test_the_proofs_of_another_server_are_not_taken_for_this_ones(shelf: Shelf) -> None:
    shelf.add({"website": GOOD})
    other = shelf.folder.parent / "vps2"
    shelf.folder.rename(other)

    assert proof_records.load(shelf.remote, shelf.inventory, "vps2") == Proofs(server="vps2")


def test_what_the_remote_no_longer_holds_is_forgotten() -> None:
    proofs = Proofs(server="vps1").with_opened(["20261127_020000/files/website/website.tar.zst.age"], NOW)

    assert proofs.without_what_is_gone(Catalog(server="vps1", remote_dir="vps1-website")).opened == {}
