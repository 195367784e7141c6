"""When a task is tried again, how often and how long it may take; and errors that read as one message in the log."""

from __future__ import annotations

import logging
from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from gxbackup.errors import BackupError
from tasks import logs

_SLOW = 24 * 3600
_FAST = 3600


def is_retryable(_task: Task[..., Any], _task_run: TaskRun, state: State[Any]) -> bool:
    """Ask the error itself whether trying again can help; an error that is not ours says no."""
    failure = state.data
    if hasattr(failure, "get"):
        failure = failure.get()
    return isinstance(failure, BackupError) and failure.retryable


def _options(retries: int, timeout_seconds: int) -> dict[str, Any]:
    return {
        "retries": retries,
        "retry_delay_seconds": exponential_backoff(backoff_factor=5),
        "retry_jitter_factor": 0.5,
        "retry_condition_fn": is_retryable,
        "timeout_seconds": timeout_seconds,
        # A task is worth its side effect: an equal input must run again.
        "cache_policy": NO_CACHE,
        "persist_result": False,
    }


# Reads or moves data, as long as that takes: an upload of a large ledger over a slow line is no failure.
BULK: dict[str, Any] = _options(retries=2, timeout_seconds=_SLOW)
# Asks a question or moves a few small files.
BRIEF: dict[str, Any] = _options(retries=3, timeout_seconds=_FAST)
# Changes a target: a person decides whether it is tried again.
ONCE: dict[str, Any] = _options(retries=0, timeout_seconds=_SLOW)


class _OneMessage(logging.Filter):
    """Logs our own errors as their message with hints; the traceback of an expected failure helps nobody at night."""

    def filter(self, record: logging.LogRecord) -> bool:
        failure = record.exc_info[1] if record.exc_info else None
        if isinstance(failure, BackupError):
            record.msg, record.args = f"{type(failure).__name__}: {failure}", ()
            record.exc_info = record.exc_text = None
        return True


def speak_plainly() -> None:
    """Make Prefect's run loggers spell our errors as one message, and write the flow's log file; harmless to repeat."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        if not any(isinstance(existing, _OneMessage) for existing in logger.filters):
            logger.addFilter(_OneMessage())
    logs.attach()
