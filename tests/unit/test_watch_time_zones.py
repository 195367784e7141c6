"""A CronJob's schedule goes by its own time zone, or by that of the host of the cluster's controller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from estate import PROJECT

from gxbackup import inventory, watch
from gxbackup.adapters import cronjobs
from gxbackup.adapters.cluster import Cluster
from gxbackup.errors import InventoryError
from gxbackup.watch import CronJobSeen

BERLIN = "Europe/Berlin"
PRODUCTION = PROJECT / "deployments/inventory.yaml"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def told(last_success: str, now: str, schedule: str = "30 2 * * *", **zones: str | None) -> list[str]:
    seen = CronJobSeen(
        namespace="backend-mainnet", name="postgres-backup", schedule=schedule, suspended=False,
        created_at=at("2026-01-01T00:00"), last_success=at(last_success), time_zone=zones.get("own"),
    )  # fmt: skip
    found = watch.cronjob_findings(seen, at(now), zones.get("controller") or "UTC")
    assert all(finding.level == "failing" for finding in found)
    return [finding.message for finding in found]


@pytest.mark.parametrize(
    "zones", [{"own": BERLIN}, {"controller": BERLIN}, {"own": BERLIN, "controller": "Asia/Tokyo"}]
)
def test_a_schedule_is_read_in_the_cronjobs_own_zone_else_in_that_of_the_controller(zones: dict[str, str]) -> None:
    # 23:30 in Berlin is 21:30 UTC: by UTC it would be due at 23:30, two hours after it succeeded.
    assert told("2026-07-01T21:34", "2026-07-02T12:00", "30 23 * * *", **zones) == []
    assert told("2026-07-01T21:34", "2026-07-02T23:31", "30 23 * * *", **zones) == [
        "was due at 2026-07-02 21:30 UTC (30 23 * * * in Europe/Berlin); last success 2026-07-01 21:34 UTC"
    ]


def test_without_any_zone_it_is_utc() -> None:
    assert told("2026-07-01T21:34", "2026-07-02T12:00", "30 23 * * *") == [
        "was due at 2026-07-01 23:30 UTC (30 23 * * * in UTC); last success 2026-07-01 21:34 UTC"
    ]


def test_on_the_day_that_summer_time_begins_an_hour_that_is_skipped_is_not_due() -> None:
    the_day_before = "2026-03-28T01:31"

    assert told(the_day_before, "2026-03-29T23:00", own=BERLIN) == []
    assert told(the_day_before, "2026-03-30T02:29", own=BERLIN) == []
    (message,) = told(the_day_before, "2026-03-30T02:31", own=BERLIN)
    assert message.startswith("was due at 2026-03-30 00:30 UTC")
    (message,) = told(the_day_before, "2026-03-29T23:00", "30 3 * * *", own=BERLIN)
    assert message.startswith("was due at 2026-03-29 01:30 UTC")


def test_on_the_day_that_summer_time_ends_an_hour_that_comes_twice_is_due_twice() -> None:
    first = "2026-10-25T00:31"

    assert told(first, "2026-10-25T03:29", own=BERLIN) == []
    (message,) = told(first, "2026-10-25T03:31", own=BERLIN)
    assert message.startswith("was due at 2026-10-25 01:30 UTC")
    assert told("2026-10-25T01:31", "2026-10-26T03:29", own=BERLIN) == []
    (message,) = told(first, "2026-10-25T12:00", "30 3 * * *", own=BERLIN)
    assert message.startswith("was due at 2026-10-25 02:30 UTC")


def test_a_schedule_of_four_or_six_fields_is_none_of_kubernetes() -> None:
    for schedule in ("0 2 * *", "0 0 2 * * *"):
        assert told("2026-07-01T21:34", "2026-07-02T12:00", schedule) == [f"its schedule cannot be read: {schedule!r}"]


def test_a_zone_of_a_cronjob_that_nobody_knows_here_is_a_finding() -> None:
    for zone in ("Mars/Base", "../etc", "Europe"):
        assert told("2026-07-01T21:34", "2026-07-02T12:00", own=zone) == [f"its time zone is not known here: {zone!r}"]


class OneCronJob(Cluster):
    """A cluster whose API nobody asks."""

    @contextmanager
    def api(self) -> Iterator[Any]:
        yield None


@pytest.mark.parametrize("spec", [{"timeZone": BERLIN}, {"timeZone": None}, {}])
def test_the_cluster_tells_the_zone_where_the_cronjob_has_one(
    spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = {"name": "one", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}
    cronjob = {"metadata": metadata, "spec": {"schedule": "30 2 * * *", **spec}}
    monkeypatch.setattr(
        cronjobs, "_items", lambda _api, _version, _where, plural: [cronjob] if plural == "cronjobs" else []
    )

    assert cronjobs.look(OneCronJob(), "apps", "one").time_zone == spec.get("timeZone")


def read(folder: Path, time_zone: str) -> inventory.Inventory:
    file = folder / "inventory.yaml"
    file.write_text(PRODUCTION.read_text().replace("\nwatch:\n", f"\nwatch:\n  time_zone: {time_zone}\n"))
    return inventory.load(file)


def test_the_inventory_names_the_controllers_zone(tmp_path: Path) -> None:
    assert read(tmp_path, BERLIN).watch.time_zone == BERLIN
    assert inventory.load(PRODUCTION).watch.time_zone == "UTC"


@pytest.mark.parametrize("zone", ["Europe/Berlinn", "../etc/passwd", "Europe", "CET+1"])
def test_an_unknown_zone_in_the_inventory_is_one_clear_line(zone: str, tmp_path: Path) -> None:
    with pytest.raises(InventoryError) as caught:
        read(tmp_path, zone)

    assert caught.value.message == (
        f"{tmp_path}/inventory.yaml: watch.time_zone: expected the IANA name of a time zone, such as Europe/Berlin, "
        f"seen {zone!r}"
    )
