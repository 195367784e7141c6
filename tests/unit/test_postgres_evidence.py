"""Two counts of a database held against each other, one of them perhaps of an older release."""

from __future__ import annotations

from typing import Any

import pytest

from gxbackup.postgres.evidence import differences


def counted(**objects: int) -> dict[str, Any]:
    return {"objects": objects, "needs_roles": []}


def older(**objects: int) -> dict[str, Any]:
    """Return what a release counted that counted also what no dump holds."""
    return {"objects": objects}


@pytest.mark.parametrize(
    ("expected", "seen", "told"),
    [
        (older(functions=5, triggers=2), counted(triggers=1), []),
        (older(indexes=1), counted(indexes=2), ["object indexes: expected 1, seen 2"]),
        (older(views=2), counted(views=1), ["object views: expected 2, seen 1"]),
        (counted(functions=5), counted(), ["object functions: expected 5, seen none"]),
    ],
)
def test_only_of_an_older_snapshot_less_comes_back_than_was_counted(
    expected: dict[str, Any], seen: dict[str, Any], told: list[str]
) -> None:
    assert differences(expected, seen) == told
