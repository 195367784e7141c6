"""What a node derives from its blocks, in words for a person: what it makes anew after a restore, and what not."""

from __future__ import annotations

from pathlib import Path

from gxbackup.fabric import blocks
from gxbackup.fabric import layout as files
from gxbackup.model import Evidence

# Source: fact B8. Fabric 2.5 makes the folder of its own state database where it uses no other.
STATE = "ledgersData/stateLeveldb"
_IN_COUCHDB = (
    "its state lies in CouchDB, it seems, which this leaves as it is: where a database is above these heights, the "
    "peer opens that ledger no more, and /healthz says OK all the same; afterwards "
)
_DROP = "drop them: restore-couchdb in place"
_BY_DOCUMENTS = "put older ones back: restore-couchdb in place, by documents"


def is_in_couchdb(role: str, folder: Path) -> bool:
    """Tell whether a ledger has blocks and no state beside them: its peer keeps that in CouchDB."""
    return role == "peer" and bool(blocks.channels(folder / files.CHAINS[role])) and not (folder / STATE).exists()


def rebuilds(role: str, evidence: Evidence) -> str:
    """Say what a node makes anew from the blocks that are put back."""
    if joined := evidence.get("joined_by_snapshot"):
        assert isinstance(joined, list)
        return f"rebuilds nothing: it joined {', '.join(map(str, joined))} by a snapshot, so that all of it was kept"
    return f"rebuilds {', '.join(files.DERIVED[role]) or 'nothing'}"


def left_in_couchdb(evidence: Evidence) -> str:
    """Say what becomes of a peer whose blocks are put back and whose state in CouchDB is not."""
    return _IN_COUCHDB + (_BY_DOCUMENTS if evidence.get("joined_by_snapshot") else _DROP)
