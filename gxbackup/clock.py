"""The only reader of the wall clock, so that every time in the project is aware and UTC."""

from __future__ import annotations

import time
from datetime import UTC, datetime

_LOOK_SECONDS = 1.0


def now() -> datetime:
    """Return this moment, aware, in UTC."""
    return datetime.now(UTC)


def next_full(seconds: int) -> datetime:
    """Return the next moment that is a multiple of so many seconds since 1970: the same one on every host."""
    return datetime.fromtimestamp((now().timestamp() // seconds + 1) * seconds, UTC)


def wait_until(moment: datetime) -> None:
    """Return at a moment, also where the clock is set meanwhile."""
    while (left_seconds := (moment - now()).total_seconds()) > 0:
        time.sleep(min(left_seconds, _LOOK_SECONDS))
