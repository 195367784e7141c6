"""The six-hourly backup of TestNet's databases."""

from __future__ import annotations

from prefect import flow

from flows.command_line import run
from flows.recipes import back_up


@flow(flow_run_name="backup testnet databases")
def backup_testnet_databases(only: list[str] | None = None, rpo_hours: float = 6) -> str:
    """
    Back up what TestNet may lose at most six hours of; what has not changed since its last good copy is not sent again.

    Protects: PostgreSQL and Redis of backend-testnet on vps2, and whatever else is promised so often there.
    Promise:  at most 6 h lost; kept 3 days.
    Restore:  docs/runbooks/restore-testnet-postgres.md and docs/runbooks/restore-testnet-redis.md

    Args:
        only: these data types and no others; by default those that are promised at least this often
        rpo_hours: at least this often
    """
    return back_up("vps2", only, rpo_hours=rpo_hours)


if __name__ == "__main__":
    run(backup_testnet_databases)
