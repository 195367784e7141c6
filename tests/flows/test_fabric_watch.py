"""Fabric's promises as an operator meets them: a volume that nobody reads, a CA whose registry is of another moment."""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from flows.backup_mainnet import backup_mainnet
from flows.backup_vps3 import backup_vps3
from flows.check_backup_health import check_backup_health
from flows.restore_fabric_crypto import restore_fabric_crypto
from gxbackup import clock
from gxbackup.adapters.cluster import Claim
from gxbackup.errors import RestoreRefusedError, UnprovenError
from tasks import host
from tests.crypto_files import identity
from tests.flows.conftest import Place
from tests.flows.test_fabric_ledgers import POD, Ledgers
from tests.local_cluster import VOLUME, LocalCluster


class OldClaims(LocalCluster):
    """A cluster whose claims are all a month old."""

    def claims(self, namespace: str) -> tuple[Claim, ...]:
        month = clock.now() - timedelta(days=30)
        return tuple(claim.model_copy(update={"created": month}) for claim in super().claims(namespace))


def test_a_peer_that_runs_where_no_host_reads_is_failing_by_name_though_every_run_is_green(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ledgers = Ledgers(place, monkeypatch, vps3="peer")
    ledgers.play("vps3", ledgers.node("peer", POD, tmp_path / "volumes"))
    backup_vps3()
    ledgers.play("vps3", OldClaims({POD: tmp_path, "peer7-org1-0": tmp_path}))

    with pytest.raises(UnprovenError, match=r"1 failing: peer fabric/peer7-org1-0\n.*check-backup-health.md"):
        check_backup_health()


def test_a_ca_whose_registry_nobody_compared_is_put_back_only_with_a_word_of_consent(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def reduce(document: dict[str, Any]) -> None:
        mainnet = document["servers"]["mainnet"]
        promise = mainnet["data_types"]["fabric-crypto"]
        promise["source"] |= {"cas": ["ca-org1"], "folders": [VOLUME], "with_secrets": False}
        mainnet["data_types"] = {"fabric-crypto": promise}
        document["servers"] = {"mainnet": mainnet}

    place.create(reduce)
    place.play("vps3")
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca" / "fabric-ca-server-config.yaml").write_text("db: {type: postgres}\n")
    identity(tmp_path / "ca" / "ca-cert.pem", tmp_path / "ca" / "msp" / "keystore" / "a_sk", "ca-org1")
    monkeypatch.setattr(host, "host", lru_cache(maxsize=1)(LocalCluster({"ca-org1-0": tmp_path / "ca"}).host))
    backup_mainnet()

    with pytest.raises(RestoreRefusedError, match="no PostgreSQL of this server is in a set with fabric-crypto"):
        restore_fabric_crypto()
    with caplog.at_level("INFO"):
        restore_fabric_crypto(unmatched=True)

    assert "ca-org1: its registry in PostgreSQL is of another moment" in caplog.text
    assert "nothing was touched" in caplog.text
