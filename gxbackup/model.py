"""
The nouns: captures, sealed files, artifacts and the manifest of a snapshot. Frozen data, no I/O.

The manifest's fields are a published format (`docs/reference/manifest.schema.json`): a snapshot written today
is read by every later version, so a field may be added with a default and never renamed or removed.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StringConstraints

SCHEMA_VERSION: Literal[1] = 1

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
SnapshotId = Annotated[str, StringConstraints(pattern=r"^\d{8}_\d{6}$")]


def _relative(path: str) -> str:
    if any(step in ("", ".", "..") for step in path.split("/")) or "\\" in path or any(ord(c) < 32 for c in path):
        raise ValueError("expected a relative path without '.', '..', empty steps or control characters")
    return path


RelativePath = Annotated[str, StringConstraints(max_length=512), AfterValidator(_relative)]
Evidence = dict[str, JsonValue]


class Frozen(BaseModel):
    """A value: compared by its fields, never changed, no unknown field."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Capture(Frozen):
    """
    What `collect` leaves: how the bytes of one artifact are read, and the evidence taken beside them.

    Plain data only, so that it may pass between Prefect tasks; secrets never.
    """

    data_type: str
    name: str = Field(description="file name before sealing, with its own suffix: website.tar")
    settings: dict[str, JsonValue] = Field(
        default_factory=dict, description="what the source needs to read it, and a restore to apply it"
    )
    evidence: Evidence = Field(default_factory=dict)
    expected_size_bytes: int = Field(default=0, ge=0, description="plain size, as far as it is known before")
    base: SnapshotId | None = Field(default=None, description="the snapshot that a differential builds on")


class Part(Frozen):
    """One stored file of an artifact; most artifacts have one."""

    path: RelativePath = Field(description="relative to the snapshot folder")
    size_bytes: int = Field(ge=0)
    sha256: Sha256


class SealedFile(Frozen):
    """What `compress` leaves in staging: the hashes taken in flight, and what the stream said at its end."""

    capture: Capture
    path: RelativePath
    parts: tuple[Part, ...]
    sealed_size_bytes: int
    sealed_sha256: Sha256
    plain_size_bytes: int
    plain_sha256: Sha256
    content_sha256: Sha256
    evidence: Evidence = Field(default_factory=dict)
    shortfalls: tuple[str, ...] = Field(default=(), description="what the producer could not read, each with why")


class Artifact(Frozen):
    """One sealed file of a snapshot, as its manifest tells it."""

    data_type: str
    kind: str = Field(description="the kind of source that wrote it and restores it")
    path: RelativePath = Field(description="relative to the snapshot folder, without part numbers")
    parts: tuple[Part, ...] = Field(min_length=1)
    sealed_size_bytes: int = Field(gt=0)
    sealed_sha256: Sha256
    plain_size_bytes: int = Field(gt=0)
    plain_sha256: Sha256
    content_sha256: Sha256 | None = Field(
        default=None, description="equal for equal content, where the plain bytes also tell when they were made"
    )
    keep_days: int = Field(gt=0)
    settings: dict[str, JsonValue] = Field(default_factory=dict, description="what a restore needs to apply it")
    evidence: Evidence = Field(default_factory=dict)
    base: SnapshotId | None = Field(default=None, description="the snapshot that a differential builds on")
    held_in: SnapshotId | None = Field(
        default=None, description="the older snapshot whose equal file this is; nothing was sent again"
    )
    set_id: str | None = Field(default=None, description="artifacts of one set are kept and dropped together")
    recipients: tuple[str, ...] = Field(default=(), description="the age public keys that it is sealed to")


class Missing(Frozen):
    """A data type that this snapshot should hold whole, and does not."""

    data_type: str
    reason: str


class Previous(Frozen):
    """The manifest before this one: a removed or rolled-back past shows as a broken chain."""

    snapshot: SnapshotId
    sha256: Sha256


class Manifest(Frozen):
    """All that one run collected from one server. Written once, uploaded last, signed by the host."""

    schema_version: Literal[1] = SCHEMA_VERSION
    snapshot: SnapshotId
    server: str
    host: str = Field(description="the host that captured and signed it")
    flow_run_id: str | None = None
    tools: dict[str, str] = Field(default_factory=dict)
    started_at: datetime
    finished_at: datetime
    complete: bool
    missing: tuple[Missing, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    previous: Previous | None = None

    def encoded(self) -> bytes:
        """Return the exact bytes that are signed and uploaded: sorted keys, two spaces, one last newline."""
        body: dict[str, Any] = self.model_dump(mode="json")
        return (json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()

    def sha256(self) -> str:
        """Return the digest that the next manifest's `previous` names."""
        return hashlib.sha256(self.encoded()).hexdigest()

    def of(self, data_type: str) -> tuple[Artifact, ...]:
        """Return the artifacts of one data type, in the order they were captured."""
        return tuple(artifact for artifact in self.artifacts if artifact.data_type == data_type)

    def data_types(self) -> tuple[str, ...]:
        """Return the names of the data types that have an artifact here, each once, in order."""
        return tuple(dict.fromkeys(artifact.data_type for artifact in self.artifacts))

    def has_good(self, data_type: str) -> bool:
        """Tell whether this snapshot holds all of a data type: something of it, and nothing missing."""
        return bool(self.of(data_type)) and all(gap.data_type != data_type for gap in self.missing)


class HeldSnapshot(Frozen):
    """A snapshot that the remote holds: its trusted manifest, and the files that lie beside it."""

    server: str
    remote_dir: str
    manifest: Manifest
    manifest_sha256: Sha256 = Field(description="of the bytes as stored, not as encoded again")
    files: dict[str, int] = Field(description="path in the snapshot folder → size in bytes, manifest included")

    @property
    def snapshot(self) -> str:
        """The snapshot's id."""
        return self.manifest.snapshot

    def holds(self, artifact: Artifact) -> bool:
        """Tell whether every stored file of an artifact lies here with its size (False once it is pruned)."""
        return all(self.files.get(part.path) == part.size_bytes for part in artifact.parts)


class Leftover(Frozen):
    """A snapshot folder without a manifest: a run that is on, or one that was cut."""

    snapshot: SnapshotId
    files: dict[str, int]


class Rejected(Frozen):
    """A snapshot whose manifest is not to be trusted, and why."""

    snapshot: SnapshotId
    reason: str
    files: dict[str, int]


class Catalog(Frozen):
    """What the remote holds for one server, as its manifests and one complete listing tell it."""

    server: str
    remote_dir: str
    snapshots: tuple[HeldSnapshot, ...] = Field(default=(), description="oldest first")
    leftovers: tuple[Leftover, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    strangers: tuple[str, ...] = Field(default=(), description="paths that no manifest names; never deleted")

    def find(self, snapshot: str) -> HeldSnapshot | None:
        """Return the trusted snapshot of this id, or None."""
        return next((held for held in self.snapshots if held.snapshot == snapshot), None)

    def newest(self) -> HeldSnapshot | None:
        """Return the newest trusted snapshot, or None."""
        return self.snapshots[-1] if self.snapshots else None
