"""The restore of chaincode packages."""

from __future__ import annotations

from typing import Literal

from prefect import flow
from pydantic import JsonValue

from flows.command_line import run
from flows.data_recipe import restore_data


@flow(flow_run_name="restore chaincode {snapshot} ({mode})")
def restore_chaincode(
    snapshot: str = "latest",
    peers: list[str] | None = None,
    restart: bool = True,
    mode: Literal["plan", "scratch", "in-place"] = "plan",
    approve: bool = False,
) -> None:
    """
    Put chaincode packages back into the peers that lack them.

    Protects: every package that a peer of MainNet had installed, by its package id.
    Promise:  each package's sha256 is the one in its name; a package that a peer has is left as it is.
    Restore:  docs/runbooks/restore-chaincode.md

    Args:
        snapshot: a snapshot id such as 20261122_040000, or latest: the newest good one
        peers: only these pods; one that the backup does not know gets all packages; empty: those it knows
        restart: start a peer again that got one, so that it knows it
        mode: plan shows what each peer lacks, scratch proves every package, in-place puts them back
        approve: go on without asking in the UI
    """
    options: dict[str, JsonValue] = {"peers": [*(peers or [])], "restart": restart}
    restore_data("mainnet", "chaincode-packages", snapshot, mode, approve, options)


if __name__ == "__main__":
    run(restore_chaincode)
