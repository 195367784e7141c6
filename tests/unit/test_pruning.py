"""Pruning on a real rclone and a real folder: exactly the plan, from the first file to the last, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gxbackup import layout, pruning, retention
from gxbackup.adapters.rclone import Remote
from gxbackup.errors import PruneRefusedError, RemoteError
from gxbackup.inventory import Inventory, RemoteSettings
from gxbackup.model import Catalog
from gxbackup.retention import Plan
from tests.unit.catalogs import REMOTE_DIR, Promised, Shelf, Taken, day, inventory, named


class Folder:
    """A shelf whose files lie on the disk, and the rclone that looks after them."""

    def __init__(self, path: Path, scratch: Path) -> None:
        self.path = path
        self.shelf = Shelf()
        self.remote = Remote(RemoteSettings(path=str(path)), scratch)

    def daily(self, first: int, last: int, taken: Taken) -> None:
        for number in range(first, last + 1):
            self.shelf.back_up(day(number), [taken])
        for name, size_bytes in self.shelf.files.items():
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"x" * size_bytes)

    def catalog(self) -> Catalog:
        self.shelf.files = {file.path: file.size_bytes for file in self.remote.list_files("")}
        return self.shelf.catalog()

    def seen(self) -> set[str]:
        return {str(file.relative_to(self.path)) for file in self.path.rglob("*")}

    def snapshots(self) -> list[str]:
        return sorted(file.name for file in (self.path / REMOTE_DIR).iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    for name in ("remote", "scratch"):
        (tmp_path / name).mkdir()
    return Folder(tmp_path / "remote", tmp_path / "scratch")


PROMISES = inventory(website=Promised(keep_days=2))
SITE = Taken("website", keep_days=2)


def plan_of(folder: Folder, promises: Inventory = PROMISES, **settings: str) -> Plan:
    return retention.plan(folder.catalog(), promises, day(100), **settings)


class CutAfter:
    """The real remote, on a line that breaks after so many deletions."""

    def __init__(self, remote: Remote, deletions: int) -> None:
        self._remote = remote
        self._left = deletions

    def delete_file(self, path: str) -> None:
        if not self._left:
            raise RemoteError(f"{path}: the line was cut")
        self._left -= 1
        self._remote.delete_file(path)

    def remove_empty_folder(self, path: str) -> None:
        self._remote.remove_empty_folder(path)


def test_a_prune_deletes_the_files_of_its_plan_and_the_folders_that_they_emptied(folder: Folder) -> None:
    folder.daily(0, 3, SITE)
    plan = plan_of(folder)

    result = pruning.execute(plan, folder.remote, relist=folder.catalog)

    assert result.deleted == plan.deletions
    assert result.freed_bytes == 103
    assert folder.snapshots() == [named(1), named(2), named(3)]


def test_a_prune_leaves_the_other_data_types_of_a_snapshot_and_its_manifest(folder: Folder) -> None:
    for number in range(4):
        folder.shelf.back_up(day(number), [SITE, Taken("ssh-keys", keep_days=90)])
    folder.daily(4, 3, SITE)

    pruning.execute(
        plan_of(folder, inventory(website=Promised(keep_days=2), ssh_keys=Promised(keep_days=90))),
        folder.remote,
        relist=folder.catalog,
    )

    left = {path.name for path in (folder.path / REMOTE_DIR / named(0)).rglob("*")}
    assert left == {"manifest.json", "manifest.json.sig", "RECOVER.md", "files", "ssh-keys", "one.tar.zst.age"}


def test_a_plan_of_nothing_deletes_nothing(folder: Folder) -> None:
    folder.daily(0, 2, SITE)
    before = folder.seen()

    result = pruning.execute(plan_of(folder), folder.remote, relist=folder.catalog)

    assert (result.deleted, folder.seen()) == ((), before)


def test_a_refused_plan_deletes_nothing_until_a_person_confirms_it(folder: Folder) -> None:
    folder.daily(0, 9, Taken("website", keep_days=30))
    before = folder.seen()
    refused = plan_of(folder)

    with pytest.raises(PruneRefusedError, match="the plan would drop") as caught:
        pruning.execute(refused, folder.remote, relist=folder.catalog)

    assert folder.seen() == before
    assert refused.sha256 in str(caught.value)

    pruning.execute(plan_of(folder, confirm_sha256=refused.sha256), folder.remote, relist=folder.catalog)

    assert folder.snapshots() == [named(7), named(8), named(9)]


@pytest.mark.parametrize(
    ("meanwhile", "seen"),
    [
        pytest.param(lambda folder: folder.daily(4, 4, SITE), "4 more", id="a backup ended"),
        pytest.param(lambda folder: (folder.path / layout.in_snapshot(REMOTE_DIR, named(3), layout.MANIFEST)).unlink(),
                     "4 fewer", id="the newest manifest went"),
        pytest.param(lambda folder: (folder.path / layout.in_snapshot(REMOTE_DIR, named(0), "notes")).write_text("x"),
                     "3 fewer", id="somebody put a file there"),
    ],
)  # fmt: skip
def test_a_listing_that_changed_since_the_plan_stops_it(
    folder: Folder, meanwhile: Callable[[Folder], object], seen: str
) -> None:
    folder.daily(0, 3, SITE)
    plan = plan_of(folder)
    meanwhile(folder)
    before = folder.seen()

    with pytest.raises(PruneRefusedError, match=f"expected the same 4 deletions as planned, seen {seen}"):
        pruning.execute(plan, folder.remote, relist=folder.catalog)

    assert folder.seen() == before


def test_a_listing_that_fails_deletes_nothing(folder: Folder) -> None:
    folder.daily(0, 3, SITE)
    plan = plan_of(folder)
    before = folder.seen()

    def relist() -> Catalog:
        raise RemoteError("listing: cut")

    with pytest.raises(RemoteError, match="listing: cut"):
        pruning.execute(plan, folder.remote, relist=relist)

    assert folder.seen() == before


@pytest.mark.parametrize("deletions", [0, 1, 3, 5])
def test_a_prune_that_is_cut_anywhere_is_finished_by_the_next(folder: Folder, deletions: int) -> None:
    folder.daily(0, 4, SITE)
    plan = plan_of(folder)

    with pytest.raises(RemoteError, match="the line was cut"):
        pruning.execute(plan, CutAfter(folder.remote, deletions), relist=folder.catalog)

    assert {named(2), named(3), named(4)} <= set(folder.snapshots())

    pruning.execute(plan_of(folder), folder.remote, relist=folder.catalog)

    assert folder.snapshots() == [named(2), named(3), named(4)]
