"""A standby of PostgreSQL: captured while it follows its primary, not once it has lost it, and never restored to."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gxbackup.errors import CollectError, RestoreRefusedError
from gxbackup.sources.postgres import Postgres
from tests.integration.postgres_server import (
    PASSWORD,
    Protected,
    backed_up,
    host_with,
    only,
    owner_words,
    running_server,
    started,
    work_of,
)

SOURCE = Postgres(namespace="backend-mainnet", pod="postgres-0")


@contextmanager
def standby_of(primary: Protected) -> Iterator[Protected]:
    """Start a server that follows another; stopped and removed with the block."""
    with tempfile.TemporaryDirectory(prefix="gx-test-postgres-", dir="/var/tmp") as made:
        folder = Path(made)
        env = {**os.environ, **primary.env(), "PGPASSWORD": PASSWORD, "PGUSER": "postgres"}
        subprocess.run(
            [*owner_words(folder), primary.programs / "pg_basebackup", "-D", folder / "data", "-R", "-c", "fast",
             "--no-sync"],
            check=True, capture_output=True, cwd=folder, env=env,
        )  # fmt: skip
        with started(Protected(folder, primary.programs)) as server:
            yield server


def await_receiver(standby: Protected, status: str) -> None:
    deadline = time.monotonic() + 60
    while standby.psql("SELECT coalesce(max(status), '') FROM pg_stat_wal_receiver") != status:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def primary() -> Iterator[Protected]:
    """A primary of this module's own: a test stops it."""
    with running_server() as server:
        server.psql("CREATE DATABASE app")
        server.psql("CREATE TABLE t AS SELECT generate_series(1, 100) AS a", "app")
        yield server


def test_a_standby_is_captured_while_it_follows_and_never_restored_to(primary: Protected, tmp_path: Path) -> None:
    with standby_of(primary) as standby:
        await_receiver(standby, "streaming")
        host = host_with(pod=standby.place())

        opened = backed_up(SOURCE, host, tmp_path / "plain", only="app")
        for attempt in (SOURCE.preview, SOURCE.apply):
            with pytest.raises(RestoreRefusedError, match="can be written to, seen one in recovery"):
                attempt(host, work_of(SOURCE, opened, tmp_path))
        rehearsed = SOURCE.rehearse(host, work_of(SOURCE, opened, tmp_path))

        assert only(opened, "app").artifact.evidence["tables"] == {"public.t": 100}
        assert rehearsed[0].startswith("app: evidence equal: 1 tables with 100 rows")
        assert not list(standby.folder.glob("data/pgsql_tmp.gx-restore"))


def test_a_standby_that_has_lost_its_primary_is_not_captured_now(primary: Protected) -> None:
    with standby_of(primary) as standby:
        await_receiver(standby, "streaming")
        primary.control("-m", "fast", "stop")
        try:
            await_receiver(standby, "")

            with pytest.raises(CollectError, match="expected to be streaming, seen none: .* may be old") as caught:
                SOURCE.collect(host_with(pod=standby.place()), "pg")
        finally:
            primary.control("restart")  # with the options that it had

        assert caught.value.retryable
