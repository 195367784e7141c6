"""Servers that many tests read from: each is started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.postgres_server import Protected, fill, running_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Protected]:
    """Give a PostgreSQL with databases of every kind; tests leave those as they are."""
    with running_server() as server:
        fill(server)
        yield server
