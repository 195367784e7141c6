"""The limit of one prune, who is asked, and the report that people read before they answer."""

from __future__ import annotations

from datetime import timedelta

import pytest

from gxbackup import keep_rules, retention
from tests.unit.catalogs import KEYS, SITE, Promised, Shelf, Taken, daily, day, dropped, inventory, named

# The limit


def four_a_day(days: float, start: float = 0, keep_days: int = 3) -> Shelf:
    shelf = Shelf()
    for number in range(int(days * 4) + 1):
        shelf.back_up(day(start + number / 4), [Taken("postgres", keep_days=keep_days)])
    return shelf


SIX_HOURS = Promised(keep_days=3, rpo_hours=6)


@pytest.mark.parametrize("days", [0, 0.25, 0.5, 0.75, 1, 2, 3, 3.25, 3.5, 10])
def test_a_server_with_four_snapshots_a_day_prunes_unasked_from_its_first_day_on(days: float) -> None:
    shelf = Shelf()
    for number in range(int(days * 4) + 1):
        shelf.back_up(day(number / 4), [Taken("postgres", keep_days=3)])

        plan = retention.plan(shelf.catalog(), inventory(postgres=SIX_HOURS), day(number / 4))

        assert (plan.refused, plan.dropped) == (None, 1 if number > 12 else 0)
        for path in plan.deletions:
            shelf.delete_file(path)


def test_dropping_one_expired_copy_of_four_is_no_question() -> None:
    shelf = daily(Shelf(), 0, 3, Taken(SITE, keep_days=1))

    plan = retention.plan(shelf.catalog(), inventory(prune_limit=0.01, website=Promised(keep_days=1)), day(4))

    assert (plan.dropped, plan.refused) == (1, None)


def test_a_day_without_backups_catches_up_unasked() -> None:
    shelf = four_a_day(3)
    shelf.back_up(day(4.25), [Taken("postgres", keep_days=3)])

    plan = retention.plan(shelf.catalog(), inventory(postgres=SIX_HOURS), day(4.3))

    assert (plan.dropped, plan.refused) == (5, None)


def test_a_week_without_backups_asks_before_it_catches_up() -> None:
    shelf = four_a_day(3)
    shelf.back_up(day(10), [Taken("postgres", keep_days=3)])

    plan = retention.plan(shelf.catalog(), inventory(postgres=SIX_HOURS), day(10.1))

    assert plan.dropped == 11
    assert plan.refused is not None and "11 of 14 copies of postgres (79%)" in plan.refused


def test_a_base_that_goes_with_its_last_differential_is_no_question_however_big() -> None:
    shelf = Shelf()
    for number in range(15):
        base = None if number % 7 == 0 else named(number - number % 7)
        shelf.back_up(day(number), [Taken(SITE, keep_days=7, base=base, size_bytes=1000 if base is None else 1)])
        plan = retention.plan(shelf.catalog(), inventory(website=Promised(keep_days=7)), day(number))
        if number < 14:
            for path in plan.deletions:
                shelf.delete_file(path)

    assert (dropped(plan), plan.refused) == (["0 website", "6 website"], None)
    assert plan.freed_bytes > 0.25 * sum(shelf.files.values())


def test_a_lowered_promise_asks_before_it_takes_effect() -> None:
    shelf = daily(Shelf(), 0, 20)

    plan = retention.plan(shelf.catalog(), inventory(website=Promised(keep_days=7)), day(21))

    assert plan.dropped == 13
    assert plan.refused is not None and "13 of 21 copies of website (62%)" in plan.refused


def test_a_promise_lowered_by_a_day_asks_too_although_what_it_drops_has_just_expired() -> None:
    shelf = daily(Shelf(), 0, 4)

    plan = retention.plan(shelf.catalog(), inventory(website=Promised(keep_days=2, keep_at_least=1)), day(5))

    assert (plan.dropped, plan.refused is not None) == (2, True)


def test_most_copies_of_one_small_data_type_are_not_dropped_unasked() -> None:
    shelf = Shelf()
    for number in range(20):
        shelf.back_up(day(number), [Taken(SITE, size_bytes=10**9), Taken(KEYS, keep_days=90, size_bytes=1)])

    plan = retention.plan(shelf.catalog(), inventory(website=Promised(), ssh_keys=Promised(keep_days=7)), day(20))

    assert plan.refused == "would drop 12 of 20 copies of ssh-keys (60%); the limit is 25%"


def test_one_rehearsed_copy_released_by_the_next_rehearsal_is_no_question() -> None:
    shelf = Shelf()
    shelf.back_up(day(0), [Taken(SITE, size_bytes=10_000)])
    daily(shelf, 60, 63)

    plan = retention.plan(shelf.catalog(), inventory(website=Promised()), day(64), rehearsed={SITE: named(62)})

    assert (dropped(plan), plan.refused) == (["0 website"], None)


def test_a_person_confirms_exactly_the_plan_that_was_shown() -> None:
    shelf = daily(Shelf(), 0, 20)
    promises = inventory(website=Promised(keep_days=7))
    shown = retention.plan(shelf.catalog(), promises, day(21))

    confirmed = retention.plan(shelf.catalog(), promises, day(21.5), confirm_sha256=shown.sha256)
    shelf.back_up(day(21.6), [Taken(SITE)])
    changed = retention.plan(shelf.catalog(), promises, day(22), confirm_sha256=shown.sha256)

    assert (confirmed.refused, confirmed.deletions) == (None, shown.deletions)
    assert changed.refused is not None


# The report


def test_the_report_names_every_drop_every_exception_and_counts_the_rest() -> None:
    shelf = daily(Shelf(), 0, 31)
    shelf.untrusted = {named(3)}
    shelf.put("notes", "a.txt")

    plan = retention.plan(shelf.catalog(), inventory(website=Promised()), day(32), rehearsed={SITE: named(2)})

    assert retention.explain(plan).splitlines() == [
        f"vps1: 1 copies go (4 files, 103 bytes), 30 stay. Plan `{plan.sha256}`.",
        "",
        "| snapshot | data type | decision | why | bytes |",
        "|---|---|---|---|---|",
        f"| {named(0)} | website | **drop** | expired: 31 d older than the newest good copy, kept 30 d | 100 |",
        f"| {named(31)} | website | keep | newest good copy 1 of 3 | 100 |",
        f"| {named(30)} | website | keep | newest good copy 2 of 3 | 100 |",
        f"| {named(29)} | website | keep | newest good copy 3 of 3 | 100 |",
        f"| {named(2)} | website | keep | newest rehearsed copy | 100 |",
        "",
        f"- website: 26 more within their promise, {named(1)} to {named(28)}",
        f"- not trusted, left alone: {named(3)}: signed by a stranger",
        "- not ours, left alone: `notes/a.txt`",
    ]


def test_the_report_of_a_refused_plan_says_so_first() -> None:
    shelf = daily(Shelf(), 0, 20)

    plan = retention.plan(shelf.catalog(), inventory(website=Promised(keep_days=7)), day(21))

    assert "**Refused: nothing is deleted.** The plan would drop" in retention.explain(plan).splitlines()[2]


@pytest.mark.parametrize(
    ("age", "spelled"),
    [
        (timedelta(0), "0 s"),
        (timedelta(seconds=7), "7 s"),
        (timedelta(days=30, seconds=7), "30 d 7 s"),
        (timedelta(days=3, hours=6, minutes=5), "3 d 6 h"),
    ],
)
def test_an_age_is_spelled_with_its_two_largest_units(age: timedelta, spelled: str) -> None:
    assert keep_rules.spell_age(age) == spelled
