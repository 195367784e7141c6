"""What is missing from the past: told where nobody may have dropped it, silent where a promise of then let it go."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from gxbackup import catalog, restoring, retention
from gxbackup.errors import RestoreRefusedError
from gxbackup.inventory import Inventory
from tests.unit.catalogs import KEYS, SITE, SITE_FILE, Promised, Shelf, Taken, daily, day, inventory, named

LONG, SHORT = 14, 3
BOTH = inventory(website=Promised(LONG), ssh_keys=Promised(90))


def faults(shelf: Shelf, promised: Inventory) -> list[str]:
    held = shelf.catalog()
    return catalog.chain_faults(held, promised) + catalog.lost_artifacts(held, promised)


def prune(shelf: Shelf, promised: Inventory, number: float) -> None:
    for path in retention.plan(shelf.catalog(), promised, day(number + 0.1)).deletions:
        shelf.delete_file(path)


def run(shelf: Shelf, promised: Inventory, number: int, taken: Iterable[Taken]) -> list[str]:
    """Back up and prune as a daily run does; return what it would have ended red for."""
    seen = faults(shelf, promised)
    shelf.back_up(day(number), taken)
    prune(shelf, promised, number)
    return seen


def ran(first: int, last: int, keep_days: int, shelf: Shelf | None = None) -> Shelf:
    """Run daily with the website alone, from one day to another, and hold that no run was red."""
    shelf, promised = shelf or Shelf(), inventory(website=Promised(keep_days))
    for number in range(first, last + 1):
        assert run(shelf, promised, number, [Taken(SITE, keep_days)]) == []
    return shelf


def ran_with_keys(first: int, last: int, keep_days: int, shelf: Shelf) -> Shelf:
    """Run daily with keys beside the website: their longer promise keeps the manifests."""
    promised = inventory(website=Promised(keep_days), ssh_keys=Promised(90))
    for number in range(first, last + 1):
        assert run(shelf, promised, number, [Taken(SITE, keep_days), Taken(KEYS, 90)]) == []
    return shelf


# What changed in the inventory


def test_a_promise_that_was_raised_does_not_ask_for_what_the_shorter_one_let_go() -> None:
    shelf = ran(0, 10, SHORT)
    assert len(shelf.trusted()) == SHORT + 1

    ran(11, 11 + 2 * LONG, LONG, shelf)

    assert len(shelf.trusted()) == LONG + 1


def test_a_data_type_that_was_retired_explains_what_went_while_it_was_promised() -> None:
    shelf = Shelf()
    both = inventory(website=Promised(30, rpo_hours=168), ssh_keys=Promised(SHORT))
    for number in range(20):
        weekly = [Taken(SITE, 30)] if number % 7 == 0 else []
        assert run(shelf, both, number, [*weekly, Taken(KEYS, SHORT)]) == []
    alone = inventory(website=Promised(30, rpo_hours=168))

    for number in range(20, 60):
        assert run(shelf, alone, number, [Taken(SITE, 30)]) == []


def test_a_promise_that_was_lowered_and_put_back_does_not_ask_for_what_went_in_between() -> None:
    ran(12, 40, LONG, ran(11, 11, SHORT, ran(0, 10, LONG)))

    ran_with_keys(12, 40, LONG, ran_with_keys(11, 11, SHORT, ran_with_keys(0, 10, LONG, Shelf())))


def test_a_lower_promise_that_no_manifest_was_written_under_leaves_no_trace() -> None:
    shelf = ran_with_keys(0, 10, LONG, Shelf())
    prune(shelf, inventory(website=Promised(SHORT), ssh_keys=Promised(90)), 10)

    assert [line.split(":")[0] for line in faults(shelf, BOTH)] == [named(number) for number in range(7)]


# What was removed is told all the same


@pytest.mark.parametrize("number", [8, 10, 14, 19], ids=["before", "the last before", "after", "the newest but one"])
def test_a_snapshot_that_every_rule_kept_is_missed_after_a_promise_was_raised(number: int) -> None:
    shelf = ran(11, 20, LONG, ran(0, 10, SHORT))
    shelf.lose(named(number), "")

    (fault,) = faults(shelf, inventory(website=Promised(LONG)))

    assert fault == f"{named(number)}: removed before its time ({named(number + 1)} was built on it)"


@pytest.mark.parametrize("number", [9, 11, 14])
def test_a_file_that_every_rule_kept_is_missed_after_a_promise_was_lowered_and_put_back(number: int) -> None:
    shelf = ran_with_keys(12, 20, LONG, ran_with_keys(11, 11, SHORT, ran_with_keys(0, 10, LONG, Shelf())))
    shelf.lose(named(number), SITE_FILE)

    keep_days = SHORT if number == 11 else LONG
    gone = [f"{named(number)}: {SITE_FILE} is gone from the remote before its time"]
    assert faults(shelf, BOTH) == (gone if 20 - number <= keep_days else [])


def test_a_snapshot_is_missed_until_the_shortest_promise_has_run_out() -> None:
    promised = inventory(website=Promised(LONG))
    shelf = daily(Shelf(), 0, LONG, Taken(SITE, LONG))
    shelf.lose(named(1), "")

    assert [line.split(":")[0] for line in faults(shelf, promised)] == [named(1)]
    daily(shelf, LONG + 1, LONG + 1, Taken(SITE, LONG))
    assert faults(shelf, promised) == []


def test_a_file_that_was_cut_is_told_with_its_sizes_by_all_that_lie_in_it() -> None:
    shelf = daily(Shelf(), 0, 2)
    shelf.back_up(day(3), [Taken(SITE, held_in=named(2))])
    shelf.put(named(2), SITE_FILE, 7)
    promised_bytes = shelf.catalog().snapshots[2].manifest.artifacts[0].parts[0].size_bytes
    cut = f"{SITE_FILE} is damaged on the remote: expected {promised_bytes} bytes, seen 7 bytes"

    assert catalog.lost_artifacts(shelf.catalog(), inventory(website=Promised())) == [
        f"{named(number)}: {cut}" for number in (2, 3)
    ]
    for number in (2, 3):
        with pytest.raises(RestoreRefusedError, match=f"website {named(number)}: refused: {cut}"):
            restoring.choose(shelf.catalog(), "website", named(number), day(3))
    chosen = restoring.choose(shelf.catalog(), "website", restoring.LATEST, day(3))
    assert chosen.snapshot == named(1)
    assert f"{named(3)} is newer, but does not hold all of website: {cut}" in chosen.remarks
    shelf.untrusted = {named(2)}
    with pytest.raises(RestoreRefusedError, match=f"lies in {named(2)}, which is gone or not trusted"):
        restoring.choose(shelf.catalog(), "website", named(3), day(3))


# What is there and not to be trusted


def test_what_is_there_and_not_trusted_is_not_told_as_removed() -> None:
    shelf = daily(Shelf(), 0, 3)
    shelf.back_up(day(4), [Taken(SITE, held_in=named(2))])
    shelf.untrusted = {named(2), named(4)}
    held, promised = shelf.catalog(), inventory(website=Promised())

    assert catalog.chain_faults(held, promised, last_written=(named(4), shelf.digests[named(4)])) == []
    assert catalog.lost_artifacts(held, promised) == []
    shelf.untrusted = {named(2)}
    assert catalog.lost_artifacts(shelf.catalog(), promised) == []
    assert [bad.snapshot for bad in held.rejected] == [named(2), named(4)]
