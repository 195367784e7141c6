"""The restore of CouchDB, Fabric's state database."""

from __future__ import annotations

from typing import Literal

from prefect import flow
from pydantic import JsonValue

from flows.command_line import run
from flows.data_recipe import restore_data


@flow(flow_run_name="restore couchdb-fabric {snapshot} ({mode}, {method})")
def restore_couchdb(
    snapshot: str = "latest",
    mode: Literal["plan", "scratch", "in-place"] = "plan",
    approve: bool = False,
    method: Literal["rebuild", "documents"] = "rebuild",
    peer_height: int = 0,
    databases: list[str] | None = None,
    peers_stopped: bool = False,
) -> None:
    """
    Give Fabric its state database back: dropped for the peer to rebuild from its blocks, or by the documents captured.

    Protects: every database of CouchDB in the namespace fabric, all revisions and attachments.
    Promise:  at most 24 h lost, and nothing where the peer still has its blocks; kept 30 days.
    Restore:  docs/runbooks/restore-couchdb.md

    Args:
        snapshot: a snapshot id such as 20261122_040000, or latest: the newest good one
        mode: plan shows what would happen, scratch loads all into a throwaway CouchDB and compares, in-place replaces
        approve: go on without asking in the UI
        method: rebuild drops the peer's databases, and it makes them anew from its blocks; documents puts them back,
            which saves the hours of a rebuild, and is refused unless the snapshot is known to be no newer than the peer
        peer_height: for documents: the lowest ledger_blockchain_height that the peer's metrics tell
        databases: only these; by default all that peers made. _users and others are restored where they are named
        peers_stopped: where the inventory names no peers: you have stopped every one that uses this CouchDB
    """
    options: dict[str, JsonValue] = {
        "method": method,
        "peer_height": peer_height,
        "databases": [*(databases or [])],
        "peers_stopped": peers_stopped,
    }
    restore_data("mainnet", "couchdb-fabric", snapshot, mode, approve, options)


if __name__ == "__main__":
    run(restore_couchdb)
