"""The restore of MainNet's Redis."""

from __future__ import annotations

from typing import Literal

from prefect import flow

from flows.command_line import run
from flows.data_recipe import restore_data


@flow(flow_run_name="restore redis-mainnet {snapshot} ({mode})")
def restore_mainnet_redis(
    snapshot: str = "latest", mode: Literal["plan", "scratch", "in-place"] = "plan", approve: bool = False
) -> None:
    """
    Put MainNet's Redis back: every database of it, as of one finished save.

    Protects: all keys of backend-mainnet/redis-0; its append-only file is written anew from them where it has one.
    Promise:  at most 6 h lost; kept 7 days. What was there stays beside it on the same volume.
    Restore:  docs/runbooks/restore-mainnet-redis.md

    Args:
        snapshot: a snapshot id such as 20261122_040000, or latest: the newest good one
        mode: plan shows what would happen, scratch serves it from a throwaway Redis and compares, in-place replaces
        approve: go on without asking in the UI
    """
    restore_data("mainnet", "redis-mainnet", snapshot, mode, approve)


if __name__ == "__main__":
    run(restore_mainnet_redis)
