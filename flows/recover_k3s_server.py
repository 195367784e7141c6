"""One step of a K3s cluster's recovery, on a server that is not the first."""

from __future__ import annotations

from typing import Literal

from prefect import flow

from flows.command_line import run
from flows.k3s_recovery import recover_server
from tasks.handover import went_on_elsewhere


@flow(flow_run_name="recover K3s on {host}: {step}")
def recover_k3s_server(
    host: str,
    step: Literal["look", "stop", "join"] = "look",
    server: Literal["mainnet", "vps1", "vps2"] = "mainnet",
    recovery: str = "",
    approve: bool = False,
) -> None:
    """
    Stop K3s on a server that is not the first, or let it join the restored first one; restore-k3s-cluster calls this.

    Protects: the other servers of a K3s cluster while the first is restored.
    Promise:  nothing is deleted: its old database is set aside; each step is done once in a recovery.
    Restore:  docs/runbooks/recover-k3s-server.md

    Args:
        host: the host of that server, such as vps4; it runs there
        step: look does nothing, stop stops K3s, join sets its old database aside and starts it
        server: the cluster that it belongs to
        recovery: the name of the recovery that this step belongs to; by hand: none
        approve: go on without asking in the UI
    """
    if not went_on_elsewhere(host):
        recover_server(host, step, server, recovery, approve)


if __name__ == "__main__":
    run(recover_k3s_server)
