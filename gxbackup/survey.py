"""
The look around before a backup: is everything there that it needs, what is due, what came before. Changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from gxbackup import __version__, catalog, checking, freshness, layout, sealing, signing
from gxbackup.adapters import process
from gxbackup.adapters.rclone import Remote
from gxbackup.errors import IntegrityError, SetupError
from gxbackup.inventory import Inventory
from gxbackup.model import Artifact, Catalog, Frozen, Manifest, Previous
from gxbackup.staging import staging_root

_log = logging.getLogger(__name__)
CLOCK_TOLERANCE = timedelta(minutes=5)


class Survey(Frozen):
    """What a backup knows before it reads the first byte."""

    server: str
    host: str
    remote_dir: str
    snapshot: str
    started_at: datetime
    due: tuple[str, ...]
    previous: Previous | None
    faults: tuple[str, ...]
    last_sealed_bytes: dict[str, int]
    last_good: dict[str, Artifact]
    tools: dict[str, str]


def survey(
    inventory: Inventory, server: str, remote: Remote, area: Path, now: datetime,
    only: Sequence[str] | None = None, without: Sequence[str] = (),
) -> Survey:  # fmt: skip
    """
    Check keys, recipients, remote and clock, read the catalog, and name what is due and the new snapshot's id.

    Raises: InventoryError, SealingError, SetupError (key, clock, program), RemoteError: nothing was touched.
    """
    settings = inventory.server(server)
    sealing.check_recipients(inventory.recipients.required())
    key = signing.load_key(signing.key_file())
    host = signing.host_of(key, inventory.all_signers(), settings.runs_on)
    held = catalog.load(remote, inventory, server, area)
    faults = [f"{bad.snapshot}: {bad.reason}" for bad in held.rejected]
    written = last_written(inventory, server)
    faults += catalog.chain_faults(held, inventory, written)
    faults += catalog.lost_artifacts(held, inventory)
    return Survey(
        server=server,
        host=host,
        remote_dir=settings.remote_dir,
        snapshot=_new_id(held, now),
        started_at=now,
        due=freshness.due(held, inventory, server, now, only, without),
        previous=_previous(held, written),
        faults=tuple(faults),
        last_sealed_bytes=_last_sizes(held),
        last_good=_last_good(held, settings.data_types, inventory.recipients.required(), remote),
        tools=_tools(),
    )


def check_clock(now: datetime, other: datetime, whose: str) -> None:
    """Raise SetupError where this host's clock and another's differ by more than five minutes."""
    if abs(now - other) > CLOCK_TOLERANCE:
        raise SetupError(
            f"clock: expected within 5 minutes of {whose}, {other:%Y-%m-%d %H:%M:%S} UTC, "
            f"seen {now:%Y-%m-%d %H:%M:%S} UTC",
            "is time synchronisation running? `timedatectl` tells; snapshots are named and kept by the clock",
        )


def last_written(inventory: Inventory, server: str) -> tuple[str, str] | None:
    """Return id and sha256 of the manifest that this host put on this remote last, or None."""
    try:
        stored = json.loads(_memory(inventory, server).read_text(encoding="utf-8"))
        return str(stored["snapshot"]), str(stored["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(inventory: Inventory, manifest: Manifest, sha256: str) -> None:
    """Keep what this host wrote last, so that a remote that was rolled back shows."""
    file = _memory(inventory, manifest.server)
    file.parent.mkdir(mode=0o700, exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps({"snapshot": manifest.snapshot, "sha256": sha256}), encoding="utf-8")
    fresh.replace(file)


def _previous(held: Catalog, written: tuple[str, str] | None) -> Previous | None:
    """Return what the new manifest is built on: also where it is lost, so that the loss shows on the days after too."""
    newest = held.newest()
    if written is not None and written[0] not in {bad.snapshot for bad in held.rejected}:
        snapshot, sha256 = written
        if newest is None or newest.snapshot <= snapshot:
            return Previous(snapshot=snapshot, sha256=sha256)
    return Previous(snapshot=newest.snapshot, sha256=newest.manifest_sha256) if newest else None


def _memory(inventory: Inventory, server: str) -> Path:
    key = hashlib.sha256(inventory.remote.path.encode()).hexdigest()[:12]
    return staging_root() / "last-written" / f"{server}-{key}.json"


def _new_id(held: Catalog, now: datetime) -> str:
    """Return an id that is newer than all there is, or say that the clock cannot be right."""
    taken = [
        *(s.snapshot for s in held.snapshots),
        *(s.snapshot for s in held.leftovers),
        *(s.snapshot for s in held.rejected),
    ]
    if not taken:
        return layout.snapshot_id(now)
    newest = layout.snapshot_time(max(taken))
    following = newest + timedelta(seconds=1)
    if following > now + layout.NAMED_AHEAD:
        raise SetupError(
            f"clock: expected later than the newest snapshot, {newest:%Y-%m-%d %H:%M:%S} UTC, "
            f"seen {now:%Y-%m-%d %H:%M:%S} UTC",
            "is this host's clock slow? `timedatectl` tells",
            f"is it right, then one that was fast named {held.remote_dir}/{max(taken)}: docs/runbooks/broken-chain.md "
            "says how to move that out",
        )
    return layout.snapshot_id(max(now, following))


def _last_good(
    held: Catalog, data_types: Iterable[str], recipients: tuple[str, ...], remote: Remote
) -> dict[str, Artifact]:
    """
    Return the artifacts of the newest good copy of each data type by path, with the snapshot their files lie in.

    Without it, and without their base, where nothing may be built on it: one of both is sealed to other recipients, so
    that what is written today would open with keys that were replaced alone; or the remote holds other bytes of it.
    """
    found: dict[str, Artifact] = {}
    for data_type in data_types:
        for newest in freshness.good_copies(held, data_type)[:1]:
            for artifact in newest.manifest.of(data_type):
                where = artifact.held_in or newest.snapshot
                base = held.find(artifact.base) if artifact.base else None
                sealed = [artifact, *(base.manifest.of(data_type) if base else ())]
                is_ours = all(one.recipients == recipients for one in sealed)
                bears = is_ours and _is_held_whole(remote, held, artifact.model_copy(update={"held_in": where}))
                update = {"held_in": where} if bears else {"held_in": None, "base": None}
                found[artifact.path] = artifact.model_copy(update=update)
    return found


def _is_held_whole(remote: Remote, held: Catalog, artifact: Artifact) -> bool:
    """
    Tell whether the remote holds the level 0 that a differential of today would build on, by its own hashes.

    Where it keeps none, all bytes would have to be read back each day: there verify-integrity alone sees damage.
    """
    if "full_id" not in artifact.settings or not remote.features().keeps_sha256:
        return True
    snapshot, full = artifact.held_in, [artifact]
    if artifact.base and (base := held.find(artifact.base)):
        path = artifact.settings.get("base_path")
        snapshot, full = base.snapshot, [one for one in base.manifest.of(artifact.data_type) if one.path == path]
    assert snapshot
    try:
        checking.verify_on_remote(remote, held.remote_dir, snapshot, full)
    except IntegrityError as error:
        _log.error("%s: what it would build on is damaged, so all of it is kept anew: %s", artifact.path, error)
        return False
    return True


def _last_sizes(held: Catalog) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for snapshot in held.snapshots:
        for artifact in snapshot.manifest.artifacts:
            sizes[artifact.path] = artifact.sealed_size_bytes
    return sizes


def _tools() -> dict[str, str]:
    versions = {"gx-backup": __version__}
    for name in ("age", "tar"):
        done = process.run([name, "--version"], timeout_seconds=30)
        versions[name] = done.stdout.decode().splitlines()[0].removeprefix("tar (GNU tar) ")
    return versions
