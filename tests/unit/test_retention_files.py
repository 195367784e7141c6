"""Which files a plan deletes, in which order, and which it never touches: not ours, not trusted, left over."""

from __future__ import annotations

from datetime import timedelta

import pytest

from gxbackup import layout, retention
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
    ("pinned", "running", "hours", "why"),
    [
        pytest.param([], True, 500, "a run is on", id="a run is on"),
        pytest.param([named(0.5)], False, 500, "pinned", id="pinned"),
        pytest.param([], False, 48, "a run that is on, or was cut: swept once it is 48 h old", id="too young"),
    ],
)
def test_a_leftover_waits(pinned: list[str], running: bool, hours: int, why: str) -> None:
    shelf = daily(Shelf(), 0, 0)
    shelf.back_up(day(0.5), [Taken(SITE)], cut=True)

    now = day(0.5) + timedelta(hours=hours)
    plan = retention.plan(shelf.catalog(), inventory(*pinned, website=Promised()), now, running=running)

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
