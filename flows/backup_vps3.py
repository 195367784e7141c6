"""The backup of host vps3 of MainNet."""

from __future__ import annotations

from prefect import flow

from flows.command_line import run
from flows.recipes import back_up


@flow(flow_run_name="backup vps3")
def backup_vps3(only: list[str] | None = None, without: list[str] | None = None) -> str:
    """
    Back up host vps3 of MainNet to the remote.

    Protects: ledgers of its peers and orderers, Docker and Compose, K3s, keys and /etc of vps3; some weekly.
    Promise:  at most 24 h lost (weekly data types 168 h); kept 30 to 90 days by data type.
    Restore:  docs/runbooks/README.md names the page for each data type

    Args:
        only: these data types and no others, whether they are due or not; all that are due by default
        without: these are left to another run
    """
    return back_up("vps3", only, without=without)


if __name__ == "__main__":
    run(backup_vps3)
