"""The restore of a whole K3s cluster."""

from __future__ import annotations

from typing import Literal

from prefect import flow

from flows.command_line import run
from flows.k3s_recovery import recover_cluster
from tasks.handover import went_on_elsewhere


@flow(flow_run_name="restore K3s cluster {server} {snapshot} ({mode})")
def restore_k3s_cluster(
    server: Literal["mainnet", "vps1", "vps2"] = "mainnet",
    snapshot: str = "latest",
    mode: Literal["plan", "scratch", "in-place"] = "plan",
    role: Literal["all", "first"] = "all",
    approve: bool = False,
) -> None:
    """
    Make a K3s cluster anew from its datastore's snapshot and token: the first server, then the others join it.

    Protects: the datastore of K3s (embedded etcd, or SQLite) and the token that opens it.
    Promise:  nothing is deleted: each server's old database is set aside; run again after a cut, it goes on.
    Restore:  docs/runbooks/restore-k3s-cluster.md

    Args:
        server: mainnet (vps3 first, then vps4 and vps5); vps1, vps2 where the inventory holds their datastore
        snapshot: a snapshot id such as 20261122_040000, or latest: the newest good one
        mode: plan gives the exact commands for each host, scratch serves it from a throwaway etcd, in-place recovers
        role: all recovers every server through the workers on their hosts, first only this host: the others by hand
        approve: go on without asking in the UI
    """
    if not went_on_elsewhere(server):
        recover_cluster(server, snapshot, mode, role, approve)


if __name__ == "__main__":
    run(restore_k3s_cluster)
