"""One table of a snapshot put beside the live databases where its rows lie in others: its partitions."""

from __future__ import annotations

from pathlib import Path

import pytest

from gxbackup.errors import RestoreRefusedError
from gxbackup.sources.postgres import Postgres
from tests.integration.postgres_server import Protected, backed_up, host_with, only, work_of

SOURCE = Postgres(namespace="backend-mainnet", pod="postgres-0")
PARTED = """
CREATE SCHEMA "o ld"; CREATE TABLE event (day date, n int) PARTITION BY RANGE (day);
CREATE TABLE event_2026 PARTITION OF event FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') PARTITION BY LIST (n);
CREATE TABLE event_2026_one PARTITION OF event_2026 FOR VALUES IN (1);
CREATE TABLE event_2026_rest PARTITION OF event_2026 DEFAULT;
CREATE TABLE "o ld"."event 2025" PARTITION OF event FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE "o ld".event_2026_one (n int); INSERT INTO "o ld".event_2026_one VALUES (1);
CREATE TABLE empty (day date) PARTITION BY RANGE (day);
INSERT INTO event SELECT '2026-05-01', i FROM generate_series(1, 40) i;
INSERT INTO event SELECT '2025-05-01', i FROM generate_series(1, 7) i;
"""


def test_a_partitioned_table_is_put_beside_with_the_rows_of_all_its_partitions(
    postgres: Protected, tmp_path: Path
) -> None:
    host = host_with(pod=postgres.place())
    postgres.psql("CREATE DATABASE parted")
    try:
        postgres.psql(PARTED, "parted")
        opened = backed_up(SOURCE, host, tmp_path / "plain", only="parted")
        all_of_it = work_of(SOURCE, opened, tmp_path, point="parted.public.event", to="events")
        part = work_of(SOURCE, opened, tmp_path, point="parted.public.event_2026", to="events of 2026")

        said = [*SOURCE.apply(host, all_of_it), *SOURCE.apply(host, part)]

        assert only(opened, "parted").artifact.evidence["partitions"] == {
            "public.event": ['"o ld"."event 2025"', "public.event_2026_one", "public.event_2026_rest"],
            "public.event_2026": ["public.event_2026_one", "public.event_2026_rest"],
        }
        assert said == [
            "events: evidence equal: table public.event with 47 rows in 3 partitions",
            "events of 2026: evidence equal: table public.event_2026 with 40 rows in 2 partitions",
        ]
        assert postgres.psql("SELECT count(*), count(DISTINCT n) FROM event", "events") == "47|40"
        assert postgres.psql("SELECT count(*) FROM event", "events of 2026") == "40"
        with pytest.raises(RestoreRefusedError, match="holds no such database or table"):
            SOURCE.select([one.artifact for one in opened], {"point": "parted.public.empty", "to": "x"})
    finally:
        for name in ("parted", "events", "events of 2026"):
            postgres.psql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
