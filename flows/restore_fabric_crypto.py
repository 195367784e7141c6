"""The restore of Fabric's certificate authorities, Secrets, and MSP and TLS material on claims."""

from __future__ import annotations

from typing import Literal

from prefect import flow
from pydantic import JsonValue

from flows.command_line import run
from flows.data_recipe import restore_data
from tasks.handover import went_on_elsewhere


@flow(flow_run_name="restore fabric-crypto {snapshot} ({mode})")
def restore_fabric_crypto(
    snapshot: str = "latest",
    cas: list[str] | None = None,
    allow_older: bool = False,
    unmatched: bool = False,
    server: Literal["mainnet", "vps2"] = "mainnet",
    mode: Literal["plan", "scratch", "in-place"] = "plan",
    approve: bool = False,
) -> None:
    """
    Put Fabric's CAs back with keys and databases, the Secrets of their namespace, and MSP and TLS material on claims.

    Protects: each CA's home as of one moment; Secrets and claims of MainNet's namespace, and TestNet's Secrets on vps2.
    Promise:  what was there stays on its volume and is put back on failure; a CA shows the kept certificate after.
    Restore:  docs/runbooks/restore-fabric-crypto.md

    Args:
        snapshot: a snapshot id such as 20261122_040000, or latest: the newest good one
        cas: a CA (ca-org1), a claim, or an organisation with its Secrets and claims (org1); empty: all of them
        server: mainnet, or vps2 for TestNet's Secrets
        allow_older: also where a certificate on a claim or in a Secret was issued later than the one that was kept
        unmatched: also where a CA's registry in PostgreSQL is of another moment than the snapshot: only where it was
            never lost, and the CA's certificate is still the same one
        mode: plan shows what would happen, scratch opens and compares all of it, in-place stops, restores and starts
        approve: go on without asking in the UI
    """
    options: dict[str, JsonValue] = {"cas": [*(cas or [])], "allow_older": allow_older, "unmatched": unmatched}
    if not went_on_elsewhere(server):
        restore_data(server, "fabric-crypto", snapshot, mode, approve, options)


if __name__ == "__main__":
    run(restore_fabric_crypto)
