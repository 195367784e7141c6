"""The look around before a backup, as a task."""

from __future__ import annotations

from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
from prefect import task
from prefect.client.orchestration import get_client

from gxbackup import clock
from gxbackup import survey as surveys
from gxbackup.survey import Survey
from tasks import host
from tasks.policy import BRIEF


@task(task_run_name="survey {server}", **BRIEF)
def survey(server: str, only: list[str] | None, without: list[str], area: Path) -> Survey:
    """Check keys, recipients, remote and clock; read the catalog; say what is due."""
    now = clock.now()
    if (server_time := prefect_server_time()) is not None:
        surveys.check_clock(now, server_time, "the Prefect server")
    return surveys.survey(host.inventory(), server, host.remote(), area, now, only, without)


def prefect_server_time() -> datetime | None:
    """Return the Prefect server's clock, from the Date header of an answer; None where none answers now."""
    try:
        with get_client(sync_client=True) as client:
            date = client.hello().headers.get("Date")
    except httpx.HTTPError:
        return None  # a server that is away for a moment is no reason to stop a backup
    return parsedate_to_datetime(date) if date else None
