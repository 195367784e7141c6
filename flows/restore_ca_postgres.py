"""The restore of Fabric CA's PostgreSQL."""

from __future__ import annotations

from typing import Literal

from prefect import flow
from pydantic import JsonValue

from flows.command_line import run
from flows.data_recipe import restore_data


@flow(flow_run_name="restore postgres-ca {snapshot} ({mode})")
def restore_ca_postgres(
    snapshot: str = "latest",
    mode: Literal["plan", "scratch", "in-place"] = "plan",
    approve: bool = False,
    databases: list[str] | None = None,
    point: str = "",
    to: str = "",
    place: Literal["", "pod", "docker"] = "",
) -> None:
    """
    Put Fabric CA's PostgreSQL back: all databases, some, or one database or table beside the live ones.

    Protects: identities and certificates in fabric/postgres-0, in the Docker container postgres.ca, or both.
    Promise:  at most 24 h lost; kept 90 days; its keys are restored by restore-fabric-crypto, from the same snapshot.
    Restore:  docs/runbooks/restore-ca-postgres.md

    Args:
        snapshot: a snapshot id such as 20261122_040000, or latest: the newest good one
        mode: plan shows what would happen, scratch restores to a throwaway server and compares, in-place replaces
        approve: go on without asking in the UI
        databases: only these; by default every one that holds anything
        point: one database, or one table as database.schema.table, put beside the live ones as the database `to`
        to: the name of the new database for `point`; it may not exist yet
        place: only the server in the pod, or only the one in the Docker container; by default each that was captured
    """
    options: dict[str, JsonValue] = {"databases": [*(databases or [])], "point": point, "to": to, "place": place}
    restore_data("mainnet", "postgres-ca", snapshot, mode, approve, options)


if __name__ == "__main__":
    run(restore_ca_postgres)
