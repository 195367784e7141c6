"""Retention, rule by rule: what stays and what goes, by age, by need and by what the inventory says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from gxbackup import layout, retention
from gxbackup.errors import InventoryError, PruneRefusedError
from gxbackup.model import Leftover
from tests.unit.catalogs import (
    KEYS,
    REMOTE_DIR,
    SITE,
    SITE_FILE,
    Promised,
    Shelf,
    Taken,
    daily,
    day,
    dropped,
    inventory,
    named,
    reason,
)

# Age


def test_a_copy_is_dropped_once_it_is_older_than_its_promise_beside_the_newest_good_copy() -> None:
    shelf = daily(Shelf(), 0, 31)

    plan = retention.plan(shelf.catalog(), inventory(website=Promised(keep_days=30)), day(31.1))

    assert dropped(plan) == ["0 website"]
    assert reason(plan, 0) == "expired: 31 d older than the newest good copy, kept 30 d"
    assert reason(plan, 1) == "30 d older than the newest good copy, kept 30 d"
    assert (plan.kept, plan.dropped, plan.freed_bytes, plan.refused) == (31, 1, 103, None)


def test_nothing_is_dropped_when_backups_stop() -> None:
    shelf = daily(Shelf(), 0, 20)

    plan = retention.plan(shelf.catalog(), inventory(website=Promised(keep_days=30)), day(4000))

    assert plan.deletions == ()


def test_nothing_is_dropped_while_every_run_fails_for_this_data_type() -> None:
    shelf = daily(Shelf(), 0, 20)
    for number in range(21, 90):
        shelf.back_up(day(number), [Taken(KEYS)], missing=[SITE])

    plan = retention.plan(shelf.catalog(), inventory(website=Promised(), ssh_keys=Promised(keep_days=90)), day(90))

    assert plan.deletions == ()


def test_each_data_type_of_one_snapshot_keeps_its_own_promise() -> None:
    shelf = Shelf()
    for number in range(10):
        shelf.back_up(day(number), [Taken(SITE, keep_days=7), Taken(KEYS, keep_days=90)])

    plan = retention.plan(
        shelf.catalog(), inventory(website=Promised(keep_days=7), ssh_keys=Promised(keep_days=90)), day(10)
    )

    assert dropped(plan) == ["0 website", "1 website"]
    assert plan.deletions == tuple(layout.in_snapshot(REMOTE_DIR, named(n), SITE_FILE) for n in (1, 0))
    assert plan.emptied_folders == tuple(
        layout.in_snapshot(REMOTE_DIR, named(number), f"files/{SITE}") for number in (1, 0)
    )


# Never dropped


def test_the_newest_good_copies_stay_whatever_their_age() -> None:
    shelf = Shelf()
    for number in (0, 100, 200, 300, 400):
        shelf.back_up(day(number), [Taken(SITE)])

    plan = retention.plan(shelf.catalog(), inventory(prune_limit=1, website=Promised(keep_at_least=3)), day(401))

    assert dropped(plan) == ["0 website", "100 website"]
    assert reason(plan, 200) == "newest good copy 3 of 3"


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda shelf: shelf.lose(named(300), "one.tar.zst.age"), id="its file is gone"),
        pytest.param(lambda shelf: shelf.put(named(300), SITE_FILE, 99), id="its file has another size"),
        pytest.param(lambda shelf: shelf.untrusted.add(named(300)), id="its signature is bad"),
    ],
)
def test_a_copy_that_could_not_be_restored_does_not_count_as_one_of_the_newest(
    spoil: Callable[[Shelf], None],
) -> None:
    shelf = Shelf()
    for number in (0, 100, 200, 300, 400):
        shelf.back_up(day(number), [Taken(SITE)])
    spoil(shelf)

    plan = retention.plan(shelf.catalog(), inventory(prune_limit=1, website=Promised(keep_at_least=3)), day(401))

    assert {named(400), named(200), named(100)} <= {each.snapshot for each in plan.decisions if each.rule == "newest"}


def test_a_copy_with_a_gap_does_not_count_as_good() -> None:
    shelf = daily(Shelf(), 0, 2)
    daily(shelf, 60, 64, Taken(SITE, whole=False))

    plan = retention.plan(shelf.catalog(), inventory(website=Promised(keep_at_least=1)), day(65))

    assert dropped(plan) == []
    assert reason(plan, 64) == "not whole, and newer than the newest good copy"


def test_what_incomplete_snapshots_hold_stays_while_there_is_no_good_copy_at_all() -> None:
    shelf = daily(Shelf(), 0, 50, Taken(SITE, whole=False))

    plan = retention.plan(shelf.catalog(), inventory(website=Promised(keep_days=7)), day(51))

    assert plan.deletions == ()
    assert reason(plan, 0) == "not whole, and there is no good copy"


def test_a_broken_copy_goes_like_any_other_once_a_newer_one_is_good() -> None:
    shelf = Shelf()
    shelf.back_up(day(0), [Taken(SITE, whole=False)])
    daily(shelf, 29, 31)

    plan = retention.plan(shelf.catalog(), inventory(website=Promised()), day(32))

    assert dropped(plan) == ["0 website"]


def test_the_newest_rehearsed_copy_and_pinned_snapshots_stay() -> None:
    shelf = daily(Shelf(), 0, 40)

    plan = retention.plan(
        shelf.catalog(),
        inventory(named(2), website=Promised()),
        day(41),
        rehearsed={SITE: named(4)},
    )

    assert dropped(plan) == [f"{number} website" for number in (0, 1, 3, 5, 6, 7, 8, 9)]
    assert (reason(plan, 4), reason(plan, 2)) == ("newest rehearsed copy", "pinned")


def test_a_pin_that_names_no_snapshot_is_told() -> None:
    shelf = daily(Shelf(), 0, 2)

    plan = retention.plan(shelf.catalog(), inventory(named(1), "20200101_000000", website=Promised()), day(3))

    assert plan.pins_without_snapshot == ("20200101_000000",)
    assert "- pinned in the inventory, and not on the remote: 20200101_000000" in retention.explain(plan)


def test_a_base_stays_as_long_as_anything_builds_on_it_also_through_others() -> None:
    shelf = Shelf()
    shelf.back_up(day(0), [Taken(SITE)])
    shelf.back_up(day(5), [Taken(SITE, base=named(0))])
    shelf.back_up(day(10), [Taken(SITE, base=named(5))])
    daily(shelf, 38, 40)

    plan = retention.plan(shelf.catalog(), inventory(website=Promised()), day(41))

    assert dropped(plan) == []
    assert (reason(plan, 5), reason(plan, 0)) == (f"base of {named(10)}", f"base of {named(5)}")


def test_a_differential_whose_base_is_gone_is_not_a_good_copy() -> None:
    shelf = Shelf()
    shelf.back_up(day(0), [Taken(SITE)])
    shelf.back_up(day(1), [Taken(SITE)])
    shelf.back_up(day(2), [Taken(SITE, base=named(1))])
    shelf.lose(named(1), "one.tar.zst.age")

    plan = retention.plan(shelf.catalog(), inventory(website=Promised(keep_at_least=1)), day(3))

    assert reason(plan, 0) == "newest good copy 1 of 1"
    assert reason(plan, 2) == "not whole, and newer than the newest good copy"


def test_the_snapshot_that_holds_the_file_of_a_kept_copy_stays() -> None:
    shelf = Shelf()
    shelf.back_up(day(0), [Taken(SITE)])
    daily(shelf, 1, 60, Taken(SITE, held_in=named(0)))

    plan = retention.plan(shelf.catalog(), inventory(website=Promised()), day(61))

    assert layout.in_snapshot(REMOTE_DIR, named(0), SITE_FILE) not in plan.deletions
    assert reason(plan, 0) == f"holds the file of {named(60)}"


@pytest.mark.parametrize(
    ("holder", "why"),
    [
        pytest.param([], "the holder is gone", id="the holder is gone"),
        pytest.param([Taken(KEYS)], "it holds another data type", id="the holder never had it"),
        pytest.param([Taken(SITE, base=named(0))], "it is a differential", id="the holder's file is a differential"),
    ],
)
def test_a_copy_whose_file_no_snapshot_holds_is_not_good(holder: list[Taken], why: str) -> None:
    shelf = Shelf()
    shelf.back_up(day(0), [Taken(SITE)])
    if holder:
        shelf.back_up(day(1), holder)
    shelf.back_up(day(2), [Taken(SITE, held_in=named(1))])

    plan = retention.plan(shelf.catalog(), inventory(website=Promised(keep_at_least=1)), day(3))

    assert not reason(plan, 2).startswith("newest"), why


def test_the_members_of_a_set_stay_together() -> None:
    shelf = Shelf()
    for number in (0, 20, 38, 39, 40):
        shelf.back_up(
            day(number), [Taken("couchdb", set_id=f"fabric-{number}"), Taken("peers", set_id=f"fabric-{number}")]
        )

    plan = retention.plan(
        shelf.catalog(), inventory(couchdb=Promised(keep_days=7), peers=Promised(keep_days=30)), day(41)
    )

    assert dropped(plan) == ["0 couchdb", "0 peers"]
    assert reason(plan, 20, "couchdb") == f"in one set with {named(20)}"


# What the inventory says


def test_a_raised_promise_holds_for_copies_that_were_made_under_a_lower_one() -> None:
    shelf = daily(Shelf(), 0, 40, Taken(SITE, keep_days=7))

    plan = retention.plan(shelf.catalog(), inventory(website=Promised(keep_days=90)), day(41))

    assert plan.deletions == ()


def test_a_data_type_that_left_the_inventory_is_kept_as_its_manifests_say() -> None:
    shelf = daily(Shelf(), 0, 31, Taken("forum", keep_days=30))

    plan = retention.plan(shelf.catalog(), inventory(website=Promised(keep_days=1)), day(40))

    assert dropped(plan) == ["0 forum"]


def test_the_newest_copies_of_a_data_type_that_left_the_inventory_stay_for_ever() -> None:
    shelf = daily(Shelf(), 0, 2, Taken("forum", keep_days=1))
    daily(shelf, 100, 140)

    plan = retention.plan(shelf.catalog(), inventory(website=Promised(keep_days=90)), day(141))

    assert plan.deletions == ()


def test_a_listing_of_another_folder_than_the_inventory_names_is_refused() -> None:
    elsewhere = Shelf().catalog().model_copy(update={"remote_dir": "vps1"})

    with pytest.raises(PruneRefusedError, match="expected a listing of vps1-website, seen vps1"):
        retention.plan(elsewhere, inventory(website=Promised()), day(0))


def test_a_server_that_the_inventory_does_not_know_is_refused() -> None:
    elsewhere = Shelf().catalog().model_copy(update={"server": "vps9"})

    with pytest.raises(InventoryError, match="vps9"):
        retention.plan(elsewhere, inventory(website=Promised()), day(0))


# Clock and listing


def test_a_clock_before_the_newest_snapshot_is_refused() -> None:
    shelf = daily(Shelf(), 0, 31)

    with pytest.raises(
        PruneRefusedError, match=r"clock: expected later than .* 2026-10-02 02:00:00 UTC, seen 2026-10-02 01"
    ):
        retention.plan(shelf.catalog(), inventory(website=Promised()), day(31) - timedelta(minutes=5))


def test_a_third_backup_within_one_second_which_is_named_two_ahead_is_pruned_after() -> None:
    shelf = daily(Shelf(), 0, 31)

    plan = retention.plan(shelf.catalog(), inventory(website=Promised()), day(31) - timedelta(seconds=2))

    assert plan.kept > 1
    with pytest.raises(PruneRefusedError, match="clock: expected later than"):
        retention.plan(shelf.catalog(), inventory(website=Promised()), day(31) - timedelta(seconds=3))


def test_a_backup_named_by_a_clock_far_ahead_drops_nothing_without_a_question() -> None:
    shelf = daily(Shelf(), 0, 20)
    shelf.back_up(day(2000), [Taken(SITE)])

    plan = retention.plan(shelf.catalog(), inventory(website=Promised()), day(2000.1))

    assert plan.refused == (
        "would drop 1957 of 2266 bytes (86%), 19 of 22 snapshots (86%), 19 of 22 copies of website (86%); "
        "the limit is 25%"
    )


def test_two_folders_of_one_name_are_refused() -> None:
    shelf = daily(Shelf(), 0, 3)
    held = shelf.catalog()
    doubled = held.model_copy(update={"leftovers": (Leftover(snapshot=named(0), files={}),)})

    with pytest.raises(PruneRefusedError, match="expected one folder of this name, seen 2"):
        retention.plan(doubled, inventory(website=Promised()), day(4))


def test_a_snapshot_of_another_server_is_refused() -> None:
    held = daily(Shelf(), 0, 0).catalog()
    mixed = held.model_copy(update={"snapshots": (held.snapshots[0].model_copy(update={"server": "vps2"}),)})

    with pytest.raises(PruneRefusedError, match="expected a snapshot of vps1"):
        retention.plan(mixed, inventory(website=Promised()), day(4))
