"""
The middle of a restore by a server's own programs: narrow the choice, add what a differential builds on, open it all.

What is done with the opened files is the source's business.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import JsonValue

from gxbackup import layout, sealing
from gxbackup.errors import RestoreRefusedError
from gxbackup.model import Artifact, Catalog
from gxbackup.restoring import Chosen, sealed_files
from gxbackup.sources import AnySource
from gxbackup.sources.base import Opened, Restorable


def require_restorable(source: AnySource, data_type: str) -> Restorable:
    """Return the source as one that its own programs restore; RestoreRefusedError for a file tree or a reference."""
    if not isinstance(source, Restorable):
        raise RestoreRefusedError(f"{data_type}: kind {source.kind} is not restored this way")
    return source


def narrow(chosen: Chosen, source: Restorable, held: Catalog, options: dict[str, JsonValue] | None) -> Chosen:
    """
    Keep the artifacts that these options need, each with what it builds on before it.

    Raises: RestoreRefusedError where nothing is left, or a base is not held.
    """
    artifacts: list[Artifact] = []
    for artifact in source.select(chosen.artifacts, options or {}):
        if artifact.base is not None:
            artifacts += _base(held, artifact, artifact.base)
        artifacts.append(artifact)
    if not artifacts:
        raise RestoreRefusedError(f"{chosen.data_type} {chosen.snapshot}: holds nothing that these options name")
    return chosen.model_copy(update={"artifacts": tuple(artifacts)})


def open_all(chosen: Chosen, area: Path, identity_file: Path, source: Restorable) -> tuple[Opened, ...]:
    """
    Unseal fetched artifacts in a private area, each proven to its last byte; the sealed files go.

    For a source that wants them sealed they stay, and its preview proves them.

    Raises: SealingError, IntegrityError; what was opened is gone with the area.
    """
    opened: list[Opened] = []
    for artifact in chosen.artifacts:
        is_packed = source.opens == "packed"
        name = artifact.path.removesuffix(layout.SEALED_SUFFIX) + (layout.PACKED_SUFFIX if is_packed else "")
        file, sealed = area / "opened" / name, tuple(sealed_files(artifact, area))
        if source.opens == "sealed":
            opened.append(Opened(artifact=artifact, file=file, sealed=sealed, identity_file=identity_file))
            continue
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with (
            os.fdopen(descriptor, "wb", buffering=0) as out,
            sealing.unseal(artifact, sealed, identity_file, out if is_packed else None) as chunks,
        ):
            for chunk in chunks:
                if not is_packed:
                    out.write(chunk)
        for one in sealed:
            one.unlink()
        opened.append(Opened(artifact=artifact, file=file))
    return tuple(opened)


def _base(held: Catalog, artifact: Artifact, base: str) -> list[Artifact]:
    """Return the artifacts that a differential builds on, the oldest first, each naming the snapshot it lies in."""
    name = artifact.settings.get("base_path")
    snapshot = held.find(base)
    found = [one for one in snapshot.manifest.of(artifact.data_type) if one.path == name] if snapshot else []
    if not snapshot or not found:
        raise RestoreRefusedError(
            f"{artifact.path}: builds on {base}, which holds no {name}", "choose a snapshot whose base is still held"
        )
    one = found[0].model_copy(update={"held_in": found[0].held_in or base})
    return [*(_base(held, one, one.base) if one.base else []), one]
