"""Pruning by hand."""

from __future__ import annotations

from prefect import flow

from flows.command_line import run
from flows.recipes import prune_by_hand
from tasks.handover import went_on_elsewhere


@flow(flow_run_name="prune {server}")
def prune_snapshots(server: str, dry_run: bool = True, confirm: str = "") -> None:
    """
    Drop what no promise needs any more; by default only say what would go, and why.

    Protects: the newest good copies, the newest rehearsed one, every base, whatever an incomplete snapshot alone holds.
    Promise:  each backup prunes after itself already; this is for looking, and for a plan that stopped and asks.
    Restore:  docs/runbooks/prune-snapshots.md

    Args:
        server: vps1, mainnet, …; it runs on that server's own host
        dry_run: print the plan and delete nothing
        confirm: the plan's sha256, where it would drop more than prune_limit and asks for it
    """
    if not went_on_elsewhere(server):
        prune_by_hand(server, dry_run, confirm or None)


if __name__ == "__main__":
    run(prune_snapshots)
