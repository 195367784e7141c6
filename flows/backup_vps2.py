"""The backup of the dev/test server."""

from __future__ import annotations

from prefect import flow

from flows.command_line import run
from flows.recipes import back_up


@flow(flow_run_name="backup vps2")
def backup_vps2(only: list[str] | None = None) -> str:
    """
    Back up the dev/test server to the remote.

    Protects: K3s configuration, keys and /etc of vps2; the weekly ones on Sunday.
    Promise:  at most 24 h lost (weekly data types 168 h); kept 30 to 90 days by data type.
    Restore:  docs/runbooks/restore-host-config.md

    Args:
        only: these data types and no others, whether they are due or not; all that are due by default
    """
    return back_up("vps2", only)


if __name__ == "__main__":
    run(backup_vps2)
