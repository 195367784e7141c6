"""The hourly look at all backups."""

from __future__ import annotations

from prefect import flow

from flows.command_line import run
from flows.proofs import check_health


@flow(flow_run_name="check backup health")
def check_backup_health() -> None:
    """
    Tell how every promise is kept now, worst first; failed where a person must act today.

    Protects: nothing itself; it says what is not protected.
    Promise: hourly; age, size and rehearsals of every data type, room, CronJobs, workers, certificates, the clock.
    Restore: docs/runbooks/check-backup-health.md
    """
    check_health()


if __name__ == "__main__":
    run(check_backup_health)
