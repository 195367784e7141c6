"""What a drill says of a step that came back: older than promised, later than promised, or not at all."""

from __future__ import annotations

import pytest

from gxbackup import drill
from gxbackup.drill import Step
from gxbackup.proofs import Rehearsal
from tasks.proof_pages import drill_page
from tests.unit.catalogs import day, named


def step(age_hours: float = 20, rto_seconds: float = 10, failure: str | None = None) -> Step:
    rehearsal = Rehearsal(snapshot=named(1), at=day(2), rto_seconds=rto_seconds, failure=failure)
    return Step(
        server="vps1", data_type="website", rpo_hours=24, rto_hours=4, age_hours=age_hours, rehearsal=rehearsal,
        failure=failure,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "pages"),
    [
        (step(), []),
        (step(age_hours=25.9), []),
        (step(age_hours=26.1), ["alert-BackupJobFailed"]),
        (step(rto_seconds=5 * 3600), ["alert-RestoreTooSlow"]),
        (step(age_hours=960, rto_seconds=5 * 3600), ["alert-BackupJobFailed", "alert-RestoreTooSlow"]),
        (step(age_hours=960, failure="one row too few"), ["alert-RestoreRehearsalFailed"]),
    ],
)
def test_each_broken_promise_of_a_step_is_a_finding_with_its_page(seen: Step, pages: list[str]) -> None:
    found = drill.findings(seen)

    assert [finding.runbook for finding in found] == pages
    assert {finding.level for finding in found} <= {"failing" if seen.failure else "warning"}


def test_what_came_back_older_than_promised_is_yellow_and_says_how_old_it_is() -> None:
    steps = [step(), step(age_hours=960)]
    page = drill_page("Drill", steps, [finding for one in steps for finding in drill.findings(one)])

    assert "| 🟡 warning | vps1 website | what came back is 960 h old, promised 24 h |" in page
    assert page.index("| 🟡 warning | 2 | vps1 website |") < page.index("| 🟢 well | 1 | vps1 website |")
    assert "Beside the promises: 1 too old, 0 too slow." in page
