"""The restore of the Docker Compose configuration."""

from __future__ import annotations

from typing import Literal

from prefect import flow

from flows.command_line import run
from flows.recipes import restore_tree


@flow(flow_run_name="restore compose-config {snapshot} ({mode})")
def restore_compose_config(
    snapshot: str = "latest",
    target: str = "",
    mode: Literal["plan", "scratch", "in-place"] = "plan",
    approve: bool = False,
) -> None:
    """
    Put /root/fabric of vps3 back: the Docker Compose configuration with its .env.

    Protects: /root/fabric as of the chosen snapshot; the tree it replaces stays beside it.
    Promise:  all of it or nothing: the new tree is proven before it takes the old one's place in one step.
    Restore:  docs/runbooks/restore-compose-config.md

    Args:
        snapshot: a snapshot id such as 20261122_020000, or latest: the newest good one
        target: where to; by default where it came from (in-place), and it must be named for scratch
        mode: plan shows what would happen, scratch unpacks into an empty folder and compares, in-place replaces
        approve: go on without asking in the UI
    """
    restore_tree("vps3", "compose-config", snapshot, target, mode, approve)


if __name__ == "__main__":
    run(restore_compose_config)
