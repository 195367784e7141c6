"""
What PostgreSQL's programs say of a failure: with a hint at what a person can do, and without what is not to be read.

pg_restore repeats the statement that failed, and its password with it; the server adds the row that it failed at.
"""

from __future__ import annotations

import re

from gxbackup.errors import CommandError

# What these programs say → what a person can do, and whether trying again can help.
_EXPLAINED: tuple[tuple[str, str, bool], ...] = (
    (
        r"password authentication failed|no password supplied|no pg_hba.conf entry|[Pp]eer authentication failed",
        "does the place's variable that source.password_variable names hold the password of source.user?",
        False,
    ),
    (
        r"lock timeout|could not obtain lock",
        "a transaction holds that table against reading (ALTER, TRUNCATE, VACUUM FULL): see pg_locks",
        True,
    ),
    (
        r"out of memory|invalid memory alloc request size|cannot enlarge string buffer",
        "a row that is larger than 1 GB as text cannot be dumped by PostgreSQL: split it, or use a large object",
        False,
    ),
    (r"server version mismatch", "the pg_dump there is older than its server: use the server's own image", False),
    (r"database \S+ does not exist", "was it dropped after it was listed? then the next run is whole again", True),
    (
        r"terminating connection|server closed the connection|the database system is (starting|shutting)",
        "was the server stopped, or the database dropped, meanwhile?",
        True,
    ),
    (r"No space left on device", "the disk of the server, or of the place's /tmp, is full", False),
    (
        r"pg_restore: error: (could not execute query|COPY failed)",
        (
            "the archive is whole, and this of it cannot be made here; where all else is needed now: the snapshot's "
            "RECOVER.md puts it back by hand, and pg_restore without --exit-on-error names what fails and goes on"
        ),
        False,
    ),
)
# Longer ones were cut at their front, so that they may begin amid a statement or a row.
_WHOLE_BYTES = 8000
_OUR_WORDS = re.compile(r".*?exit status (?:0, seen (?:exit status )?)?\d+: ")
_SPEAKS = re.compile(r"(?:psql|pg_restore|pg_dump|pg_dumpall|HINT):")
# libpq spells these in the client's language, which is English.
_HOLDS_DATA = re.compile(r"(?:DETAIL|CONTEXT|QUERY|STATEMENT|LINE \d+):")
_STATEMENT = re.compile(r"(.*?\b(?:[Cc]ommand|[Qq]uery) was: )(.*)")
_STATEMENT_WORDS = 3


def explained(error: CommandError) -> CommandError:
    """Return the same error without rows and statements; with a hint at what to do, where its words are known."""
    message = _without_data(error.message)
    for pattern, hint, retryable in _EXPLAINED:
        if re.search(pattern, error.message):
            return CommandError(message, *error.hints, hint, retryable=retryable)
    return CommandError(message, *error.hints, retryable=error.retryable)


def _without_data(message: str) -> str:
    """Return the lines that neither begin with what holds data nor go on with it; of a statement its first words."""
    is_ours = _OUR_WORDS.match(message)
    our_words = is_ours[0] if is_ours else ""
    kept: list[str] = []
    is_kept = len(message.encode("utf-8", "replace")) < _WHOLE_BYTES
    for line in message[len(our_words) :].split("\n"):
        if found := _STATEMENT.match(line):
            kept.append(f"{found[1]}{' '.join(found[2].split()[:_STATEMENT_WORDS])} …")
            is_kept = False
            continue
        if _SPEAKS.match(line):
            is_kept = True
        elif _HOLDS_DATA.match(line):
            is_kept = False
        if is_kept:
            kept.append(line)
    return our_words + "\n".join(kept).rstrip()
