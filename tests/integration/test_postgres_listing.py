"""An archive's own list against what was counted: a dump that ended well and left something out is no whole backup."""

from __future__ import annotations

from pathlib import Path

import pytest

from gxbackup.adapters.places import LocalPlace
from gxbackup.ports import StreamEnd
from gxbackup.postgres import listing
from gxbackup.scratch.postgres import programs
from gxbackup.sources.postgres import Postgres
from tests.integration.postgres_server import Protected, captured, database, host_with

SOURCE = Postgres(namespace="backend-mainnet", pod="postgres-0")


def end_of(place: LocalPlace, database: str = "app") -> StreamEnd:
    host = host_with(pod=place)
    capture = next(each for each in SOURCE.collect(host, "pg") if each.settings.get("database") == database)
    return captured(SOURCE, host, capture, 500)[1]


@pytest.mark.parametrize(
    ("left_out", "told"),
    [
        ("--exclude-table-data=public.account", "the rows of public.account"),
        (
            '--exclude-table=\'public."Odd ""table"\'',
            'the definition of public."Odd ""table", the rows of public."Odd ""table"',
        ),
        ("--no-blobs", "the large objects"),
        ("--no-blobs --extension=plpgsql", "extension pgcrypto, the large objects"),
        ("--schema-only", 'the large objects, the rows of "S p"."tab.le", the rows of '),
        ("--exclude-schema=public", "the definition of public."),
    ],
)
def test_what_a_dump_that_ended_well_left_out_is_named(
    postgres: Protected, tmp_path: Path, left_out: str, told: str
) -> None:
    script = tmp_path / "pg_dump"
    script.write_text(f'#!/bin/sh\n[ "$1" = --version ] || set -- {left_out} "$@"\nexec {programs()}/pg_dump "$@"\n')
    script.chmod(0o755)

    end = end_of(postgres.place(PATH=f"{tmp_path}:{postgres.env()['PATH']}"))

    (said,) = end.shortfalls
    assert said.startswith(f"pod backend/postgres-0: app.dump: the archive's own list lacks {told}")
    assert said.endswith(
        {"--schema-only": "the values of 2 of 2 sequences", "--exclude-schema=public": "and 3 more"}.get(left_out, told)
    )


def test_what_users_made_in_a_system_schema_is_a_shortfall_as_no_dump_holds_it(postgres: Protected) -> None:
    made = """CREATE TABLE information_schema.notes AS SELECT 1 AS a; CREATE VIEW public.fine AS SELECT 1 AS a;
        CREATE FUNCTION pg_catalog.ours(int) RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE EXTENSION adminpack"""
    with database(postgres, "hidden", made):
        (said,) = end_of(postgres.place(), "hidden").shortfalls

    reason = "(no dump holds what lies in a system schema: move it to another)"
    assert said.endswith(f"lacks function ours(integer) {reason}, information_schema.notes {reason}")


def test_a_long_list_is_read_of_a_longer_beginning_and_one_without_end_is_told(
    postgres: Protected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "BEGINNINGS_BYTES", (1000, 3000, 1024**2))
    whole = end_of(postgres.place())
    monkeypatch.setattr(listing, "BEGINNINGS_BYTES", (1000, 3000))
    cut = end_of(postgres.place())

    assert whole.shortfalls == ()
    assert cut.shortfalls == ("pod backend/postgres-0: app.dump: its list could not be read from its first 3000 bytes",)
