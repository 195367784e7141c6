"""
Certificates and the keys that match them, found in the files of a CA or the values of a Secret. Keys are never shown.

Source: facts B9 (a CA's home: ca-cert.pem, msp/keystore/<SKI>_sk, fabric-ca-server-config.yaml).
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import yaml
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from pydantic import JsonValue

from gxbackup.model import Evidence

EXPIRES_SOON = timedelta(days=60)
CONFIG_NAME = "fabric-ca-server-config.yaml"
CA_CERTIFICATE = "ca-cert.pem"
DATABASE = "fabric-ca-server.db"  # by default, of a CA that keeps its registry as SQLite
IN_A_SERVER = "-"  # in place of that file: the running CA was told a database server
# Copies of others' certificates lie there, without a key.
_COPIES = ("cacerts", "intermediatecerts", "tlscacerts")


class Certificate(NamedTuple):
    """One certificate and where it was found."""

    path: str
    subject: str
    serial: str
    not_before: datetime
    not_after: datetime
    sha256: str
    public_key: str  # digest of its DER

    def evidence(self, has_key: bool) -> dict[str, JsonValue]:
        """Return what a manifest tells of it."""
        return {
            "path": self.path,
            "subject": self.subject,
            "serial": self.serial,
            "not_after": self.not_after.isoformat(),
            "sha256": self.sha256,
            "has_key": has_key,
        }


class CryptoInventory:
    """Collects what files hold; anything that is neither certificate, key nor a CA's settings is passed over."""

    def __init__(self) -> None:
        self.certificates: list[Certificate] = []
        self.unreadable: list[str] = []
        self._keys: dict[str, set[str]] = {}  # digest of the public key's DER → where it was found
        self._settings: dict[str, Any] = {}
        self._names: set[str] = set()

    def note(self, path: str) -> None:
        """Note that there is such a file, also one too large to be looked into."""
        self._names.add(PurePosixPath(path).name)

    def add(self, path: str, content: bytes) -> None:
        """Look into one file."""
        if PurePosixPath(path).name == CONFIG_NAME:
            self._add_settings(path, content)
        if b"-----BEGIN " not in content or b"\0" in content:  # a database holds what a CA issued
            return
        if b"-----BEGIN CERTIFICATE-----" in content:
            self._add_certificates(path, content)
        if b"PRIVATE KEY-----" in content:
            self._add_key(path, content)

    def has_key(self, certificate: Certificate) -> bool:
        """Tell whether the key that matches a certificate was found anywhere."""
        return certificate.public_key in self._keys

    def ca_certificates(self) -> list[Certificate]:
        """Return the certificates that the CAs in here sign with."""
        return [
            one
            for one in self.certificates
            if PurePosixPath(one.path).name == CA_CERTIFICATE and PurePosixPath(one.path).parent.name not in _COPIES
        ]

    def faults(self) -> list[str]:
        """Say what a CA that is restored from this could not do; empty where it is whole."""
        own = self.ca_certificates()
        if not own:
            unread = f"; cannot be read: {', '.join(self.unreadable)}" if self.unreadable else ""
            return [f"expected a {CA_CERTIFICATE}, seen none{unread}"]
        found = []
        if not self._keys_elsewhere():
            found += [
                f"{one.path} ({one.subject}): expected the key that matches it, seen none among {len(self._keys)}"
                for one in own
                if not self.has_key(one)
            ]
        return found

    def registry_faults(self, database_told: str = "") -> list[str]:
        """
        Say which CA has its registry as SQLite in a file that is not here: who is enrolled, and what is revoked.

        `database_told`: the file that the running CA was told, whatever its configuration says; or IN_A_SERVER.
        """
        found = []
        for path, one in sorted(self._settings.items()) if database_told != IN_A_SERVER else ():
            database = one.get("db") or {}
            file = (database_told or str(database.get("datasource") or DATABASE)).partition("?")[0]
            if database.get("type", "sqlite3") == "sqlite3" and PurePosixPath(file).name not in self._names:
                found.append(
                    f"{path}: expected its database {file} in the CA's home, seen none: its folder is not read"
                )
        return found

    def identity_faults(self) -> list[str]:
        """
        Say which certificates lie beside keys of which none is theirs; empty where none does.

        Beside: an MSP's `signcerts` and `keystore`, or `NAME.crt` and `NAME.key`. A certificate without any key beside
        it is no fault: its key may lie in a Secret, or in a security module.
        """
        found = []
        for one in self.leaves().values():
            beside = {digest for digest, paths in self._keys.items() if any(_is_beside(one.path, key) for key in paths)}
            if beside and one.public_key not in beside:
                found.append(f"{one.path} ({one.subject}): expected the key that matches it, seen another beside it")
        return found

    def lost_in(self, there: CryptoInventory) -> list[str]:
        """Say which of these files do not lie there: the same certificate, the same key, at the same path."""
        seen = {(one.path, one.sha256) for one in there.certificates}
        lost = {one.path for one in self.certificates if (one.path, one.sha256) not in seen}
        for key, paths in self._keys.items():
            lost |= paths - there._keys.get(key, set())
        return sorted(lost | (set(self.unreadable) - set(there.unreadable)))

    def leaves(self) -> dict[str, Certificate]:
        """Return path → the first certificate in it: those that follow are its issuers."""
        return {one.path: one for one in reversed(self.certificates)}

    def evidence(self, now: datetime) -> Evidence:
        """Return the certificates, and those that end within EXPIRES_SOON; no key, no password."""
        told = sorted(self.certificates, key=lambda one: (one.path, one.sha256))
        soon = [one for one in told if one.not_after < now + EXPIRES_SOON]
        evidence: Evidence = {
            "certificates": [one.evidence(self.has_key(one)) for one in told],
            "expires_soon": [f"{one.path}: {one.subject} ends {one.not_after:%Y-%m-%d}" for one in soon],
            "keys": len(self._keys),
        }
        if self.unreadable:
            evidence["unreadable"] = [*sorted(self.unreadable)]
        if own := self.ca_certificates():
            evidence["ca_sha256"] = [*sorted({one.sha256 for one in own})]
        if databases := sorted({str(one.get("db", {}).get("type", "sqlite3")) for one in self._settings.values()}):
            evidence["databases"] = [*databases]
        if self._keys_elsewhere():
            evidence["keys_elsewhere"] = "PKCS#11: the keys lie in a security module, and in no file"
        return evidence

    def _keys_elsewhere(self) -> bool:
        return any(
            str((one.get("bccsp") or {}).get("default", "")).upper() == "PKCS11" for one in self._settings.values()
        )

    def _add_settings(self, path: str, content: bytes) -> None:
        try:
            read = yaml.safe_load(content)
        except yaml.YAMLError:
            read = None
        if isinstance(read, dict):
            self._settings[path] = read
        else:
            self.unreadable.append(path)

    def _add_certificates(self, path: str, content: bytes) -> None:
        try:
            found = x509.load_pem_x509_certificates(content)
            self.certificates += [_certificate(path, one) for one in found]
        except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
            self.unreadable.append(path)

    def _add_key(self, path: str, content: bytes) -> None:
        try:
            key = load_pem_private_key(content, None)
        except (TypeError, ValueError, UnsupportedAlgorithm):  # encrypted, or no key
            self.unreadable.append(path)
            return
        self._keys.setdefault(_digest(key.public_key()), set()).add(path)


def newer(there: CryptoInventory, kept: CryptoInventory) -> list[str]:
    """Say which certificates that are there were issued later than those that were kept in the same place."""
    known: dict[str, datetime] = {}
    for path, one in kept.leaves().items():
        place = _exchanged_with(path)
        known[place] = max(one.not_before, known.get(place, one.not_before))
    return [
        f"{path} ({one.subject}): issued {one.not_before:%Y-%m-%d %H:%M}, the kept one "
        f"{known[_exchanged_with(path)]:%Y-%m-%d %H:%M}"
        for path, one in sorted(there.leaves().items())
        if _exchanged_with(path) in known and one.not_before > known[_exchanged_with(path)]
    ]


def _exchanged_with(path: str) -> str:
    """Return what a certificate's successor is found by: in an MSP the folder, since its file may have any name."""
    parent = PurePosixPath(path).parent
    return str(parent) if parent.name == "signcerts" else path


def _is_beside(certificate: str, key: str) -> bool:
    own, other = PurePosixPath(certificate), PurePosixPath(key)
    if own.parent.name == "signcerts":
        return other.parent.name == "keystore" and own.parent.parent == other.parent.parent
    return own.parent == other.parent and own.stem == other.stem and own != other


def _certificate(path: str, one: x509.Certificate) -> Certificate:
    return Certificate(
        path, one.subject.rfc4514_string(), f"{one.serial_number:x}", one.not_valid_before_utc,
        one.not_valid_after_utc,
        one.fingerprint(SHA256()).hex(), _digest(one.public_key()),
    )  # fmt: skip


def _digest(public_key: Any) -> str:
    return hashlib.sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
