"""The restore of MainNet's PostgreSQL."""

from __future__ import annotations

from typing import Literal

from prefect import flow
from pydantic import JsonValue

from flows.command_line import run
from flows.data_recipe import restore_data


@flow(flow_run_name="restore postgres-mainnet {snapshot} ({mode})")
def restore_mainnet_postgres(
    snapshot: str = "latest",
    mode: Literal["plan", "scratch", "in-place"] = "plan",
    approve: bool = False,
    databases: list[str] | None = None,
    point: str = "",
    to: str = "",
) -> None:
    """
    Put MainNet's PostgreSQL back: all databases, some, or one database or table beside the live ones.

    Protects: every database, role and tablespace of backend-mainnet/postgres-0.
    Promise:  at most 6 h lost; kept 7 days.
    Restore:  docs/runbooks/restore-mainnet-postgres.md

    Args:
        snapshot: a snapshot id such as 20261122_040000, or latest: the newest good one
        mode: plan shows what would happen, scratch restores to a throwaway server and compares, in-place replaces
        approve: go on without asking in the UI
        databases: only these; by default every one that holds anything
        point: one database, or one table as database.schema.table, put beside the live ones as the database `to`
        to: the name of the new database for `point`; it may not exist yet
    """
    options: dict[str, JsonValue] = {"databases": [*(databases or [])], "point": point, "to": to}
    restore_data("mainnet", "postgres-mainnet", snapshot, mode, approve, options)


if __name__ == "__main__":
    run(restore_mainnet_postgres)
