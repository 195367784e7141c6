"""What PostgreSQL's programs say, as a person may read it."""

from __future__ import annotations

import pytest

from gxbackup.errors import CommandError
from gxbackup.postgres.said import explained

SECRET = "hunter2"
HEAD = "pod a/b: sh: expected exit status 0, seen exit status 1: "
RESTORE = f"""pg_restore: from TOC entry 2; 1417 5 USER MAPPING USER MAPPING gone SERVER s postgres
pg_restore: error: could not execute query: ERROR:  role "gone" does not exist
Command was: CREATE USER MAPPING FOR gone SERVER s OPTIONS (
    password '{SECRET}'
);


pg_restore: warning: errors ignored on restore: 1"""
COPY = f"""pg_restore: error: COPY failed for table "t": ERROR:  new row for relation "t" violates check constraint "c"
DETAIL:  Failing row contains (1, {SECRET}
{SECRET}).
CONTEXT:  COPY t, line 1: "1	{SECRET}"
HINT:  look at it"""
PSQL = f"""psql:<stdin>:2: ERROR:  syntax error at or near "x"
LINE 1: ALTER ROLE a PASSWORD '{SECRET}' x
                                        ^"""
DUMP = f"""pg_dump: error: Dumping the contents of table "t" failed: PQgetResult() failed.
pg_dump: detail: Error message from server: ERROR:  invalid memory alloc request size 1080000003
pg_dump: detail: Command was: COPY public.t (a, {SECRET}) TO stdout;"""


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (
            RESTORE,
            'ERROR:  role "gone" does not exist\nCommand was: CREATE USER MAPPING …\npg_restore: warning: errors',
        ),
        (COPY, 'violates check constraint "c"\nHINT:  look at it'),
        (PSQL, 'syntax error at or near "x"'),
        (DUMP, "request size 1080000003\npg_dump: detail: Command was: COPY public.t (a, …"),
    ],
)
def test_neither_rows_nor_statements_are_told_but_what_is_wrong_is(said: str, kept: str) -> None:
    error = explained(CommandError(HEAD + said))

    assert error.message.startswith(HEAD + said.split("\n", 1)[0])
    assert kept in error.message
    assert SECRET not in str(error)
    assert explained(error).message == error.message


@pytest.mark.parametrize("said", [RESTORE, COPY])
def test_what_cannot_be_made_comes_with_the_way_to_all_else(said: str) -> None:
    (hint,) = explained(CommandError(HEAD + said)).hints

    assert hint.endswith("pg_restore without --exit-on-error names what fails and goes on")


def test_of_words_that_were_cut_at_their_front_only_what_can_be_told_apart_is_told() -> None:
    amid = f"  '{SECRET}',\n" * 1000
    error = explained(CommandError(f"{HEAD}{amid}pg_restore: error: No space left on device"))

    assert error.message == f"{HEAD}pg_restore: error: No space left on device"
    assert error.hints == ("the disk of the server, or of the place's /tmp, is full",)


def test_a_cause_that_is_known_by_words_that_are_not_told_keeps_its_hint() -> None:
    error = explained(CommandError(f"{HEAD}psql: ERROR:  no\nDETAIL:  server closed the connection for {SECRET}"))

    assert error.message == f"{HEAD}psql: ERROR:  no"
    assert error.hints == ("was the server stopped, or the database dropped, meanwhile?",)
