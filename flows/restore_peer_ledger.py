"""The restore of peers' ledgers."""

from __future__ import annotations

from typing import Literal

from prefect import flow
from pydantic import JsonValue

from flows.command_line import run
from flows.data_recipe import restore_data
from tasks.handover import went_on_elsewhere


@flow(flow_run_name="restore peer-ledger of {server} {snapshot} ({mode})")
def restore_peer_ledger(
    server: Literal["vps3", "vps4", "vps5"],
    snapshot: str = "latest",
    pods: list[str] | None = None,
    allow_older: bool = False,
    unmatched: bool = False,
    mode: Literal["plan", "scratch", "in-place"] = "plan",
    approve: bool = False,
) -> None:
    """
    Put peers' volumes of one node back: blocks and private data; state and history are rebuilt by the peer.

    Protects: every peer volume on the node, as of one moment; a level 1 is restored upon its level 0.
    Promise:  proven before it is exchanged; the old content stays on the volume, and is put back on failure.
    Restore:  docs/runbooks/restore-peer-ledger.md

    Args:
        server: the node that holds the volumes; it runs on that host
        snapshot: a snapshot id such as 20261122_050000, or latest: the newest good one
        pods: only these pods' volumes; empty: all of the node
        allow_older: also where a channel stands higher there than in the snapshot, which loses those blocks here
        unmatched: also where no orderer runs, and another host's copies of orderers are all lower than this: only where
            those will not come back from their copies
        mode: plan shows heights and what would happen, scratch unpacks and checks every block, in-place restores
        approve: go on without asking in the UI
    """
    options: dict[str, JsonValue] = {"pods": [*(pods or [])], "allow_older": allow_older, "unmatched": unmatched}
    if not went_on_elsewhere(server):
        restore_data(server, "peer-ledger", snapshot, mode, approve, options)


if __name__ == "__main__":
    run(restore_peer_ledger)
