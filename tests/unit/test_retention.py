"""Retention, rule by rule: what stays, what goes, in which order, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from gxbackup import keep_rules, layout, retention
from gxbackup.errors import InventoryError, PruneRefusedError
from gxbackup.model import Leftover
from gxbackup.retention import Plan
from tests.unit.catalogs import REMOTE_DIR, Promised, Shelf, Taken, day, inventory, named

SITE = "website"
KEYS = "ssh-keys"
SITE_FILE = layout.artifact_path("files", SITE, "one.tar")


def daily(shelf: Shelf, first: int, last: int, taken: Taken | None = None) -> Shelf:
    for number in range(first, last + 1):
        shelf.back_up(day(number), [taken or Taken(SITE)])
    return shelf


def dropped(plan: Plan) -> list[str]:
    """The days of the copies that a plan drops, oldest first: `0 website`."""
    return sorted(
        f"{(layout.snapshot_time(each.snapshot) - day(0)).total_seconds() / 86400:g} {each.data_type}"
        for each in plan.decisions
        if each.rule == "expired"
    )


def reason(plan: Plan, number: float, data_type: str = SITE) -> str:
    return next(each.reason for each in plan.decisions if (each.snapshot, each.data_type) == (named(number), data_type))


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
        inventory(website=Promised()),
        day(41),
        rehearsed={SITE: named(4)},
        pinned=frozenset({named(2)}),
    )

    assert dropped(plan) == [f"{number} website" for number in (0, 1, 3, 5, 6, 7, 8, 9)]
    assert (reason(plan, 4), reason(plan, 2)) == ("newest rehearsed copy", "pinned")


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


# Files and their order


def test_a_snapshot_goes_manifest_first() -> None:
    shelf = daily(Shelf(), 0, 31)

    plan = retention.plan(shelf.catalog(), inventory(website=Promised()), day(32))

    folder = layout.in_snapshot(REMOTE_DIR, named(0))
    names = ["manifest.json", "manifest.json.sig", "RECOVER.md", "files/website/one.tar.zst.age"]
    assert plan.deletions == tuple(f"{folder}/{name}" for name in names)
    assert plan.emptied_folders == (folder,)


def test_what_builds_on_a_base_goes_before_it() -> None:
    shelf = Shelf()
    shelf.back_up(day(0), [Taken(SITE)])
    shelf.back_up(day(1), [Taken(SITE, base=named(0))])
    daily(shelf, 38, 40)

    plan = retention.plan(shelf.catalog(), inventory(website=Promised()), day(41))

    assert list(dict.fromkeys(map(plan.snapshot_of, plan.deletions))) == [named(1), named(0)]


def test_a_manifest_goes_when_the_last_of_its_data_types_does() -> None:
    shelf = Shelf()
    shelf.back_up(day(0), [Taken(SITE, keep_days=7), Taken(KEYS, keep_days=30)])
    shelf.lose(named(0), f"{SITE}/one.tar.zst.age")
    for number in range(25, 32):
        shelf.back_up(day(number), [Taken(SITE, keep_days=7), Taken(KEYS, keep_days=30)])

    plan = retention.plan(
        shelf.catalog(), inventory(website=Promised(keep_days=7), ssh_keys=Promised(keep_days=30)), day(32)
    )

    assert dropped(plan) == ["0 ssh-keys"]
    assert reason(plan, 0) == "pruned before: 31 d older than the newest good copy, kept 7 d"
    assert plan.deletions[0] == layout.in_snapshot(REMOTE_DIR, named(0), layout.MANIFEST)


def test_a_file_that_two_data_types_name_stays_as_long_as_one_of_them() -> None:
    shelf = Shelf()
    shelf.back_up(day(0), [Taken(SITE, keep_days=7)])
    shared = shelf.manifests[named(0)]
    also = shared.artifacts[0].model_copy(update={"data_type": KEYS, "keep_days": 90})
    shelf.manifests[named(0)] = shared.model_copy(update={"artifacts": (*shared.artifacts, also)})
    daily(shelf, 18, 20)

    plan = retention.plan(
        shelf.catalog(), inventory(website=Promised(keep_days=7), ssh_keys=Promised(keep_days=90)), day(21)
    )

    assert plan.deletions == ()


def test_a_file_that_is_absent_though_its_copy_is_to_be_kept_is_said() -> None:
    shelf = daily(Shelf(), 0, 5)
    shelf.lose(named(1), "one.tar.zst.age")

    plan = retention.plan(shelf.catalog(), inventory(website=Promised()), day(6))

    assert reason(plan, 1).startswith("absent: lost, or pruned under a shorter promise")
    assert plan.kept == 5


def test_the_record_of_a_run_that_got_nothing_goes_when_the_longest_promise_is_over() -> None:
    shelf = Shelf()
    shelf.back_up(day(0), [], missing=[SITE, KEYS])
    shelf.back_up(day(2), [], missing=[SITE, KEYS])
    daily(shelf, 30, 32)

    plan = retention.plan(shelf.catalog(), inventory(website=Promised(keep_days=7), ssh_keys=Promised()), day(33))

    assert dropped(plan) == ["0 (nothing)"]


# Not ours, not trusted


def test_snapshots_that_are_not_trusted_are_reported_and_never_deleted() -> None:
    shelf = daily(Shelf(), 0, 40)
    shelf.untrusted = {named(0), named(20)}

    plan = retention.plan(shelf.catalog(), inventory(website=Promised()), day(41))

    assert plan.rejected == tuple(f"{named(n)}: signed by a stranger" for n in (0, 20))
    assert not {named(0), named(20)} & set(map(plan.snapshot_of, plan.deletions))


def test_a_file_that_we_did_not_write_stays_and_its_folder_never_becomes_a_leftover() -> None:
    shelf = daily(Shelf(), 0, 31)
    shelf.put(named(0), "files/website/copy.tar.zst.age")

    plan = retention.plan(shelf.catalog(), inventory(website=Promised()), day(32))

    assert plan.deletions == (layout.in_snapshot(REMOTE_DIR, named(0), SITE_FILE),)
    assert plan.emptied_folders == ()
    assert plan.strangers == (f"{named(0)}/files/website/copy.tar.zst.age",)
    assert plan.waiting == (
        f"{named(0)}: its manifest, for files lie there that are not ours: files/website/copy.tar.zst.age",
    )


# Leftovers


def test_a_cut_run_is_swept_after_48_hours_file_by_file() -> None:
    shelf = daily(Shelf(), 0, 3)
    shelf.back_up(day(0.5), [Taken(SITE)], cut=True)
    shelf.put(named(0.5), layout.SIGNATURE)
    shelf.put(named(0.5), f"{SITE_FILE}.0a1b2c3d.partial")
    shelf.put(named(0.5), "notes.txt")

    plan = retention.plan(shelf.catalog(), inventory(website=Promised()), day(3.1))

    folder = layout.in_snapshot(REMOTE_DIR, named(0.5))
    assert plan.deletions == tuple(
        f"{folder}/{name}" for name in (layout.SIGNATURE, SITE_FILE, f"{SITE_FILE}.0a1b2c3d.partial")
    )
    assert plan.emptied_folders == (f"{folder}/files",)
    assert plan.strangers == (f"{named(0.5)}/notes.txt",)


@pytest.mark.parametrize(
    ("settings", "hours", "why"),
    [
        pytest.param({"running": True}, 500, "a run is on", id="a run is on"),
        pytest.param({"pinned": frozenset({named(0.5)})}, 500, "pinned", id="pinned"),
        pytest.param({}, 48, "a run that is on, or was cut: swept once it is 48 h old", id="too young"),
    ],
)
def test_a_leftover_waits(settings: dict[str, Any], hours: int, why: str) -> None:
    shelf = daily(Shelf(), 0, 0)
    shelf.back_up(day(0.5), [Taken(SITE)], cut=True)

    plan = retention.plan(shelf.catalog(), inventory(website=Promised()), day(0.5) + timedelta(hours=hours), **settings)

    assert plan.deletions == ()
    assert plan.waiting == (f"{named(0.5)}: no manifest: {why}",)


def test_a_folder_whose_manifest_was_lost_is_not_swept_as_a_leftover() -> None:
    shelf = daily(Shelf(), 0, 10)
    shelf.lose(named(5), layout.MANIFEST)

    plan = retention.plan(shelf.catalog(), inventory(website=Promised()), day(11))

    assert plan.deletions == ()
    assert plan.waiting == (f"{named(5)}: no manifest: its manifest is lost, and what it holds has not expired",)


def test_a_folder_that_a_kept_copy_needs_is_never_swept() -> None:
    shelf = Shelf()
    shelf.back_up(day(0), [Taken(SITE)])
    daily(shelf, 1, 60, Taken(SITE, held_in=named(0)))
    shelf.lose(named(0), layout.MANIFEST)

    plan = retention.plan(shelf.catalog(), inventory(website=Promised()), day(61))

    assert plan.deletions == ()
    assert plan.waiting == (f"{named(0)}: no manifest: its manifest is lost, and a kept copy needs its files",)


def test_what_a_cut_prune_left_of_a_snapshot_is_taken_by_the_next() -> None:
    shelf = daily(Shelf(), 0, 31)
    first = retention.plan(shelf.catalog(), inventory(website=Promised()), day(32))
    shelf.delete_file(first.deletions[0])

    again = retention.plan(shelf.catalog(), inventory(website=Promised()), day(32))

    assert sorted(again.deletions) == sorted(first.deletions[1:])
    assert again.refused is None


def test_several_leftovers_that_hold_most_of_the_bytes_are_not_swept_unasked() -> None:
    shelf = daily(Shelf(), 0, 3)
    for number in (0.2, 0.4, 0.6, 0.8):
        shelf.back_up(day(number), [Taken(SITE)], cut=True)

    plan = retention.plan(shelf.catalog(), inventory(website=Promised()), day(4))

    assert plan.refused == "would drop 400 of 812 bytes (49%), 4 of 8 snapshots (50%); the limit is 25%"


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
