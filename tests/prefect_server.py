"""The embedded Prefect server that tests of flows share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
from prefect.testing.utilities import prefect_test_harness


@contextmanager
def serving_flows() -> Iterator[None]:
    """Serve the flows that this process runs within the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        # Each flow would wait up to a second for the end of its heartbeats; tests/integration runs flows with them.
        patch.setattr("prefect.flow_engine._send_heartbeats", lambda *_, **__: nullcontext())
        with prefect_test_harness(server_startup_timeout=300):
            yield
