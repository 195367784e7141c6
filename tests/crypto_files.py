"""Real keys and certificates as Fabric's nodes keep them: an MSP folder, a TLS pair."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gxbackup import clock


def identity(certificate: Path, key: Path, name: str, *, age_days: int = 10) -> None:
    """Write a certificate and its key."""
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begin = clock.now() - timedelta(days=age_days)
    made = x509.CertificateBuilder(subject, subject, private.public_key(), x509.random_serial_number(), begin,
                                   begin + timedelta(days=3650)).sign(private, hashes.SHA256())  # fmt: skip
    for file, content in (
        (certificate, made.public_bytes(Encoding.PEM)),
        (key, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def make_msp(folder: Path, name: str, *, age_days: int = 10) -> None:
    """Write an MSP in place of what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    identity(folder / "signcerts" / "cert.pem", folder / "keystore" / "one_sk", name, age_days=age_days)
    (folder / "cacerts").mkdir()
    shutil.copy(folder / "signcerts" / "cert.pem", folder / "cacerts" / "ca.pem")
    (folder / "config.yaml").write_text("NodeOUs: {Enable: true}\n")


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file of a claim, but the safety copies."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and ".gxbackup-" not in str(file)
    }
