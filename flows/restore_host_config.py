"""The restore of a host's own configuration."""

from __future__ import annotations

from typing import Literal

from prefect import flow

from flows.command_line import run
from flows.recipes import restore_overlay
from tasks.handover import went_on_elsewhere


@flow(flow_run_name="restore host config {server} {snapshot} ({mode})")
def restore_host_config(
    server: str,
    snapshot: str = "latest",
    data_types: list[str] | None = None,
    only: list[str] | None = None,
    target: str = "",
    mode: Literal["plan", "scratch", "in-place"] = "plan",
    approve: bool = False,
    with_identity: bool = False,
) -> None:
    """
    Put K3s configuration, SSH keys and /etc of one host back, file by file over what is there.

    Protects: k3s-config, ssh-keys and system-config of the server; what is overwritten is kept as a safety copy.
    Promise:  nothing is deleted; on failure the safety copy is put back; the host keeps its own identity.
    Restore:  docs/runbooks/restore-host-config.md

    Args:
        server: vps1 to vps5; it runs on that server's own host
        snapshot: a snapshot id such as 20261122_020000, or latest: the newest good one of each data type
        data_types: which of k3s-config, ssh-keys, system-config; all by default
        only: these paths and what lies below, relative to the root: etc/nginx; all by default
        target: the root to restore over, / by default (in-place); it must be named for scratch
        mode: plan shows what would happen, scratch unpacks into an empty folder and compares, in-place overwrites
        approve: go on without asking in the UI
        with_identity: also machine-id, fstab, hostname, network and host keys; only for the same machine
    """
    if not went_on_elsewhere(server):
        restore_overlay(server, data_types, snapshot, only, target, mode, approve, with_identity)


if __name__ == "__main__":
    run(restore_host_config)
