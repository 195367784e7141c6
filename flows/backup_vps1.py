"""The backup of the website server."""

from __future__ import annotations

from prefect import flow

from flows.command_line import run
from flows.recipes import back_up


@flow(flow_run_name="backup vps1")
def backup_vps1(only: list[str] | None = None) -> str:
    """
    Back up the website server to the remote.

    Protects: the website, Docker state, K3s configuration, keys and /etc of vps1; the weekly ones on Sunday.
    Promise:  at most 24 h lost (weekly data types 168 h); kept 30 to 90 days by data type.
    Restore:  docs/runbooks/restore-website.md

    Args:
        only: these data types and no others, whether they are due or not; all that are due by default
    """
    return back_up("vps1", only)


if __name__ == "__main__":
    run(backup_vps1)
