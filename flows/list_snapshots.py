"""What the remote holds."""

from __future__ import annotations

from prefect import flow

from flows.command_line import run
from flows.recipes import list_held


@flow(flow_run_name="list snapshots {server}")
def list_snapshots(server: str = "all") -> None:
    """
    List the snapshots that the remote holds, newest first, with what each holds and whether it is to be trusted.

    Protects: nothing; it only reads.
    Promise:  a listing that failed is an error, never a shorter list.
    Restore:  docs/runbooks/README.md

    Args:
        server: vps1, mainnet, …; all servers by default
    """
    list_held(server)


if __name__ == "__main__":
    run(list_snapshots)
