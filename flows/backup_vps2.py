"""The backup of the dev/test server."""

from __future__ import annotations

from prefect import flow

from flows.command_line import run
from flows.recipes import back_up


@flow(flow_run_name="backup vps2")
def backup_vps2(only: list[str] | None = None) -> str:
    """
    Back up the server of DevNet and TestNet to the remote, all of it anew.

    Protects: TestNet's databases, every Kubernetes object, K3s and its datastore, keys and /etc of vps2.
    Promise:  at most 24 h lost (databases 6 h by backup-testnet-databases, weekly ones 168 h); kept 3 to 90 days.
    Restore:  docs/runbooks/README.md names the page for each data type

    Args:
        only: these data types and no others, whether they are due or not; all that are due by default
    """
    return back_up("vps2", only)


if __name__ == "__main__":
    run(backup_vps2)
