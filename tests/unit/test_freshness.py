"""What a daily run captures: all that is daily, and what is weekly on Sunday, or as soon as it must."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gxbackup import freshness, inventory, layout
from gxbackup.errors import InventoryError
from gxbackup.model import Artifact, Catalog, HeldSnapshot, Manifest, Part

SUNDAY = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
PROJECT = Path(__file__).resolve().parents[2]


def held(moment: datetime, *data_types: str, present: bool = True) -> HeldSnapshot:
    """A good snapshot of these data types; `present` tells whether their bytes lie on the remote."""
    artifacts = tuple(
        Artifact(
            data_type=name, kind="directory", path=f"files/{name}", keep_days=90,
            parts=(Part(path=f"files/{name}", size_bytes=1, sha256="0" * 64),),
            sealed_size_bytes=1, sealed_sha256="0" * 64, plain_size_bytes=1, plain_sha256="0" * 64,
        )
        for name in data_types
    )  # fmt: skip
    manifest = Manifest(
        snapshot=layout.snapshot_id(moment), server="vps1", host="vps1", started_at=moment, finished_at=moment,
        complete=True, artifacts=artifacts,
    )  # fmt: skip
    return HeldSnapshot(
        server="vps1", remote_dir="vps1-website", manifest=manifest, manifest_sha256="0" * 64,
        files={f"files/{name}": 1 for name in data_types} if present else {},
    )  # fmt: skip


def due(
    now: datetime, *snapshots: HeldSnapshot, only: list[str] | None = None, without: tuple[str, ...] = ()
) -> tuple[str, ...]:
    promised = inventory.load(PROJECT / "deployments" / "inventory.yaml")
    return freshness.due(
        Catalog(server="vps1", remote_dir="vps1-website", snapshots=snapshots), promised, "vps1", now, only, without
    )


def test_the_first_run_takes_everything() -> None:
    assert due(SUNDAY + timedelta(days=3)) == (
        "website",
        "docker-state",
        "k8s-manifests",
        "k3s-config",
        "ssh-keys",
        "system-config",
    )


@pytest.mark.parametrize("days", [1, 2, 3, 4, 5, 6])
def test_weekly_data_types_wait_for_sunday(days: int) -> None:
    last = held(SUNDAY, "ssh-keys", "system-config")

    assert due(SUNDAY + timedelta(days=days), last) == ("website", "docker-state", "k8s-manifests", "k3s-config")


def test_weekly_data_types_are_taken_on_sunday() -> None:
    last = held(SUNDAY, "ssh-keys", "system-config")

    assert "system-config" in due(SUNDAY + timedelta(days=7), last)


def test_a_missed_sunday_is_made_up_for_on_monday() -> None:
    last = held(SUNDAY, "ssh-keys", "system-config")

    assert "system-config" in due(SUNDAY + timedelta(days=8), last)


def test_a_first_copy_on_a_weekday_moves_to_the_next_sunday() -> None:
    last = held(SUNDAY + timedelta(days=3), "ssh-keys", "system-config")

    assert "system-config" not in due(SUNDAY + timedelta(days=6), last)
    assert "system-config" in due(SUNDAY + timedelta(days=7), last)


def test_a_second_run_on_sunday_does_not_take_them_again() -> None:
    last = held(SUNDAY, "ssh-keys", "system-config")

    assert "system-config" not in due(SUNDAY + timedelta(hours=6), last)


def test_a_copy_whose_bytes_are_gone_is_none() -> None:
    last = held(SUNDAY, "ssh-keys", "system-config", present=False)

    assert "system-config" in due(SUNDAY + timedelta(days=2), last)


def test_only_takes_what_it_names_in_the_inventorys_order() -> None:
    last = held(SUNDAY, "ssh-keys", "system-config")

    assert due(SUNDAY + timedelta(days=1), last, only=["system-config", "website"]) == ("website", "system-config")


@pytest.mark.parametrize("only", [[], ["no-such"]])
def test_only_must_name_something_that_is_protected(only: list[str]) -> None:
    with pytest.raises(InventoryError):
        due(SUNDAY, only=only)


def test_what_is_left_to_another_run_is_not_due() -> None:
    assert "website" not in due(SUNDAY, without=("website",))
    with pytest.raises(InventoryError, match="data type 'nothing-of-ours'"):
        due(SUNDAY, without=("nothing-of-ours",))


def test_a_differential_whose_base_is_gone_is_no_good_copy() -> None:
    full, later = held(SUNDAY, "website"), held(SUNDAY + timedelta(days=1), "website")
    artifact = later.manifest.artifacts[0].model_copy(update={"base": full.snapshot})
    later = later.model_copy(update={"manifest": later.manifest.model_copy(update={"artifacts": (artifact,)})})

    def good(*snapshots: HeldSnapshot) -> list[str]:
        catalog = Catalog(server="vps1", remote_dir="vps1-website", snapshots=snapshots)
        return [copy.snapshot for copy in freshness.good_copies(catalog, "website")]

    assert good(full, later) == [later.snapshot, full.snapshot]
    assert good(held(SUNDAY, "website", present=False), later) == []
