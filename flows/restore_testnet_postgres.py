"""The restore of TestNet's PostgreSQL."""

from __future__ import annotations

from typing import Literal

from prefect import flow
from pydantic import JsonValue

from flows.command_line import run
from flows.data_recipe import restore_data


@flow(flow_run_name="restore postgres-testnet {snapshot} ({mode})")
def restore_testnet_postgres(
    snapshot: str = "latest",
    mode: Literal["plan", "scratch", "in-place"] = "plan",
    approve: bool = False,
    databases: list[str] | None = None,
    point: str = "",
    to: str = "",
) -> None:
    """
    Put TestNet's PostgreSQL back: all databases, some, or one database or table beside the live ones.

    Protects: every database, role and tablespace of backend-testnet/postgres-0.
    Promise:  at most 6 h lost; kept 3 days.
    Restore:  docs/runbooks/restore-testnet-postgres.md

    Args:
        snapshot: a snapshot id such as 20261122_040000, or latest: the newest good one
        mode: plan shows what would happen, scratch restores to a throwaway server and compares, in-place replaces
        approve: go on without asking in the UI
        databases: only these; by default every one that holds anything
        point: one database, or one table as database.schema.table, put beside the live ones as the database `to`
        to: the name of the new database for `point`; it may not exist yet
    """
    options: dict[str, JsonValue] = {"databases": [*(databases or [])], "point": point, "to": to}
    restore_data("vps2", "postgres-testnet", snapshot, mode, approve, options)


if __name__ == "__main__":
    run(restore_testnet_postgres)
