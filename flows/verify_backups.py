"""The daily look at the last day's snapshots."""

from __future__ import annotations

from prefect import flow

from flows.command_line import run
from flows.proofs import verify_day


@flow(flow_run_name="verify backups")
def verify_backups() -> None:
    """
    Prove that every snapshot of the last day is on the remote, complete, and equal to what was sent.

    Protects: against a backup that was green and is not there.
    Promise:  daily; one rotten or missing file makes it red, and names it.
    Restore:  docs/runbooks/verify-backups.md
    """
    verify_day()


if __name__ == "__main__":
    run(verify_backups)
