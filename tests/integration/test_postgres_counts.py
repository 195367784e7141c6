"""What pg_dump passes over: it is not counted, so that what comes back is equal."""

from __future__ import annotations

from pathlib import Path

from gxbackup.sources.postgres import Postgres
from tests.integration.postgres_server import Protected, backed_up, host_with, only, work_of

SOURCE = Postgres(namespace="backend-mainnet", pod="postgres-0")
PASSED_OVER = r"""
CREATE TABLE t AS SELECT 1 AS a FROM generate_series(1, 2); CREATE INDEX good ON t (a);
\set ON_ERROR_STOP off
CREATE UNIQUE INDEX CONCURRENTLY never_finished ON t (a);
\set ON_ERROR_STOP on
CREATE TYPE span AS RANGE (subtype = int);
CREATE TABLE event (day date) PARTITION BY RANGE (day); CREATE INDEX parted ON ONLY event (day);
CREATE TABLE event_2026 PARTITION OF event FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE event_2027 PARTITION OF event FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER noted AFTER INSERT ON event FOR EACH ROW EXECUTE FUNCTION noted();
"""


def test_what_no_dump_holds_is_not_counted_and_the_rest_comes_back_equal(postgres: Protected, tmp_path: Path) -> None:
    host = host_with(pod=postgres.place())
    postgres.psql("CREATE DATABASE passed_over")
    try:
        postgres.psql(PASSED_OVER, "passed_over")
        opened = backed_up(SOURCE, host, tmp_path / "plain", only="passed_over")

        said = SOURCE.rehearse(host, work_of(SOURCE, opened, tmp_path))

        assert postgres.psql("SELECT indisvalid FROM pg_index WHERE indexrelid = 'never_finished'::regclass",
                             "passed_over") == "f"  # fmt: skip
        assert only(opened, "passed_over").artifact.evidence["objects"] == {
            "indexes": 3, "partitioned_indexes": 1, "partitioned_tables": 1, "functions": 1, "types": 1, "triggers": 1,
        }  # fmt: skip
        assert said[-1].startswith("passed_over: evidence equal: 3 tables with 2 rows")
    finally:
        postgres.psql("DROP DATABASE passed_over WITH (FORCE)")
