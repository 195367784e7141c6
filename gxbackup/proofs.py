"""
What was proven of the copies that a remote holds: which were opened, which were restored, and how long that took.

Values only; `proof_records` keeps them on the remote.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from pydantic import Field

from gxbackup.model import Catalog, Frozen, SnapshotId


class Rehearsal(Frozen):
    """One data type restored to scratch, or the try to."""

    snapshot: SnapshotId
    at: datetime
    rto_seconds: float = Field(description="download, unseal and restore, up to the compared evidence")
    failure: str | None = Field(default=None, description="why it failed; none: evidence equal")

    def is_slow(self, rto_hours: float) -> bool:
        """Tell whether it took longer than promised."""
        return self.rto_seconds > rto_hours * 3600

    def slowness(self, rto_hours: float) -> str:
        """Say how long it took, beside what is promised."""
        return f"the restore of {self.snapshot} to scratch took {self.rto_seconds:.0f} s, promised {rto_hours:g} h"


class Proofs(Frozen):
    """All proofs of one server's copies."""

    server: str
    last: dict[str, Rehearsal] = Field(default_factory=dict, description="data type → the newest rehearsal")
    good: dict[str, Rehearsal] = Field(default_factory=dict, description="data type → the newest that succeeded")
    opened: dict[str, datetime] = Field(default_factory=dict, description="SNAPSHOT/path → when it was last opened")

    def rehearsed(self) -> dict[str, str]:
        """Return data type → the newest snapshot that was rehearsed with success: retention keeps it."""
        return {data_type: rehearsal.snapshot for data_type, rehearsal in self.good.items()}

    def with_rehearsals(self, rehearsals: Mapping[str, Rehearsal]) -> Proofs:
        """Return these proofs and newer rehearsals."""
        succeeded = {data_type: one for data_type, one in rehearsals.items() if one.failure is None}
        return self.model_copy(update={"last": {**self.last, **rehearsals}, "good": {**self.good, **succeeded}})

    def with_opened(self, names: Iterable[str], at: datetime) -> Proofs:
        """Return these proofs, and that artifacts were opened."""
        return self.model_copy(update={"opened": {**self.opened, **dict.fromkeys(names, at)}})

    def without_what_is_gone(self, catalog: Catalog) -> Proofs:
        """Return these proofs without those of artifacts that the remote no longer holds."""
        held = {
            opened_name(one.snapshot, artifact.path) for one in catalog.snapshots for artifact in one.manifest.artifacts
        }
        return self.model_copy(update={"opened": {name: at for name, at in self.opened.items() if name in held}})


def opened_name(snapshot: str, path: str) -> str:
    """Spell an artifact as `Proofs.opened` does."""
    return f"{snapshot}/{path}"
