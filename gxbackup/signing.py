"""
Ed25519 signatures of manifests: made with the key of this host, trusted by the inventory's list.

Run as a program it makes this host's key: `python -m gxbackup.signing vps1`.
Source: design, "Formats": `manifest.json.sig`, Ed25519 by the host's key.
"""

from __future__ import annotations

import argparse
import base64
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gxbackup import inventory
from gxbackup.errors import BackupError, IntegrityError, SetupError

DEFAULT_KEY_FILE = Path("/etc/gx-backup/signing.key")
_HINT = "make this host's key with `make keys HOST=…` and put the line it prints into the inventory, under hosts"


def key_file() -> Path:
    """Return the path of this host's signing key (GX_SIGNING_KEY_FILE)."""
    return Path(os.environ.get("GX_SIGNING_KEY_FILE") or DEFAULT_KEY_FILE)


def load_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key; SetupError where it is absent, open to others, or no Ed25519 key."""
    try:
        mode = path.stat().st_mode
        body = path.read_bytes()
    except OSError as error:
        raise SetupError(f"signing key {path}: cannot be read: {error.strerror}", _HINT) from None
    if mode & 0o077:
        raise SetupError(f"signing key {path}: expected mode 0600, seen {mode & 0o777:04o}", f"chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(body, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise SetupError(f"signing key {path}: expected an Ed25519 private key in PEM", _HINT)
    return key


def public_text(key: Ed25519PrivateKey) -> str:
    """Return a key's public half as the inventory spells it: base64 of 32 bytes."""
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return base64.b64encode(raw).decode()


def host_of(key: Ed25519PrivateKey, signers: Mapping[str, str], runs_on: str) -> str:
    """
    Return the host whose key this is; it must be the host that captures the server.

    Raises: SetupError: an unknown key would write snapshots that no restore trusts.
    """
    public = public_text(key)
    host = signers.get(public)
    if host != runs_on:
        seen = f"the key of {host}" if host else f"{public}, which no host of the inventory signs with"
        raise SetupError(f"signing key: expected a key of host {runs_on}, seen {seen}", _HINT)
    return host


def sign(key: Ed25519PrivateKey, body: bytes) -> bytes:
    """Return the content of a signature file: base64 of the 64 signature bytes, and a newline."""
    return base64.b64encode(key.sign(body)) + b"\n"


def check(body: bytes, signature: bytes, signers: Mapping[str, str], name: str) -> str:
    """
    Return the host that signed these bytes.

    Raises: IntegrityError where no trusted key did.
    """
    try:
        raw = base64.b64decode(signature, validate=False)
    except ValueError:
        raw = b""
    for public, host in signers.items():
        try:
            Ed25519PublicKey.from_public_bytes(base64.b64decode(public)).verify(raw, body)
        except InvalidSignature:
            continue
        return host
    raise IntegrityError(
        f"{name}: not signed by a trusted host ({', '.join(sorted(set(signers.values()))) or 'none is listed'})",
        "was it edited, or written by a stranger? trusted keys are listed in the inventory, under hosts",
    )


def make_key(path: Path) -> Ed25519PrivateKey:
    """Make a new private key at this path (0600); an existing key is returned as it is, never replaced."""
    if path.exists():
        return load_key(path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = Ed25519PrivateKey.generate()
    body = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    return key


def main() -> int:
    """Make (or show) this host's key and print its line for the inventory."""
    parser = argparse.ArgumentParser(prog="python -m gxbackup.signing", description=main.__doc__)
    parser.add_argument("host", nargs="?", help="the host's name in the inventory, for example vps1")
    host = parser.parse_args().host
    try:
        hosts = inventory.load().hosts
        if host not in hosts:
            raise SetupError(
                f"make keys: no host {host} in {inventory.path_in_use()}" if host else "make keys: no host is named",
                f"make keys HOST=…, one of: {', '.join(hosts)}; a new one is named there first, under hosts",
            )
        key = make_key(key_file())
    except BackupError as error:
        print(error, file=sys.stderr)
        return 1
    # What an older key has signed stays trusted.
    signers = dict.fromkeys([*hosts[host].signers, public_text(key)])
    print(f"# {key_file()} is this host's alone; its line in {inventory.path_in_use()}, under hosts:")
    print(f"  {host}: {{pool: {hosts[host].pool}, signers: [{', '.join(signers)}]}}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
