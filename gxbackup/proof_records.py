"""
Where proofs are kept: on the remote, beside the servers' folders, so that pruning on any host knows of rehearsals.

    gx-backups/_proofs/vps1/20261122_083000_000000.json    signed by the host that proved; the newest signed one counts

No server's folder begins with `_`, so no catalog lists them and no pruning deletes them. Nothing here is ever written
in the place of another file: a record is added, and the ones before it go, one by one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from gxbackup import signing
from gxbackup.adapters.rclone import Remote
from gxbackup.errors import IntegrityError
from gxbackup.inventory import Inventory
from gxbackup.proofs import Proofs

FOLDER = "_proofs"
KEPT = 3
LIMIT_BYTES = 64 * 1024**2
_NAME = "%Y%m%d_%H%M%S_%f.json"
_OURS = re.compile(r"2\d{7}_\d{6}_\d{6}\.json")


def load(remote: Remote, inventory: Inventory, server: str) -> Proofs:
    """
    Return what was proven of a server's copies, from its newest record with a trusted signature; nothing where none is.

    Raises: RemoteError.
    """
    for name in reversed(_names(remote, server)):
        try:
            return _read(remote.read(f"{FOLDER}/{server}/{name}", LIMIT_BYTES), inventory, server, name)
        except IntegrityError:
            continue  # a stranger's, or cut: what it says was not proven
    return Proofs(server=server)


def update(
    remote: Remote, inventory: Inventory, server: str, change: Callable[[Proofs], Proofs],
    key: Ed25519PrivateKey, area: Path, now: datetime,
) -> Proofs:  # fmt: skip
    """
    Add a record with changed proofs, signed with this host's key, and return them.

    Cut short at any point, the record before it still counts. Raises: RemoteError.
    """
    proofs = change(load(remote, inventory, server))
    body = proofs.model_dump_json()
    names = _names(remote, server)
    moment = now.astimezone(UTC)
    if names:  # also where a clock was set back
        moment = max(moment, datetime.strptime(names[-1], _NAME).replace(tzinfo=UTC) + timedelta(microseconds=1))
    name = moment.strftime(_NAME)
    signed = json.dumps({"body": body, "signature": signing.sign(key, body.encode()).decode().strip()})
    (area / name).write_text(signed, encoding="utf-8")
    remote.upload(area, [name], f"{FOLDER}/{server}")
    (area / name).unlink(missing_ok=True)
    for old in [*names, name][:-KEPT]:
        remote.delete_file(f"{FOLDER}/{server}/{old}")
    return proofs


def _names(remote: Remote, server: str) -> list[str]:
    listed = remote.list_files(f"{FOLDER}/{server}")
    return sorted(file.path for file in listed if _OURS.fullmatch(file.path) and 0 <= file.size_bytes <= LIMIT_BYTES)


def _read(content: bytes, inventory: Inventory, server: str, name: str) -> Proofs:
    try:
        record = json.loads(content)
        body, signature = str(record["body"]).encode(), str(record["signature"]).encode()
    except (ValueError, KeyError, TypeError):
        raise IntegrityError(f"{name}: not a record of proofs") from None
    signing.check(body, signature, inventory.all_signers(), name)
    try:
        proofs = Proofs.model_validate_json(body)
    except ValidationError:
        raise IntegrityError(f"{name}: not a record of proofs of this version") from None
    if proofs.server != server:
        raise IntegrityError(f"{name}: expected the proofs of {server}, seen those of {proofs.server}")
    return proofs
