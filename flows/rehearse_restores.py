"""The weekly restore of every data type to scratch."""

from __future__ import annotations

from prefect import flow

from flows.command_line import run
from flows.rehearsals import rehearse_all


@flow(flow_run_name="rehearse restores")
def rehearse_restores(data_types: list[str] | None = None) -> None:
    """
    Restore the newest good copy of every data type to a throwaway place, compare evidence, and measure the time.

    Protects: against backups that cannot be restored. Never touches what is protected.
    Promise:  weekly; one that fails stops no other, makes the run red, and is named. Needs GX_IDENTITY_FILE.
    Restore:  docs/runbooks/rehearse-restores.md

    Args:
        data_types: only these; all by default
    """
    rehearse_all(data_types)


if __name__ == "__main__":
    run(rehearse_restores)
