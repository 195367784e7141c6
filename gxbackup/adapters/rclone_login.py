"""
How the remote lets us in, as rclone's configuration tells it: a token that cannot be renewed is the end of all backups.

The configuration holds secrets: it is read in memory, and only what no secret is leaves this file.
Source: rclone.org/drive ("Making your own client_id"), rclone.org/oauth; `rclone config dump`.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gxbackup.adapters import process
from gxbackup.adapters.rclone_command import environment, program
from gxbackup.errors import SetupError
from gxbackup.watch import Login

CALL_TIMEOUT_SECONDS = 60


def look(remote_path: str) -> Login | None:
    """
    Return how the remote of a path logs in; None where no token is kept: a folder, a password, a service account.

    A remote that stands before another (crypt, alias, …) is followed to it. Raises: SetupError.
    """
    name = remote_path.partition(":")[0]
    words = [program(Path(sys.executable).parent), "config", "dump"]
    done = process.run(words, timeout_seconds=CALL_TIMEOUT_SECONDS, env=environment())
    try:
        config: dict[str, dict[str, Any]] = json.loads(done.stdout)
    except ValueError:
        raise SetupError("rclone config dump: expected JSON, seen something else") from None
    followed: set[str] = set()
    while name in config and name not in followed:
        followed.add(name)
        section = config[name]
        if "token" in section:
            return _login(name, section)
        name = str(section.get("remote", "")).partition(":")[0]
    return None


def _login(name: str, section: dict[str, Any]) -> Login:
    try:
        token = json.loads(str(section["token"]))
        expires_at = datetime.fromisoformat(str(token["expiry"])) if token.get("expiry") else None
    except (ValueError, TypeError, AttributeError):
        hint = f"rclone config reconnect {name}:"
        raise SetupError(f"rclone remote {name}: its token cannot be read", hint) from None
    if expires_at is not None and expires_at.tzinfo is None:
        expires_at = expires_at.replace(tzinfo=UTC)
    return Login(
        remote=name,
        kind=str(section.get("type", "")),
        renews=bool(token.get("refresh_token")),
        expires_at=expires_at,
        has_own_client=bool(section.get("client_id")),
    )
