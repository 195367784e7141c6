"""Keys and certificates in files: which of a chain counts, which key belongs beside which certificate."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gxbackup.errors import CollectError
from gxbackup.fabric.crypto import CryptoInventory, newer
from gxbackup.tar_contents import TarContents
from tests.crypto_files import identity, make_msp


def seen(folder: Path) -> CryptoInventory:
    crypto = CryptoInventory()
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            crypto.add(str(file.relative_to(folder)), file.read_bytes())
    return crypto


def test_of_a_chain_the_first_certificate_is_the_nodes_own_and_an_older_issuer_makes_nothing_newer(
    tmp_path: Path,
) -> None:
    identity(tmp_path / "server.crt", tmp_path / "server.key", "node", age_days=5)
    identity(tmp_path / "issuer.crt", tmp_path / "unused" / "issuer_sk", "issuer", age_days=500)
    chain = tmp_path / "server.crt"
    chain.write_bytes(chain.read_bytes() + (tmp_path / "issuer.crt").read_bytes())
    kept = seen(tmp_path)

    assert kept.leaves()["server.crt"].subject == "CN=node"
    assert kept.identity_faults() == []
    assert newer(kept, kept) == []


def test_a_renewed_certificate_is_newer_than_the_kept_one_and_not_the_other_way_round(tmp_path: Path) -> None:
    make_msp(tmp_path / "kept" / "msp", "node", age_days=30)
    make_msp(tmp_path / "there" / "msp", "node", age_days=1)
    kept, there = seen(tmp_path / "kept"), seen(tmp_path / "there")

    assert [line.partition(" ")[0] for line in newer(there, kept)] == ["msp/cacerts/ca.pem", "msp/signcerts/cert.pem"]
    assert newer(kept, there) == []


def test_a_keystore_with_its_own_key_among_others_is_whole_and_one_without_it_is_not(tmp_path: Path) -> None:
    make_msp(tmp_path / "msp", "node")
    identity(tmp_path / "other.pem", tmp_path / "msp" / "keystore" / "other_sk", "another")
    whole = seen(tmp_path).identity_faults()
    (tmp_path / "msp" / "keystore" / "one_sk").unlink()

    assert whole == []
    (fault,) = seen(tmp_path).identity_faults()
    assert fault == "msp/signcerts/cert.pem (CN=node): expected the key that matches it, seen another beside it"


def test_a_certificate_whose_key_lies_elsewhere_is_no_fault(tmp_path: Path) -> None:
    make_msp(tmp_path / "msp", "node")
    (tmp_path / "msp" / "keystore" / "one_sk").unlink()

    assert seen(tmp_path).identity_faults() == []


def test_a_certificate_of_a_version_that_nobody_reads_is_told_and_ends_nothing(tmp_path: Path) -> None:
    make_msp(tmp_path, "peer0")
    der = x509.load_pem_x509_certificate((tmp_path / "cacerts" / "ca.pem").read_bytes()).public_bytes(Encoding.DER)
    version_2 = base64.encodebytes(der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020101"), 1)).decode()
    inventory = CryptoInventory()

    inventory.add("msp/cacerts/ca.pem", f"-----BEGIN CERTIFICATE-----\n{version_2}-----END CERTIFICATE-----\n".encode())

    assert inventory.unreadable == ["msp/cacerts/ca.pem"]


def test_who_looks_at_files_and_fails_holds_up_nobody_who_writes(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x")
    subprocess.run(["tar", "-C", tmp_path, "-cf", tmp_path / "tar", "large"], check=True)

    def fails(name: str, content: bytes) -> None:
        raise RecursionError(f"{name}: nested too deeply")

    contents = TarContents(fails)
    contents.start()
    for _ in range(100):
        contents.feed(memoryview((tmp_path / "tar").read_bytes()))

    with pytest.raises(CollectError, match="large: nested too deeply"):
        contents.finish()
