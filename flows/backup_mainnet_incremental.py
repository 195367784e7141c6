"""The six-hourly backup of MainNet's databases."""

from __future__ import annotations

from prefect import flow

from flows.command_line import run
from flows.recipes import back_up


@flow(flow_run_name="backup mainnet incremental")
def backup_mainnet_incremental(only: list[str] | None = None, rpo_hours: float = 6) -> str:
    """
    Back up what MainNet may lose at most six hours of; what has not changed since its last good copy is not sent again.

    Protects: PostgreSQL and Redis of MainNet, and whatever else is promised so often.
    Promise:  at most 6 h lost; kept 7 days.
    Restore:  docs/runbooks/restore-mainnet-postgres.md and docs/runbooks/restore-mainnet-redis.md

    Args:
        only: these data types and no others; by default those that are promised at least this often
        rpo_hours: at least this often
    """
    return back_up("mainnet", only, rpo_hours=rpo_hours)


if __name__ == "__main__":
    run(backup_mainnet_incremental)
