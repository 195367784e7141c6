"""A Redis with more databases than Redis serves by itself, on real servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gxbackup.model import Evidence
from gxbackup.redis import restore
from tests.integration.redis_servers import (
    APPENDING,
    FILES,
    source,
    taken,
    work,
)


@pytest.mark.parametrize("appends", [False, True], ids=["saves", "appends"])
@pytest.mark.parametrize("told", [True, False], ids=["counted", "not counted"])
def test_a_key_beyond_the_sixteenth_database_is_rehearsed_and_restored(
    own: Any, tmp_path: Path, appends: bool, told: bool
) -> None:
    redis = own("--databases", "200", "--appendonly", "yes" if appends else "no")
    redis.fill()
    redis.cli("-n", "150", "SET", "far", "away")
    given = work(tmp_path / "area", *taken(redis))
    evidence: Evidence = given.opened[0].artifact.evidence if told else {}
    redis.cli("FLUSHALL")

    rehearsed = source(redis).rehearse(redis.host(), given)
    restore.put_in_place(redis, given.opened[0].file, APPENDING if appends else FILES, evidence)

    assert rehearsed == ["1009 keys in 3 databases equal what was saved"]
    assert redis.cli("-n", "150", "GET", "far") == "away"
