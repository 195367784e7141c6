"""What is found wrong with the backups: by age, by size, by rehearsal, each with the words and the page for it."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from gxbackup import health
from gxbackup.health import Condition
from gxbackup.model import Catalog, Rejected
from gxbackup.proofs import Proofs, Rehearsal
from tasks.pages import backup_page
from tests.unit.catalogs import KEYS, SERVER, SITE, Promised, Shelf, Taken, daily, day, inventory, named

MIB = 1024**2


def look(shelf: Shelf, now: datetime, proofs: Proofs | None = None, **promised: Promised) -> Condition:
    wanted = inventory(**(promised or {"website": Promised()}))
    found = health.conditions([shelf.catalog()], wanted, {SERVER: proofs} if proofs else {}, now)
    return found[0]


def said(condition: Condition) -> list[tuple[str, str]]:
    return [(finding.level, finding.runbook) for finding in condition.findings]


def rehearsed(when: datetime, number: float, failure: str | None = None) -> Proofs:
    one = Rehearsal(snapshot=named(number), at=when, rto_seconds=12, failure=failure)
    return Proofs(server=SERVER).with_rehearsals({SITE: one})


def test_a_daily_copy_is_well_for_26_hours_and_then_late() -> None:
    shelf = daily(Shelf(), 0, 3)

    well = look(shelf, day(3) + timedelta(hours=26))
    late = look(shelf, day(3) + timedelta(hours=26, seconds=1))

    assert well.level() is None
    assert well.newest == named(3)
    assert said(late) == [("failing", "alert-BackupJobFailed")]
    assert late.findings[0].subject == "vps1 website"
    assert "1 d 2 h old, promised 1 d" in late.findings[0].message


def test_a_six_hourly_and_a_weekly_promise_have_their_own_limits() -> None:
    shelf = daily(Shelf(), 0, 0)

    assert look(shelf, day(0) + timedelta(hours=8), website=Promised(rpo_hours=6)).level() is None
    assert look(shelf, day(0) + timedelta(hours=9), website=Promised(rpo_hours=6)).level() == "failing"
    assert look(shelf, day(7) + timedelta(hours=1), website=Promised(rpo_hours=168)).level() is None
    assert look(shelf, day(7) + timedelta(hours=3), website=Promised(rpo_hours=168)).level() == "failing"


def test_what_was_never_backed_up_is_failing_and_not_forgotten() -> None:
    shelf = daily(Shelf(), 0, 3)

    found = health.conditions(
        [shelf.catalog()], inventory(website=Promised(), ssh_keys=Promised(rpo_hours=168)), {}, day(3)
    )

    assert [condition.data_type for condition in found] == [SITE, KEYS]
    assert found[1].newest is None
    assert found[1].age_hours is None
    assert said(found[1]) == [("failing", "alert-BackupNeverSucceeded")]
    assert found[1].findings[0].message == "never backed up"


def test_a_copy_that_is_named_ahead_of_the_clock_is_no_fresh_one_for_ever() -> None:
    shelf = daily(Shelf(), 0, 3)
    shelf.back_up(day(368), [Taken(SITE)])  # by a host whose clock was a year fast

    condition = look(shelf, day(40))

    assert said(condition) == [("failing", "check-backup-health")]
    assert "328 d ahead of this host's clock" in condition.findings[0].message
    assert look(shelf, day(368) - timedelta(minutes=4)).level() is None


def test_what_the_inventory_promises_no_more_is_told_as_long_as_its_copies_were_promised() -> None:
    shelf = daily(Shelf(), 0, 3)
    shelf.back_up(day(4), [Taken(KEYS, keep_days=90)])
    left, both = inventory(ssh_keys=Promised()), inventory(website=Promised(), ssh_keys=Promised())

    found = health.unpromised_findings(shelf.catalog(), left, day(20))

    assert [(one.level, one.subject) for one in found] == [("warning", "vps1 website")]
    assert f"the newest copy is {named(3)}" in found[0].message
    assert health.unpromised_findings(shelf.catalog(), left, day(34)) == []
    assert health.unpromised_findings(shelf.catalog(), both, day(20)) == []


def test_backups_that_stopped_40_days_ago_are_failing_with_their_copies_still_counted() -> None:
    shelf = daily(Shelf(), 0, 9)

    condition = look(shelf, day(49))

    assert condition.level() == "failing"
    assert condition.age_hours == 40 * 24
    assert (condition.copies, condition.held_bytes) == (10, 1000)


def test_a_copy_that_lost_a_file_is_no_copy() -> None:
    shelf = daily(Shelf(), 0, 3)
    shelf.lose(named(3), "one.tar.zst.age")
    shelf.lose(named(2), "one.tar.zst.age")

    condition = look(shelf, day(3) + timedelta(hours=1))

    assert condition.newest == named(1)
    assert condition.level() == "failing"


def test_a_failed_run_within_the_promise_is_a_warning_with_its_reason() -> None:
    shelf = daily(Shelf(), 0, 2)
    shelf.back_up(day(3), [Taken(KEYS)], missing=[SITE])

    condition = look(shelf, day(3) + timedelta(minutes=5))

    assert said(condition) == [("warning", "alert-BackupJobFailed")]
    assert "it failed" in condition.findings[0].message


@pytest.mark.parametrize(
    ("last_bytes", "level"),
    [(10 * MIB, None), (11 * MIB, None), (19 * MIB, None), (20 * MIB, "warning"), (5 * MIB, "warning"), (1, "warning")],
)
def test_half_or_double_of_its_own_median_is_told(last_bytes: int, level: str | None) -> None:
    shelf = daily(Shelf(), 0, 5, Taken(SITE, size_bytes=10 * MIB))
    shelf.back_up(day(6), [Taken(SITE, size_bytes=last_bytes)])

    condition = look(shelf, day(6))

    assert condition.usual_size_bytes == 10 * MIB
    assert condition.level() == level
    assert not level or said(condition) == [("warning", "alert-BackupSizeAnomaly")]


def test_a_small_tree_may_double_and_a_short_history_says_nothing() -> None:
    small = daily(Shelf(), 0, 5, Taken(SITE, size_bytes=256 * 1024))
    small.back_up(day(6), [Taken(SITE, size_bytes=512 * 1024)])
    short = daily(Shelf(), 0, 2, Taken(SITE, size_bytes=10 * MIB))
    short.back_up(day(3), [Taken(SITE, size_bytes=100 * MIB)])

    assert look(small, day(6)).level() is None
    assert look(short, day(3)).usual_size_bytes == 10 * MIB
    assert look(daily(Shelf(), 0, 2), day(2)).usual_size_bytes is None


def test_a_promise_that_was_never_rehearsed_counts_from_its_first_snapshot_not_from_the_beginning_of_time() -> None:
    assert restorable(day(20), None).unproven_since == day(0)
    assert restorable(day(20), rehearsed(day(13), 12)).unproven_since == day(13)
    assert look(daily(Shelf(), 0, 2), day(2)).unproven_since is None


def test_a_differential_copy_is_compared_with_differential_ones() -> None:
    shelf = Shelf()
    for week in range(4):
        base = shelf.back_up(day(7 * week), [Taken(SITE, size_bytes=900 * MIB)])
        for number in range(1, 7):
            shelf.back_up(day(7 * week + number), [Taken(SITE, size_bytes=10 * MIB, base=base)])

    assert look(shelf, day(27)).level() is None
    assert look(shelf, day(27)).usual_size_bytes == 10 * MIB


def restorable(now: datetime, proofs: Proofs | None) -> Condition:
    promised = inventory(website=Promised()).model_dump(mode="json")
    promised["servers"][SERVER]["data_types"][SITE]["restore_flow"] = "restore-website"
    wanted = type(inventory(website=Promised())).model_validate(promised)
    shelf = daily(Shelf(), 0, 20)
    return health.conditions([shelf.catalog()], wanted, {SERVER: proofs} if proofs else {}, now)[0]


def test_a_failed_rehearsal_is_failing_until_the_next_one_succeeds() -> None:
    failed = rehearsed(day(19), 19, "expected 600000 rows, seen 599999")
    mended = failed.with_rehearsals({SITE: Rehearsal(snapshot=named(20), at=day(20), rto_seconds=9)})

    assert said(restorable(day(20), failed)) == [("failing", "alert-RestoreRehearsalFailed")]
    assert "599999" in restorable(day(20), failed).findings[0].message
    assert restorable(day(20), mended).level() is None
    assert mended.rehearsed() == {SITE: named(20)}


def test_what_was_not_rehearsed_for_more_than_a_week_is_told() -> None:
    assert restorable(day(20), rehearsed(day(13), 12)).level() is None
    assert said(restorable(day(20), rehearsed(day(11), 11))) == [("warning", "alert-RestoreRehearsalOverdue")]
    assert restorable(day(20), None).findings[0].message == "never restored to scratch"


def test_a_restore_that_took_longer_than_promised_is_told_and_a_faster_one_ends_it() -> None:
    slow = Proofs(server=SERVER).with_rehearsals(
        {SITE: Rehearsal(snapshot=named(19), at=day(19), rto_seconds=4 * 3600 + 1)}
    )
    fast = slow.with_rehearsals({SITE: Rehearsal(snapshot=named(20), at=day(20), rto_seconds=4 * 3600)})

    assert said(restorable(day(20), slow)) == [("warning", "alert-RestoreTooSlow")]
    assert restorable(day(20), slow).findings[0].message == (
        f"the restore of {named(19)} to scratch took 14401 s, promised 4 h"
    )
    assert restorable(day(20), fast).level() is None


def test_a_rotten_rehearsal_does_not_unprove_the_one_before() -> None:
    proofs = rehearsed(day(5), 5).with_rehearsals(
        {SITE: Rehearsal(snapshot=named(12), at=day(12), rto_seconds=1, failure="cut")}
    )

    assert proofs.rehearsed() == {SITE: named(5)}


def test_a_past_that_is_not_trusted_is_failing_each_fault_once() -> None:
    catalog = Catalog(
        server=SERVER, remote_dir="x", rejected=(Rejected(snapshot=named(1), reason="signed by a stranger", files={}),)
    )

    found = health.past_findings(catalog, ["it is gone", "it is gone"])

    assert [(finding.level, finding.runbook) for finding in found] == [("failing", "broken-chain")] * 2
    assert "signed by a stranger" in found[0].message


def tell_in_evidence(shelf: Shelf, on: int, key: str, line: str) -> None:
    """Let the evidence of a day's copy tell a line."""
    newest = shelf.manifests[named(on)]
    artifact = newest.artifacts[0].model_copy(update={"evidence": {key: [line]}})
    shelf.manifests[named(on)] = newest.model_copy(update={"artifacts": (artifact,)})


def test_a_certificate_about_to_expire_is_told_by_name() -> None:
    shelf = daily(Shelf(), 0, 1)
    tell_in_evidence(shelf, 1, "expires_soon", "ca-org1 tls: 2026-09-20")

    condition = look(shelf, day(1))

    assert condition.level() == "warning"
    assert "ca-org1 tls: 2026-09-20" in condition.findings[0].message
    assert condition.findings[0].runbook == "alert-BackupCertificateExpiring"


def test_a_claim_that_nobody_could_look_into_is_told_by_name_and_the_copy_is_good() -> None:
    shelf = daily(Shelf(), 0, 1)
    unread = "claim fabric/data-peer1-0: seen 403 Forbidden"
    tell_in_evidence(shelf, 1, "claims_unread", unread)

    condition = look(shelf, day(1))

    assert (condition.level(), condition.newest) == ("warning", named(1))
    assert condition.findings[0].message == f"nobody could look into {unread}"
    assert condition.findings[0].runbook == "restore-fabric-crypto"
    page = backup_page(shelf.manifests[named(1)], [], None, None)
    assert f"## Nobody could look into\n\n- {unread}\n" in page


def test_worst_comes_first() -> None:
    found = [
        *look(daily(Shelf(), 0, 2), day(2), rehearsed(day(2), 2, None)).findings,
        *restorable(day(20), None).findings,
        *look(daily(Shelf(), 0, 2), day(9)).findings,
    ]

    assert [finding.level for finding in health.worst_first(found)] == ["failing", "warning"]
