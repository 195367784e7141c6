"""Reports and progress in the Prefect UI. The only importer of `prefect.artifacts`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self
from uuid import UUID

import httpx
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger

from gxbackup.adapters.rclone import Progress
from tasks.pages import human_bytes

_SECONDS_BETWEEN_UPDATES = 2.0


@contextmanager
def _if_the_server_answers() -> Iterator[None]:
    """A report that cannot be shown is said in the log; it never ends a backup."""
    try:
        yield
    except (httpx.HTTPError, PrefectException) as error:
        get_run_logger().warning("the Prefect server took no report: %s", error)


def publish(key: str, markdown: str, description: str) -> None:
    """Show a report in the UI under a stable key; each run adds a version to its history."""
    with _if_the_server_answers():
        create_markdown_artifact(key=key, markdown=markdown, description=description)


class TransferProgress:
    """Shows a transfer's bytes, rate and time left as a progress report, and in the run's log, every two seconds."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._artifact: UUID | None = None
        self._told = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __call__(self, seen: Progress) -> None:
        """Take one word of rclone's; small transfers end before the first report."""
        moment = time.monotonic()
        if moment - self._told < _SECONDS_BETWEEN_UPDATES:
            return
        self._told = moment
        percent = 100.0 * seen.transferred_bytes / seen.total_bytes if seen.total_bytes else 0.0
        left = f", {seen.eta_seconds:.0f} s left" if seen.eta_seconds is not None else ""
        words = (
            f"{self._what}: {human_bytes(seen.transferred_bytes)} of {human_bytes(seen.total_bytes)}, "
            f"{human_bytes(seen.bytes_per_second)}/s{left}"
        )
        get_run_logger().info(words)
        with _if_the_server_answers():
            if self._artifact is None:
                self._artifact = _created(create_progress_artifact(progress=percent, description=words))
            else:
                update_progress_artifact(self._artifact, progress=percent, description=words)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._artifact is not None and error is None:
            with _if_the_server_answers():
                update_progress_artifact(self._artifact, progress=100.0, description=f"{self._what}: done")


def _created(artifact: object) -> UUID:
    assert isinstance(artifact, UUID)
    return artifact
