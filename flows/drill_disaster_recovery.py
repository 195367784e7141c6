"""The monthly drill: everything is lost but the remote."""

from __future__ import annotations

from prefect import flow

from flows.command_line import run
from flows.rehearsals import drill_all


@flow(flow_run_name="disaster recovery drill")
def drill_disaster_recovery() -> None:
    """
    Restore everything from the remote alone, in the order that a lost system needs, to throwaway places; one report.

    Protects: against a plan that was never tried. Never touches what is protected.
    Promise:  monthly; for each data type what would be lost and how long it takes, beside what was promised.
    Restore:  docs/runbooks/drill-disaster-recovery.md
    """
    drill_all()


if __name__ == "__main__":
    run(drill_disaster_recovery)
