"""A CA's keys meet a registry of another moment: found on a real PostgreSQL, and refused without a word of consent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gxbackup import ca_registry, clock
from gxbackup.adapters.host import Host
from gxbackup.errors import RestoreRefusedError
from gxbackup.fabric import ca_restore
from gxbackup.inventory import Server
from gxbackup.model import Artifact, Manifest, Missing
from gxbackup.sources.base import Work
from gxbackup.sources.fabric_crypto import FabricCrypto
from tests.crypto_files import identity
from tests.integration.postgres_server import Protected, backed_up, host_with
from tests.integration.test_postgres_places import CA
from tests.local_cluster import VOLUME, LocalCluster
from tests.opened import read, work

CRYPTO = FabricCrypto(cas=("ca-org1",), folders=(VOLUME,), with_secrets=False, cainfo_port=0)
SERVER = Server.model_validate({
    "runs_on": "vps3", "remote_dir": "mainnet", "data_types": {
        name: {"source": source, "rpo_hours": 24, "keep_days": 90, "set_name": "fabric-ca"}
        for name, source in (
            ("postgres-ca", {"kind": "postgres", "namespace": "fabric", "pod": "postgres-0"}),
            ("fabric-crypto", {"kind": "fabric_crypto"}),
        )
    },
})  # fmt: skip


@pytest.fixture
def host(postgres: Protected) -> Host:
    return host_with(pod=postgres.place())


@pytest.fixture
def registry(postgres: Protected, host: Host, tmp_path: Path) -> Iterator[tuple[Artifact, ...]]:
    """Give what a snapshot holds of a registry of 50 certificates."""
    postgres.psql(f'CREATE DATABASE "{CA}"')
    postgres.psql("CREATE TABLE certificates AS SELECT generate_series(1, 50) AS serial", CA)
    source = SERVER.data_types["postgres-ca"].source
    opened = backed_up(source, host, tmp_path / "plain", only=CA)  # type: ignore[arg-type]
    yield tuple(one.artifact.model_copy(update={"data_type": "postgres-ca"}) for one in opened)
    postgres.psql(f'DROP DATABASE "{CA}" WITH (FORCE)')


def manifest(artifacts: tuple[Artifact, ...], *missing: Missing) -> Manifest:
    now = clock.now()
    return Manifest(
        snapshot="20261122_040000", server="mainnet", host="vps3", started_at=now, finished_at=now,
        complete=not missing, artifacts=artifacts, missing=missing,
    )  # fmt: skip


def seen(host: Host, held: Manifest, server: Server = SERVER) -> list[str]:
    return ca_registry.faults(host, server, "fabric-crypto", held)


def test_a_registry_of_the_same_moment_has_no_fault_and_one_that_went_on_has(
    postgres: Protected, host: Host, registry: tuple[Artifact, ...]
) -> None:
    assert seen(host, manifest(registry)) == []

    postgres.psql("INSERT INTO certificates VALUES (51)", CA)

    (fault,) = seen(host, manifest(registry))
    assert fault.startswith(f"postgres-ca: database {CA}: ")
    assert "certificates: expected 50" in fault
    assert "seen 51" in fault


def test_a_revocation_since_changes_no_count_and_is_not_seen(
    postgres: Protected, host: Host, registry: tuple[Artifact, ...]
) -> None:
    """What is told of equal counts must not say more than that."""
    postgres.psql("UPDATE certificates SET serial = 1000 WHERE serial = 50", CA)

    assert seen(host, manifest(registry)) == []


def test_a_snapshot_without_the_registry_and_a_registry_that_nobody_can_ask_are_faults(
    postgres: Protected, host: Host, registry: tuple[Artifact, ...]
) -> None:
    partial = manifest(registry, Missing(data_type="postgres-ca", reason="a table was locked"))
    apart = SERVER.model_copy(update={"data_types": {"fabric-crypto": SERVER.data_types["fabric-crypto"]}})

    assert seen(host, manifest(())) == ["postgres-ca: 20261122_040000 does not hold all of it: none is there"]
    assert seen(host, partial)[0].endswith("a table was locked")
    assert "cannot be compared: pod postgres-0: expected" in seen(host_with(), manifest(registry))[0]
    assert "no PostgreSQL of this server is in a set" in seen(host, manifest(registry), apart)[0]


def given(tmp_path: Path, database: str) -> tuple[Host, Work]:
    """Return a CA and what a restore of it works with."""
    folder = tmp_path / "ca-org1"
    folder.mkdir()
    (folder / "fabric-ca-server-config.yaml").write_text(f"db: {{type: {database}}}\n")
    identity(folder / "ca-cert.pem", folder / "msp" / "keystore" / "a_sk", "ca-org1")
    host = LocalCluster({"ca-org1-0": folder}).host()
    return host, work(tmp_path, read(CRYPTO, host, CRYPTO.collect(host, "fabric-crypto")[0], tmp_path))


def test_keys_are_not_put_beside_a_registry_of_another_moment_without_a_word_of_consent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ca_restore, "CLAIM_FOLDER", VOLUME)
    host, well = given(tmp_path, "postgres")
    faulty = well.model_copy(update={"registry_faults": ("table certificates: expected 50, seen 51",)})

    with pytest.raises(RestoreRefusedError, match="not of the moment of these keys: table certificates") as refused:
        CRYPTO.apply(host, faulty)
    consented = faulty.model_copy(update={"options": {"unmatched": True}})

    assert any("restore-ca-postgres" in hint for hint in refused.value.hints)
    assert host.cluster.scaled == []  # type: ignore[attr-defined]
    assert CRYPTO.preview(host, well)[-1] == (
        "ca-org1: its registry in PostgreSQL has as many rows in each table as in this snapshot; "
        "their content was not compared"
    )
    assert any("is of another moment: table certificates" in line for line in CRYPTO.preview(host, consented))
    assert "restored and started" in CRYPTO.apply(host, consented)[0]


def test_a_registry_in_sqlite_comes_with_its_keys_and_is_not_asked_for(tmp_path: Path) -> None:
    host, held = given(tmp_path, "sqlite3")

    assert not any("registry" in line for line in CRYPTO.preview(host, held))
    assert not ca_restore.keeps_registry_elsewhere(held.opened[0].artifact)
