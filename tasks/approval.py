"""A person's word before anything is overwritten."""

from __future__ import annotations

from typing import Literal

from prefect import runtime
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.logging import get_run_logger
from pydantic import Field

from gxbackup.errors import RestoreRefusedError

_WAIT_SECONDS = 12 * 3600


class Approval(RunInput):
    """What the person types into the UI's form."""

    confirm_target: str = Field(default="", description="type the target exactly as the report spells it")
    action: Literal["approve", "reject"] = "reject"


def approve_or_refuse(target: str, summary: str, approved: bool) -> None:
    """
    Return once a person has approved overwriting this target; at once where `approved` is set.

    Waits up to 12 h in the UI; no lock is held meanwhile. The typed target is compared here, since a wrong tab is
    easily clicked.

    Raises: RestoreRefusedError where it is rejected, the target differs, or nobody answers in time or can be asked.
    """
    if approved:
        return
    if runtime.deployment.id is None:
        raise RestoreRefusedError(
            f"{target}: in-place overwrites it, and nobody approved",
            "look at the plan above, then add --approve on the command line",
        )
    get_run_logger().warning("waiting for approval in the UI: %s", target)
    try:
        answer = pause_flow_run(
            wait_for_input=Approval.with_initial_data(description=summary), timeout=_WAIT_SECONDS, poll_interval=5
        )
    except FlowPauseTimeout:
        raise RestoreRefusedError(
            f"{target}: not approved: expected an answer within {_WAIT_SECONDS / 3600:g} h, seen none",
            "nothing was changed; to go on, start again",
        ) from None
    if answer.action != "approve" or answer.confirm_target.strip() != target:
        raise RestoreRefusedError(
            f"{target}: not approved: action {answer.action!r}, target typed {answer.confirm_target!r}",
            "nothing was changed; to go on, start again and type the target as the report spells it",
        )
