"""
The K3s server token, and the certificate whose hash it begins with: do they belong together? Tells no token.

Source: k3s-io/k3s pkg/clientaccess/token.go: `K10<hash>::user:password`; the hash is the sha256 of the CA file, or of
the root certificate in it (DER) where it holds a chain.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gxbackup.errors import RestoreRefusedError
from gxbackup.exchange import discard
from gxbackup.model import Evidence
from gxbackup.trees import extract

CHUNK_BYTES = 1024**2
_FULL = re.compile(r"K10([0-9a-f]{64})::\S+")


def matches_ca(token_file: Path, ca_file: Path) -> bool | None:
    """Tell whether a token names this authority; None where it is a short token, which names none."""
    found = _FULL.fullmatch(token_file.read_text(encoding="utf-8").strip())
    if found is None:
        return None
    authority = ca_file.read_bytes()
    try:
        chain = x509.load_pem_x509_certificates(authority)
    except ValueError:
        return False
    hashes = {hashlib.sha256(authority).hexdigest()}
    if len(chain) > 1:
        hashes |= {hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest() for certificate in chain}
    return found.group(1) in hashes


def unpack(tar: Path, evidence: Evidence, area: Path) -> Path:
    """
    Unpack the token set of an etcd snapshot into `area` and return its folder: server/token and server/tls lie there.

    Raises: RestoreRefusedError where it holds no token, or one that does not belong to its certificates;
    IntegrityError where it is not what was captured.
    """
    folder = area / "token-set"
    discard(folder)
    folder.mkdir(mode=0o700)
    with tar.open("rb") as opened:
        extract(iter(lambda: opened.read(CHUNK_BYTES), b""), folder, evidence)
    token, authority = folder / "token", folder / "tls" / "server-ca.crt"
    if not token.is_file() or not token.stat().st_size:
        raise RestoreRefusedError(f"{tar.name}: holds no server token: the snapshot cannot be opened without its own")
    if authority.is_file() and matches_ca(token, authority) is False:
        raise RestoreRefusedError(
            f"{tar.name}: its token belongs to another authority than its certificates",
            "the two were captured from different clusters, or at different times; choose another snapshot",
        )
    return folder
