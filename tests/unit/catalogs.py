"""A server's folder on a remote, held in memory: runs add to it, prunes take from it, a catalog tells what is there."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from gxbackup import layout
from gxbackup.inventory import Inventory
from gxbackup.model import Artifact, Catalog, HeldSnapshot, Leftover, Manifest, Missing, Part, Previous, Rejected
from gxbackup.retention import Plan

SERVER = "vps1"
REMOTE_DIR = "vps1-website"
SITE = "website"
KEYS = "ssh-keys"
SITE_FILE = layout.artifact_path("files", SITE, "one.tar")
START = datetime(2026, 9, 1, 2, 0, 0, tzinfo=UTC)


def day(number: float) -> datetime:
    """Return the moment so many days after the first backup."""
    return START + timedelta(days=number)


def named(number: float) -> str:
    """Return the id of the snapshot begun on that day."""
    return layout.snapshot_id(day(number))


@dataclass(frozen=True)
class Promised:
    """One data type of a test's inventory."""

    keep_days: int = 30
    keep_at_least: int = 3
    rpo_hours: float = 24


def inventory(*pinned: str, prune_limit: float = 0.25, **data_types: Promised) -> Inventory:
    """Return an inventory of one server with these data types; `_` in a name stands for `-`."""
    return Inventory.model_validate(
        {
            "remote": {"path": "gdrive-backup:gx-backups"},
            "hosts": {SERVER: {"pool": SERVER}},
            "servers": {
                SERVER: {
                    "runs_on": SERVER,
                    "remote_dir": REMOTE_DIR,
                    "prune_limit": prune_limit,
                    "pinned": pinned,
                    "data_types": {
                        name.replace("_", "-"): {
                            "source": {"kind": "directory", "root": "/srv"},
                            "rpo_hours": promised.rpo_hours,
                            "keep_days": promised.keep_days,
                            "keep_at_least": promised.keep_at_least,
                        }
                        for name, promised in data_types.items()
                    },
                }
            },
        }
    )


@dataclass(frozen=True)
class Taken:
    """What a run captured of one data type."""

    data_type: str
    keep_days: int = 30
    size_bytes: int = 100
    names: tuple[str, ...] = ("one.tar",)
    base: str | None = None
    held_in: str | None = None
    set_id: str | None = None
    whole: bool = True


class Shelf:
    """Files and manifests of one server; the same folders, rules and order as on a real remote."""

    def __init__(self) -> None:
        self.files: dict[str, int] = {}
        self.manifests: dict[str, Manifest] = {}
        self.digests: dict[str, str] = {}
        self.untrusted: set[str] = set()

    def back_up(self, when: datetime, taken: Iterable[Taken], missing: Iterable[str] = (), cut: bool = False) -> str:
        """Add one run's snapshot and return its id; a run that is cut puts no manifest there."""
        snapshot = layout.snapshot_id(when)
        taken = tuple(taken)
        artifacts = tuple(self._artifact(snapshot, each, name) for each in taken for name in each.names)
        gaps = [*missing, *(each.data_type for each in taken if not each.whole)]
        newest = max(self.trusted(), default=None)
        manifest = Manifest(
            snapshot=snapshot,
            server=SERVER,
            host=SERVER,
            started_at=when,
            finished_at=when,
            complete=not gaps,
            missing=tuple(Missing(data_type=gap, reason="it failed") for gap in gaps),
            artifacts=artifacts,
            previous=Previous(snapshot=newest, sha256=self.digests[newest]) if newest else None,
        )
        for artifact in artifacts:
            if artifact.held_in is None:
                for part in artifact.parts:
                    self.put(snapshot, part.path, part.size_bytes)
        if not cut:
            self.manifests[snapshot] = manifest
            self.digests[snapshot] = manifest.sha256()
            for page in (layout.RECOVER_PAGE, layout.SIGNATURE, layout.MANIFEST):
                self.put(snapshot, page, 1)
        return snapshot

    def trusted(self) -> dict[str, Manifest]:
        """Return the manifests that are there and may be believed."""
        return {
            snapshot: manifest
            for snapshot, manifest in self.manifests.items()
            if snapshot not in self.untrusted
            and layout.in_snapshot(REMOTE_DIR, snapshot, layout.MANIFEST) in self.files
        }

    def catalog_ids(self) -> set[str]:
        """Return the ids of the snapshot folders that are there, whatever is in them."""
        names = {path.removeprefix(f"{REMOTE_DIR}/").split("/")[0] for path in self.files}
        return {name for name in names if layout.is_snapshot_id(name)}

    def put(self, snapshot: str, path: str, size_bytes: int = 1) -> None:
        """Lay a file into a snapshot's folder."""
        self.files[layout.in_snapshot(REMOTE_DIR, snapshot, path)] = size_bytes

    def lose(self, snapshot: str, ending: str) -> None:
        """Take away the files of a snapshot whose path ends so, as no prune of ours would."""
        for path in [path for path in self.paths_of(snapshot) if path.endswith(ending)]:
            del self.files[path]

    def paths_of(self, snapshot: str) -> list[str]:
        """Return what lies in a snapshot's folder, spelled from the remote's root."""
        return [path for path in self.files if path.startswith(layout.in_snapshot(REMOTE_DIR, snapshot) + "/")]

    def catalog(self) -> Catalog:
        """Tell what is there as `catalog.load` does: from the files alone, and the manifests among them."""
        folders: dict[str, dict[str, int]] = defaultdict(dict)
        strangers = []
        for path, size_bytes in self.files.items():
            snapshot, _, rest = path.removeprefix(f"{REMOTE_DIR}/").partition("/")
            if rest and layout.is_snapshot_id(snapshot):
                folders[snapshot][rest] = size_bytes
            else:
                strangers.append(path.removeprefix(f"{REMOTE_DIR}/"))
        held, leftovers, rejected = [], [], []
        for snapshot, files in sorted(folders.items()):
            if layout.MANIFEST not in files:
                leftovers.append(Leftover(snapshot=snapshot, files=files))
            elif snapshot in self.untrusted:
                rejected.append(Rejected(snapshot=snapshot, reason="signed by a stranger", files=files))
            else:
                manifest = self.manifests[snapshot]
                sha256 = self.digests[snapshot]
                held.append(
                    HeldSnapshot(
                        server=SERVER, remote_dir=REMOTE_DIR, manifest=manifest, manifest_sha256=sha256, files=files
                    )
                )
                ours = {layout.MANIFEST, layout.SIGNATURE, layout.RECOVER_PAGE}
                ours.update(part.path for artifact in manifest.artifacts for part in artifact.parts)
                strangers += [f"{snapshot}/{path}" for path in files if path not in ours]
        return Catalog(
            server=SERVER,
            remote_dir=REMOTE_DIR,
            snapshots=tuple(held),
            leftovers=tuple(leftovers),
            rejected=tuple(rejected),
            strangers=tuple(sorted(strangers)),
        )

    def delete_file(self, path: str) -> None:
        """Delete one file; one that is not there is fine."""
        self.files.pop(path, None)

    def remove_empty_folder(self, path: str) -> None:
        """Do nothing: there are no folders here, only paths."""

    def _artifact(self, snapshot: str, taken: Taken, name: str) -> Artifact:
        path = layout.artifact_path("files", taken.data_type, name)
        origin = taken.held_in or snapshot
        sha256 = hashlib.sha256(f"{origin}/{path}".encode()).hexdigest()
        return Artifact(
            data_type=taken.data_type,
            kind="directory",
            path=path,
            parts=(Part(path=path, size_bytes=taken.size_bytes, sha256=sha256),),
            sealed_size_bytes=taken.size_bytes,
            sealed_sha256=sha256,
            plain_size_bytes=taken.size_bytes,
            plain_sha256=sha256,
            keep_days=taken.keep_days,
            base=taken.base,
            held_in=taken.held_in,
            set_id=taken.set_id,
        )


def daily(shelf: Shelf, first: int, last: int, taken: Taken | None = None) -> Shelf:
    """Back up once a day from one day to another, both included."""
    for number in range(first, last + 1):
        shelf.back_up(day(number), [taken or Taken(SITE)])
    return shelf


def dropped(plan: Plan) -> list[str]:
    """Return the copies that a plan drops by the day they were made, oldest first: `0 website`."""
    return sorted(
        f"{(layout.snapshot_time(each.snapshot) - START).total_seconds() / 86400:g} {each.data_type}"
        for each in plan.decisions
        if each.rule == "expired"
    )


def reason(plan: Plan, number: float, data_type: str = SITE) -> str:
    """Return why the copy made on that day stays or goes."""
    return next(each.reason for each in plan.decisions if (each.snapshot, each.data_type) == (named(number), data_type))
