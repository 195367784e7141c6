"""A CA whose old home cannot be put back: it stays stopped, and the error says where that home lies."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gxbackup.adapters.places import LocalPlace
from gxbackup.errors import IntegrityError, RestoreError
from gxbackup.fabric import ca_restore
from gxbackup.fabric.ca_restore import CaRestore
from gxbackup.volume_exchange import VolumeExchange
from tests.integration.test_fabric_crypto import SOURCE, make_ca
from tests.local_cluster import VOLUME, LocalCluster
from tests.opened import Read, read, work


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    make_ca(tmp_path / "ca-root", "ca-root")
    return tmp_path / "ca-root"


@pytest.fixture
def cluster(volume: Path, monkeypatch: pytest.MonkeyPatch) -> LocalCluster:
    monkeypatch.setattr(ca_restore, "CLAIM_FOLDER", VOLUME)
    return LocalCluster({"ca-root-0": volume})


@pytest.fixture
def plain(cluster: LocalCluster, volume: Path, tmp_path: Path) -> Read:
    """A copy of a CA whose home was marked since."""
    kept = read(SOURCE, cluster.host(), SOURCE.collect(cluster.host(), "fabric-crypto")[0], tmp_path)
    (volume / "as it was").touch()
    return kept


@contextmanager
def disk(volume: Path) -> Iterator[Callable[[], None]]:
    """Mount a volume on itself, and give what turns it read-only as a failing disk does."""
    subprocess.run(["mount", "--bind", volume, volume], check=True)

    def turn_read_only() -> None:
        subprocess.run(["mount", "-o", "remount,bind,ro", volume], check=True)

    try:
        yield turn_read_only
    finally:
        subprocess.run(["umount", volume], check=True)


def test_where_the_restored_home_is_wrong_and_the_old_one_cannot_be_put_back_the_ca_stays_stopped(
    cluster: LocalCluster, volume: Path, plain: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with disk(volume) as turn_read_only:

        def of_another(asked: CaRestore, there: VolumeExchange) -> None:
            turn_read_only()
            raise IntegrityError("ca-root: expected another certificate on its volume")

        monkeypatch.setattr(CaRestore, "_require_fingerprint", of_another)
        with pytest.raises(RestoreError, match="(?s)another certificate.*could not be put back.*Read-only") as failure:
            SOURCE.apply(cluster.host(), work(tmp_path, plain))

    assert cluster.sizes == {"ca-root": 0}
    assert ("ca-root", 1) not in cluster.scaled
    (before,) = volume.glob(".gxbackup-before-*")
    assert (before / "as it was").exists()
    assert f"its old content lies in {before.name} on claim fabric/data-ca-root-0" in failure.value.hints[0]
    assert "started again" not in failure.value.message


def test_where_a_disk_fails_in_the_exchange_the_ca_stays_stopped_and_the_next_restore_puts_its_home_back(
    cluster: LocalCluster, volume: Path, plain: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = VolumeExchange.exchange
    with disk(volume) as turn_read_only:

        def half(asked: VolumeExchange) -> str:
            (volume / ".gxbackup-undo").mkdir()
            (volume / "as it was").rename(volume / ".gxbackup-undo" / "as it was")
            turn_read_only()
            return exchange(asked)

        monkeypatch.setattr(VolumeExchange, "exchange", half)
        with pytest.raises(RestoreError, match="(?s)could not be put back.*Read-only") as failure:
            SOURCE.apply(cluster.host(), work(tmp_path, plain))

    assert cluster.sizes == {"ca-root": 0}
    assert "its old content lies in .gxbackup-undo on claim fabric/data-ca-root-0" in failure.value.hints[0]
    assert "start this restore again" in failure.value.hints[1]
    assert VolumeExchange(LocalPlace("here"), str(volume)).recover()
    assert (volume / "as it was").exists()


def test_where_the_run_is_cancelled_after_the_exchange_the_old_home_is_put_back_and_started(
    cluster: LocalCluster, volume: Path, plain: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancelled(asked: CaRestore) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(CaRestore, "_ask", cancelled)

    with pytest.raises(KeyboardInterrupt):
        SOURCE.apply(cluster.host(), work(tmp_path, plain))

    assert (volume / "as it was").exists()
    assert list(volume.glob(".gxbackup-*")) == []
    assert cluster.scaled == [("ca-root", 0), ("ca-root", 1), ("ca-root", 0), ("ca-root", 1)]
