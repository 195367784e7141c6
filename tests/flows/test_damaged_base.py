"""Nothing is built on a level 0 that the remote does not hold any more as it was sent: all is kept anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.backup_vps3 import backup_vps3
from flows.restore_peer_ledger import restore_peer_ledger
from gxbackup.fabric import layout as files
from gxbackup.model import Manifest
from tests.conformance import drive_emulator
from tests.conformance.drive_emulator import Emulator
from tests.fabric_network import BlockWriter
from tests.flows.conftest import Place
from tests.flows.test_duplicates import reach
from tests.flows.test_fabric_ledgers import POD, Ledgers

FOLDER = ("gx-backups", "mainnet-vps3")


def manifest(emulator: Emulator, snapshot: str) -> Manifest:
    (there,) = emulator.drive.find(*FOLDER, snapshot, "manifest.json")
    return Manifest.model_validate_json(there.body)


def test_a_level_0_that_rots_on_the_remote_bears_no_other_day(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with drive_emulator.running(tmp_path) as emulator:
        reach(emulator, place, monkeypatch)
        ledgers = Ledgers(place, monkeypatch, "drive:gx-backups", vps3="peer")
        peer = ledgers.node("peer", POD, tmp_path / "volumes")
        ledgers.play("vps3", peer)
        first = backup_vps3()
        second = backup_vps3()
        (full,) = manifest(emulator, first).artifacts
        (stored,) = emulator.drive.find(*FOLDER, first, *full.parts[0].path.split("/"))
        stored.body = stored.body[:-1] + bytes([stored.body[-1] ^ 1])
        BlockWriter(peer.volumes[POD] / files.CHAINS["peer"] / "channel2").append(5)

        third = backup_vps3()
        restore_peer_ledger("vps3", mode="scratch")

        assert [manifest(emulator, each).artifacts[0].base for each in (second, third)] == [first, None]
        assert "what it would build on is damaged, so all of it is kept anew" in caplog.text
