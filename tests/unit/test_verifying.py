"""Which artifacts are opened when: everything that is held is opened once before it goes, whatever it is kept for."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from gxbackup import layout, verifying
from gxbackup.health import Finding
from gxbackup.inventory import Inventory
from gxbackup.proofs import Proofs, opened_name
from gxbackup.verifying import ToOpen
from tests.unit.catalogs import KEYS, SERVER, SITE, Promised, Shelf, Taken, daily, day, inventory


def due(shelf: Shelf, wanted: Inventory, proofs: Proofs, now: datetime, *, daily: bool = False) -> list[ToOpen]:
    return verifying.to_open(shelf.catalog(), proofs, wanted, now, daily=daily)


@pytest.mark.parametrize(("keep_days", "runs_a_day"), [(3, 4), (7, 4), (30, 1), (90, 1)])
def test_everything_held_is_opened_once_before_it_goes(keep_days: int, runs_a_day: int) -> None:
    wanted = inventory(website=Promised(keep_days=keep_days))
    shelf, proofs = Shelf(), Proofs(server=SERVER)
    made: dict[str, datetime] = {}
    for number in range(keep_days + 30):
        for run in range(runs_a_day):
            when = day(number) + timedelta(hours=24 * run / runs_a_day)
            snapshot = shelf.back_up(when, [Taken(SITE, keep_days=keep_days)])
            made[opened_name(snapshot, shelf.manifests[snapshot].artifacts[0].path)] = when
        now = day(number + 1) + timedelta(hours=8)
        gone = [name for name, when in made.items() if when + timedelta(days=keep_days) <= now]
        assert set(gone) <= set(proofs.opened)
        for is_daily in (True, False) if number % 7 == 0 else (True,):
            chosen = due(shelf, wanted, proofs, now, daily=is_daily)
            proofs = proofs.with_opened([one.name() for one in chosen], now)
        for name in gone:  # pruned
            snapshot = name.partition("/")[0]
            shelf.lose(snapshot, name.partition("/")[2])


def test_the_daily_look_opens_nothing_that_a_weekly_one_will_see() -> None:
    wanted = inventory(website=Promised(keep_days=8), ssh_keys=Promised(keep_days=3))
    shelf = Shelf()
    for number in range(4):
        shelf.back_up(day(number), [Taken(SITE), Taken(KEYS)])

    chosen = due(shelf, wanted, Proofs(server=SERVER), day(3), daily=True)

    assert {one.artifact.data_type for one in chosen} == {KEYS}
    assert {one.snapshot for one in chosen} == {layout.snapshot_id(day(0)), layout.snapshot_id(day(1))}


def test_the_sample_is_another_one_on_every_day_and_the_same_on_one() -> None:
    wanted = inventory(website=Promised(keep_days=90))
    shelf = daily(Shelf(), 0, 60)
    samples = [
        frozenset(one.snapshot for one in due(shelf, wanted, Proofs(server=SERVER), day(61) + timedelta(days=number)))
        for number in (0, 0, 1, 2)
    ]

    assert samples[0] == samples[1]
    assert len(set(samples)) == 3
    newest = layout.snapshot_id(day(60))
    assert all(newest in sample and len(sample) == 1 + 3 for sample in samples)


def test_a_file_that_its_hash_showed_to_be_rotten_is_not_opened_too() -> None:
    wanted = inventory(website=Promised(), ssh_keys=Promised())
    shelf = Shelf()
    snapshot = shelf.back_up(day(0), [Taken(SITE), Taken(KEYS)])
    chosen = due(shelf, wanted, Proofs(server=SERVER), day(0))
    rotten = next(one.artifact for one in chosen if one.artifact.data_type == SITE)
    message = f"{snapshot}/{rotten.parts[0].path}: expected sha256 0123456789abcdef…, seen no file"
    told = Finding(level="failing", subject="vps1 website", message=message, runbook=verifying.RUNBOOK)

    left = verifying.not_told_yet(chosen, [told])

    assert [one.artifact.data_type for one in left] == [KEYS]
