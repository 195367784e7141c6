"""What one backup run got and what it did not: the one place where a failure becomes an entry instead of an end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from prefect.logging import get_run_logger

from gxbackup.errors import BackupError, IncompleteBackupError
from gxbackup.model import Artifact, Manifest, Missing
from gxbackup.survey import Survey


class Outcome:
    """Collects proven artifacts, and the reason for each data type that is missing or not whole."""

    def __init__(self, survey: Survey) -> None:
        self.survey = survey
        self.artifacts: list[Artifact] = []
        self.missing: list[Missing] = []

    @contextmanager
    def of(self, data_type: str) -> Iterator[None]:
        """
        Turn whatever goes wrong in the block into a missing entry, so that the other data types keep their backup.

        A cancelled or terminated run is not caught: it ends.
        """
        try:
            yield
        except Exception as failure:  # noqa: BLE001 - it hides nothing: require_complete raises
            text = str(failure) if isinstance(failure, BackupError) else f"{type(failure).__name__}: {failure}"
            self.miss(data_type, text)

    def miss(self, data_type: str, reason: str) -> None:
        """Note that a data type is not whole, and say so in the log at once."""
        first_line = reason.splitlines()[0] if reason else "no reason was given"
        gap = Missing(data_type=data_type, reason=first_line)
        if gap in self.missing:  # two artifacts of one data type often fail alike
            return
        self.missing.append(gap)
        get_run_logger().error("%s is missing: %s", data_type, reason)

    def manifest(self, flow_run_id: str | None, finished_at: datetime) -> Manifest:
        """Return the manifest of what is proven; IncompleteBackupError where nothing is: no snapshot is made."""
        if not self.artifacts:
            self._raise(len(self.survey.due))
        return Manifest(
            snapshot=self.survey.snapshot,
            server=self.survey.server,
            host=self.survey.host,
            flow_run_id=flow_run_id,
            tools=self.survey.tools,
            started_at=self.survey.started_at,
            finished_at=finished_at,
            complete=not self.missing,
            missing=tuple(self.missing),
            artifacts=tuple(self.artifacts),
            previous=self.survey.previous,
        )

    def require_complete(self) -> None:
        """Raise IncompleteBackupError unless all that was due is whole: kept, labelled, and red."""
        if self.missing:
            self._raise(len(self.survey.due))

    def _raise(self, due: int) -> None:
        names = dict.fromkeys(gap.data_type for gap in self.missing)
        reasons = "; ".join(f"{gap.data_type}: {gap.reason}" for gap in self.missing)
        kept = ", ".join(dict.fromkeys(artifact.data_type for artifact in self.artifacts)) or "nothing"
        raise IncompleteBackupError(
            f"{self.survey.server} {self.survey.snapshot}: {len(names)} of {due} data types are missing: {reasons}",
            f"safe in this snapshot: {kept}",
            "older snapshots are untouched; nothing of a missing data type was pruned",
        )
