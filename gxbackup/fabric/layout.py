"""Where Fabric's nodes keep what in their volumes, and which of it a backup needs. Pure.

Source: facts B11, B12. State, history and block index of a peer are left out: it rebuilds them from its blocks when it
starts without them. Private data is not derivable, and is kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

_BLOCK_FILE = re.compile(r"(.*/blockfile_)(\d{6})")
# Folder of the volume → its `chains`, and what is rebuilt from them.
PRODUCTION = {"peer": "/var/hyperledger/production", "orderer": "/var/hyperledger/production/orderer"}
CHAINS = {"peer": "ledgersData/chains/chains", "orderer": "chains"}
DERIVED = {
    "peer": ("ledgersData/stateLeveldb", "ledgersData/historyLeveldb", "ledgersData/chains/index"),
    "orderer": (),
}


def is_left_out(role: str) -> Callable[[str], bool]:
    """Return what tells whether a path is not kept: derived state, and raft's spare log files."""
    derived = DERIVED[role]
    return lambda path: path in derived or (path.startswith("etcdraft/wal/") and path.endswith(".tmp"))


def is_finished(folder: Path) -> Callable[[str], bool]:
    """Return what tells whether a file is never written again: LevelDB's tables, block files but the last, packages."""

    def finished(path: str) -> bool:
        if match := _BLOCK_FILE.fullmatch(path):
            return (folder / f"{match[1]}{int(match[2]) + 1:06d}").exists()
        return path.endswith(".ldb") or (path.startswith("lifecycle/chaincodes/") and path.endswith(".tar.gz"))

    return finished


def is_appended(path: str) -> bool:
    """Tell whether a file only grows: the last block file of a channel."""
    return _BLOCK_FILE.fullmatch(path) is not None
