"""The weekly look at everything that is held."""

from __future__ import annotations

from prefect import flow

from flows.command_line import run
from flows.proofs import verify_all


@flow(flow_run_name="verify integrity")
def verify_integrity() -> None:
    """
    Compare the remote's hash of every artifact with its manifest; read a rotating sample back, unseal and open it.

    Protects: against rot, and against copies that nobody could open.
    Promise:  weekly; everything held is opened once before it goes. Needs GX_IDENTITY_FILE: the rehearsal identity.
    Restore:  docs/runbooks/verify-integrity.md
    """
    verify_all()


if __name__ == "__main__":
    run(verify_integrity)
