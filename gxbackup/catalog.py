"""
The snapshots that a remote holds, read from their manifests; and the manifest of a new one, put there last.

A snapshot exists if and only if its manifest does. Nothing here deletes.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from gxbackup import freshness, layout, signing
from gxbackup.adapters.rclone import Remote, RemoteFile
from gxbackup.adapters.rclone_answers import SameNameError
from gxbackup.errors import IntegrityError
from gxbackup.inventory import Inventory
from gxbackup.manifest_cache import ManifestCache
from gxbackup.model import Artifact, Catalog, HeldSnapshot, Leftover, Manifest, Rejected

MANIFEST_LIMIT_BYTES = 64 * 1024**2
_GONE = "is gone from the remote before its time"


def load(remote: Remote, inventory: Inventory, server: str, scratch: Path) -> Catalog:
    """
    List one server's folder on the remote and judge every snapshot in it.

    `scratch` is a private directory for the downloaded manifests; they are removed again. Where the remote lists
    hashes, those that this host has read before are not fetched again. A snapshot whose manifest is unsigned, edited,
    unreadable or of another server is listed under `rejected` with why; so is one with two files of one name.

    Raises: RemoteError where the listing is not complete: a catalog is whole or there is none.
    """
    remote_dir = inventory.server(server).remote_dir
    signers = inventory.signers_of(server)
    folders: dict[str, dict[str, int]] = defaultdict(dict)
    hashes: dict[str, str | None] = {}
    strangers: set[str] = set()
    listed, twice = _list(remote, remote_dir)
    for file in listed:
        hashes[file.path] = file.sha256
        snapshot, _, path = file.path.partition("/")
        if path and layout.is_snapshot_id(snapshot):
            folders[snapshot][path] = file.size_bytes
        else:
            strangers.add(file.path)
    held: list[HeldSnapshot] = []
    leftovers: list[Leftover] = []
    rejected = [
        Rejected(snapshot=snapshot, reason=reason, files=folders.pop(snapshot, {}))
        for snapshot, reason in _ambiguous(twice).items()
    ]
    cache = ManifestCache(inventory, server)
    with tempfile.TemporaryDirectory(prefix="manifests-", dir=scratch) as folder:
        stored = _fetch(remote, remote_dir, folders, Path(folder), cache, hashes)
        for snapshot, files in sorted(folders.items()):
            if layout.MANIFEST not in files:
                leftovers.append(Leftover(snapshot=snapshot, files=files))
                continue
            try:
                manifest, sha256 = _read(stored / snapshot, server, snapshot, signers)
            except IntegrityError as error:
                rejected.append(Rejected(snapshot=snapshot, reason=error.message, files=files))
                continue
            for name in (layout.MANIFEST, layout.SIGNATURE):
                cache.keep(hashes[f"{snapshot}/{name}"], stored / snapshot / name)
            held.append(
                HeldSnapshot(
                    server=server, remote_dir=remote_dir, manifest=manifest, manifest_sha256=sha256, files=files
                )
            )
            named = {layout.MANIFEST, layout.SIGNATURE, layout.RECOVER_PAGE}
            named.update(part.path for artifact in manifest.artifacts for part in artifact.parts)
            strangers.update(f"{snapshot}/{path}" for path in files if path not in named)
    cache.forget_others()
    return Catalog(
        server=server,
        remote_dir=remote_dir,
        snapshots=tuple(held),
        leftovers=tuple(leftovers),
        rejected=tuple(sorted(rejected, key=lambda bad: bad.snapshot)),
        strangers=tuple(sorted(strangers)),
    )


def chain_faults(catalog: Catalog, inventory: Inventory, last_written: tuple[str, str] | None = None) -> list[str]:
    """
    Tell where the past does not fit together: one line for each removed, edited or rolled-back manifest.

    Each manifest names the one before it and its sha256. One that is gone is no fault once the shortest promise of its
    server had run out, today or when a later manifest was written (it was pruned), nor one that is named later than
    what was built on it: a fast clock named it, and a person moved it out. One that is `rejected` is there, and told
    with why. `last_written` is what this host itself wrote last.
    """
    faults: list[str] = []
    known = {held.snapshot: held for held in catalog.snapshots}
    distrusted = {bad.snapshot for bad in catalog.rejected}
    newest = catalog.newest()
    rules = _shortest_rules(catalog, inventory)
    for held in catalog.snapshots:
        previous = held.manifest.previous
        if previous is None or previous.snapshot > held.snapshot:
            continue
        if (before := known.get(previous.snapshot)) is not None:
            if before.manifest_sha256 != previous.sha256:
                faults.append(f"{previous.snapshot}: its manifest is not the one that {held.snapshot} was built on")
        elif previous.snapshot not in distrusted and all(
            then - layout.snapshot_time(previous.snapshot) < kept_for for then, kept_for in rules
        ):
            faults.append(f"{previous.snapshot}: removed before its time ({held.snapshot} was built on it)")
    if last_written is not None:
        snapshot, sha256 = last_written
        if snapshot not in known:
            if snapshot not in distrusted and (newest is None or newest.snapshot < snapshot):
                faults.append(f"{snapshot}: this host wrote it last, and the remote no longer holds it")
        elif known[snapshot].manifest_sha256 != sha256:
            faults.append(f"{snapshot}: this host wrote it last, and the remote holds another manifest")
    return faults


def lost_artifacts(catalog: Catalog, inventory: Inventory) -> list[str]:
    """
    Tell what a manifest promises, its time has not run out, and the remote no longer holds whole: one line for each.

    A time has run out too where the rule that a newer copy was written under let the older one go: a promise may have
    been lowered, and put back. What a snapshot under `rejected` holds is there.

    Source: design, "Retention": absent and expired = pruned; absent and not expired = an integrity failure.
    """
    faults: list[str] = []
    distrusted = {bad.snapshot for bad in catalog.rejected}
    for data_type, promise in inventory.server(catalog.server).data_types.items():
        copies = [held for held in catalog.snapshots if held.manifest.has_good(data_type)]
        good = freshness.good_copies(catalog, data_type)
        newest = max((held.snapshot for held in (good or copies)), default=None)
        rules = [_rule(held, held.manifest.of(data_type)) for held in copies]
        for held in copies:
            made = layout.snapshot_time(held.snapshot)
            if any(then - made > kept_for for then, kept_for in rules):
                continue
            age = layout.snapshot_time(newest or held.snapshot) - made
            faults += [
                f"{held.snapshot}: {freshness.cut_file(catalog, held, artifact) or f'{artifact.path} {_GONE}'}"
                for artifact in held.manifest.of(data_type)
                if age <= timedelta(days=min(artifact.keep_days, promise.keep_days))
                and artifact.held_in not in distrusted
                and not freshness.artifact_is_held(catalog, held, artifact)
            ]
    return faults


def publish(
    remote: Remote, manifest: Manifest, recover_page: str, key: Ed25519PrivateKey, remote_dir: str, area: Path
) -> str:
    """
    Put RECOVER.md, the signature and, last of all, the manifest of a proven snapshot on the remote; read it back.

    Returns the sha256 of the manifest as stored. Until the manifest is there, the snapshot does not exist.

    Raises: RemoteError, IntegrityError where the remote gives back something else.
    """
    body = manifest.encoded()
    files = {
        layout.RECOVER_PAGE: recover_page.encode(),
        layout.SIGNATURE: signing.sign(key, body),
        layout.MANIFEST: body,
    }
    for name, content in files.items():
        (area / name).write_bytes(content)
    to = layout.in_snapshot(remote_dir, manifest.snapshot)
    remote.upload(area, [layout.RECOVER_PAGE, layout.SIGNATURE], to, may_move=True, replace_unequal=True)
    remote.upload(area, [layout.MANIFEST], to, may_move=True)
    stored = remote.sha256_many(to, list(files))
    for name, content in files.items():
        if stored.get(name) != hashlib.sha256(content).hexdigest():
            raise IntegrityError(
                f"{to}/{name}: expected sha256 {hashlib.sha256(content).hexdigest()}, "
                f"seen {stored.get(name, 'no file')}",
                "is another program writing to this remote?",
                retryable=True,
            )
    return manifest.sha256()


def discard_unproven(remote: Remote, manifest: Manifest, remote_dir: str) -> None:
    """
    Delete what a run sent but could not prove, path by path, from the folder of its own new snapshot.

    Before the manifest is there: afterwards nobody could tell such a file from a stranger's.

    Raises: RemoteError.
    """
    folder = layout.in_snapshot(remote_dir, manifest.snapshot)
    proven = {part.path for artifact in manifest.artifacts for part in artifact.parts}
    sent = [file.path for file in remote.list_files(folder, hashes=remote.features().keeps_sha256)]
    if layout.MANIFEST in sent:
        return  # an earlier try put it there; whether it is ours is for `publish` to see
    for path in sent:
        if path not in proven and path not in (layout.RECOVER_PAGE, layout.SIGNATURE):
            remote.delete_file(f"{folder}/{path}")


def _list(remote: Remote, remote_dir: str) -> tuple[Sequence[RemoteFile], Sequence[str]]:
    """List a server's folder whole, and the paths that name more than one thing in it."""
    try:
        return remote.list_files(remote_dir, hashes=remote.features().keeps_sha256), ()
    except SameNameError as error:
        return error.files, error.twice


def _ambiguous(twice: Iterable[str]) -> dict[str, str]:
    """Return why each snapshot that has a path twice is not to be trusted; a path outside of snapshots harms none."""
    found: dict[str, str] = {}
    for path in twice:
        snapshot = path.partition("/")[0]
        if layout.is_snapshot_id(snapshot):
            found.setdefault(snapshot, f"two files of one name: {path} (`rclone dedupe` shows and mends them)")
    return found


def _shortest_rules(catalog: Catalog, inventory: Inventory) -> list[tuple[datetime, timedelta]]:
    """Return the shortest promise that each manifest was written under, and that of today beside the newest."""
    rules = [_rule(held, held.manifest.artifacts) for held in catalog.snapshots if held.manifest.artifacts]
    if newest := catalog.newest():
        days = min(data_type.keep_days for data_type in inventory.server(catalog.server).data_types.values())
        rules.append((layout.snapshot_time(newest.snapshot), timedelta(days=days)))
    return rules


def _rule(held: HeldSnapshot, artifacts: Iterable[Artifact]) -> tuple[datetime, timedelta]:
    """Return when a snapshot was made, and the shortest promise that these artifacts of it were written under."""
    days = min(artifact.keep_days for artifact in artifacts)
    return layout.snapshot_time(held.snapshot), timedelta(days=days)


def _fetch(
    remote: Remote,
    remote_dir: str,
    folders: Mapping[str, Mapping[str, int]],
    to: Path,
    cache: ManifestCache,
    hashes: Mapping[str, str | None],
) -> Path:
    """Get every manifest and signature that is not in the cache in one go, as far as they are of a believable size."""
    names = [
        f"{snapshot}/{name}"
        for snapshot, files in folders.items()
        for name in (layout.MANIFEST, layout.SIGNATURE)
        if files.get(name, MANIFEST_LIMIT_BYTES + 1) <= MANIFEST_LIMIT_BYTES
    ]
    unseen = []
    for name in names:
        if (body := cache.find(hashes[name])) is None:
            unseen.append(name)
        else:
            (to / name).parent.mkdir(exist_ok=True)
            (to / name).write_bytes(body)
    if unseen:
        remote.download(remote_dir, unseen, to)
    return to


def _read(folder: Path, server: str, snapshot: str, signers: Mapping[str, str]) -> tuple[Manifest, str]:
    name = f"{snapshot}/{layout.MANIFEST}"
    try:
        body = (folder / layout.MANIFEST).read_bytes()
    except FileNotFoundError:
        raise IntegrityError(f"{name}: not of a believable size") from None
    try:
        signature = (folder / layout.SIGNATURE).read_bytes()
    except FileNotFoundError:
        raise IntegrityError(f"{name}: not signed: {layout.SIGNATURE} is missing") from None
    host = signing.check(body, signature, signers, name)
    try:
        manifest = Manifest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise IntegrityError(f"{name}: not a manifest of this version: {where}: {first['msg']}") from None
    if (manifest.server, manifest.snapshot, manifest.host) != (server, snapshot, host):
        raise IntegrityError(
            f"{name}: expected server {server}, snapshot {snapshot}, host {host}, "
            f"seen {manifest.server}, {manifest.snapshot}, {manifest.host}"
        )
    return manifest, hashlib.sha256(body).hexdigest()
