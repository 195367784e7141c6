"""Where Fabric's nodes keep what in their volumes, and which of it a backup needs.

Source: facts B11, B12. State, history and block index of a peer are left out: it rebuilds them from its blocks when it
starts without them; one that joined a channel by a snapshot cannot, and there all is kept. Private data is not
derivable, and is kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from gxbackup.fabric import blocks

_BLOCK_FILE = re.compile(r"(.*/blockfile_)(\d{6})")
# Folder of the volume → its `chains`, and what is rebuilt from them.
PRODUCTION = {"peer": "/var/hyperledger/production", "orderer": "/var/hyperledger/production/orderer"}
CHAINS = {"peer": "ledgersData/chains/chains", "orderer": "chains"}
RAFT_LOGS = "etcdraft/wal"  # of an orderer, a folder for each channel: ORDERER_CONSENSUS_WALDIR's default
DERIVED = {
    "peer": ("ledgersData/stateLeveldb", "ledgersData/historyLeveldb", "ledgersData/chains/index"),
    "orderer": (),
}


def is_left_out(role: str, folder: Path) -> Callable[[str], bool]:
    """
    Return what tells whether a path is not kept: derived state that can be rebuilt, and raft's spare log files.

    It looks each time: a channel may be joined by a snapshot between two looks.
    """
    derived = DERIVED[role]

    def left_out(path: str) -> bool:
        if path in derived:
            return not blocks.joined_by_snapshot(folder / CHAINS[role])
        return path.startswith(f"{RAFT_LOGS}/") and path.endswith(".tmp")

    return left_out


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
