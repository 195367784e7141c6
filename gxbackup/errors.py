"""
Every error that GX backup raises on purpose. Nothing here decides what to do about one.

    BackupError                      .retryable says whether trying again can help
    ├─ InventoryError                inventory.yaml or prefect.yaml is wrong; names the path within it
    ├─ SetupError                    this host lacks something: a program, a key, a directory, the right clock
    ├─ LockedError                   another run holds this server (or this target) right now
    ├─ StagingError                  no room, or not a place where secrets may lie
    ├─ CollectError
    │  ├─ SourceMissingError         path, container or pod is not there
    │  ├─ CommandError               argv (redacted), exit code, last lines of stderr
    │  └─ EmptyArtifactError         it ran, and produced nothing
    ├─ SealingError                  age or zstd refused: wrong recipient, wrong identity
    ├─ IntegrityError                expected and seen differ: name, size, sha256, signature, chain
    ├─ RemoteError                   rclone failed; retryable unless login, quota or usage
    ├─ IncompleteBackupError         n of m data types are missing, each with its reason
    ├─ UnprovenError                 what was held or should be restorable was not proven; each with its reason
    ├─ PruneRefusedError             the plan would drop more than it may, or the listing cannot be trusted
    └─ RestoreError
       └─ RestoreRefusedError        target not empty, not approved, snapshot not good, archive not safe
"""

from __future__ import annotations


class BackupError(Exception):
    """A failure that a person reads: what, expected, seen; then hints."""

    retryable: bool = False

    def __init__(self, message: str, *hints: str, retryable: bool | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hints = hints
        if retryable is not None:
            self.retryable = retryable

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"HINT: {hint}" for hint in self.hints)])

    def __reduce__(self) -> tuple[object, ...]:
        # Prefect pickles exceptions that cross a process or a result store.
        return (_rebuild, (type(self), self.message, self.hints, self.retryable))


def words(error: BaseException) -> str:
    """Return what an error says to a person, without its hints; of one that is not ours, its kind too."""
    return error.message if isinstance(error, BackupError) else f"{type(error).__name__}: {error}".removesuffix(": ")


def _rebuild(kind: type[BackupError], message: str, hints: tuple[str, ...], retryable: bool) -> BackupError:
    error = kind.__new__(kind)
    BackupError.__init__(error, message, *hints, retryable=retryable)
    return error


class InventoryError(BackupError):
    """The inventory, or the schedules held against it, are wrong."""


class SetupError(BackupError):
    """This host cannot do the work yet."""


class LockedError(BackupError):
    """Another run is at work on the same server or target."""


class StagingError(BackupError):
    """The staging directory is too small or not private."""


class CollectError(BackupError):
    """A data type could not be captured."""


class SourceMissingError(CollectError):
    """What should be captured is not there."""


class CommandError(CollectError):
    """A command ended badly."""

    retryable = True


class EmptyArtifactError(CollectError):
    """The producer ran and produced nothing."""


class SealingError(BackupError):
    """Sealing or unsealing failed."""


class IntegrityError(BackupError):
    """What is there is not what the manifest says."""


class RemoteError(BackupError):
    """The remote refused or could not be reached."""

    retryable = True


class IncompleteBackupError(BackupError):
    """The snapshot holds less than was promised."""


class UnprovenError(BackupError):
    """A look at all backups, a verification or a rehearsal found something wrong."""


class PruneRefusedError(BackupError):
    """Pruning stopped before anything was deleted."""


class RestoreError(BackupError):
    """A restore failed; the target is as it was, or the message says where its copy lies."""


class RestoreRefusedError(RestoreError):
    """A restore did not begin."""
