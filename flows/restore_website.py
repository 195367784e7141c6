"""The restore of the website."""

from __future__ import annotations

from typing import Literal

from prefect import flow

from flows.command_line import run
from flows.recipes import restore_tree


@flow(flow_run_name="restore website {snapshot} ({mode})")
def restore_website(
    snapshot: str = "latest",
    target: str = "",
    mode: Literal["plan", "scratch", "in-place"] = "plan",
    approve: bool = False,
    restart_container: str = "gxcoin-app-green",
) -> None:
    """
    Put the website of vps1 back, and restart its container.

    Protects: /var/www/gxcoin.money as of the chosen snapshot; the tree it replaces stays beside it.
    Promise:  all of it or nothing: the new tree is proven before it takes the old one's place in one step.
    Restore:  docs/runbooks/restore-website.md

    Args:
        snapshot: a snapshot id such as 20261122_020000, or latest: the newest good one
        target: where to; by default where it came from (in-place), and it must be named for scratch
        mode: plan shows what would happen, scratch unpacks into an empty folder and compares, in-place replaces
        approve: go on without asking in the UI
        restart_container: restarted after an in-place restore to where it came from; empty: none
    """
    restore_tree("vps1", "website", snapshot, target, mode, approve, restart_container)


if __name__ == "__main__":
    run(restore_website)
