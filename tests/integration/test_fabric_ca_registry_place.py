"""Where a CA keeps who is enrolled and what is revoked: a backup of its home without that is not green."""

from __future__ import annotations

from pathlib import Path

import pytest

from gxbackup.adapters import process
from gxbackup.fabric.ca_restore import keeps_registry_elsewhere
from gxbackup.sources.fabric_crypto import FabricCrypto
from tests.integration.test_fabric_crypto import CONFIG, make_ca
from tests.local_cluster import VOLUME, LocalCluster
from tests.opened import Read, read

CA = "ca-org1"
SOURCE = FabricCrypto(cas=(CA,), folders=(VOLUME,), with_secrets=False, cainfo_port=0)
TOLD = ("FABRIC_CA_SERVER_DB_TYPE", "FABRIC_CA_SERVER_DB_DATASOURCE")
LACKS = "expected its database {} in the CA's home, seen none: its folder is not read"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(process, "PASSED_ON", (*process.PASSED_ON, *TOLD))  # as a container's own
    make_ca(tmp_path / CA, CA)
    return tmp_path / CA / "fabric-ca-server"


def captured(home: Path, into: Path) -> Read:
    cluster = LocalCluster({f"{CA}-0": home.parent})
    (found,) = SOURCE.collect(cluster.host(), "fabric-crypto")
    return read(SOURCE, cluster.host(), found, into)


def shortfalls(home: Path, into: Path) -> list[str]:
    return [line.partition("config.yaml: ")[2] for line in captured(home, into).end.shortfalls]


def test_a_registry_in_the_home_lacks_nothing(home: Path, tmp_path: Path) -> None:
    assert shortfalls(home, tmp_path) == []


@pytest.mark.parametrize("told_by", ["its file", "its environment", "a link"])
def test_a_registry_that_lies_outside_of_the_home_is_a_shortfall(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told_by: str
) -> None:
    elsewhere = tmp_path / "var" / "registry.db"
    elsewhere.parent.mkdir()
    (home / "fabric-ca-server.db").rename(elsewhere)
    match told_by:
        case "its file":
            config = CONFIG.replace("fabric-ca-server.db", str(elsewhere))
            (home / "fabric-ca-server-config.yaml").write_text(config)
        case "its environment":
            monkeypatch.setenv("FABRIC_CA_SERVER_DB_DATASOURCE", str(elsewhere))
        case _:
            (home / "fabric-ca-server.db").symlink_to(elsewhere)
            elsewhere = Path("fabric-ca-server.db")

    assert shortfalls(home, tmp_path) == [LACKS.format(elsewhere)]


def test_a_registry_that_the_environment_puts_into_a_server_is_not_looked_for_in_the_home(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "fabric-ca-server.db").unlink()
    monkeypatch.setenv("FABRIC_CA_SERVER_DB_TYPE", "postgres")
    monkeypatch.setenv("FABRIC_CA_SERVER_DB_DATASOURCE", "host=postgres password=secret dbname=ca")

    kept = captured(home, tmp_path)

    assert kept.end.shortfalls == ()
    # Its configuration still says SQLite: the database that is there is held against the keys all the same.
    assert keeps_registry_elsewhere(kept.opened().artifact)


def test_the_parameters_of_a_registry_are_no_part_of_its_files_name(home: Path, tmp_path: Path) -> None:
    named = "fabric-ca-server.db"
    config = home / "fabric-ca-server-config.yaml"
    config.write_text(CONFIG.replace(named, f"{named}?_journal_mode=WAL"))

    kept = captured(home, tmp_path)

    assert f"{named}?" in config.read_text()
    assert kept.end.shortfalls == ()
    assert not keeps_registry_elsewhere(kept.opened().artifact)
