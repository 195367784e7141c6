"""The daily backup of what MainNet holds as a cluster."""

from __future__ import annotations

from prefect import flow

from flows.command_line import run
from flows.recipes import back_up


@flow(flow_run_name="backup mainnet")
def backup_mainnet(only: list[str] | None = None) -> str:
    """
    Back up MainNet's databases, blockchain material and cluster state to the remote, all of it anew.

    Protects: PostgreSQL, Redis, CouchDB, the CAs with their database, chaincode, Kubernetes objects, the datastore.
    Promise:  at most 24 h lost (databases 6 h, by backup-mainnet-incremental); kept 7 to 90 days by data type.
    Restore:  docs/runbooks/README.md names the page for each data type

    Args:
        only: these data types and no others, whether they are due or not; all that are due by default
    """
    return back_up("mainnet", only)


if __name__ == "__main__":
    run(backup_mainnet)
