"""What a restore is refused for before anything is made: an older server, a missing extension, no room."""

from __future__ import annotations

from collections.abc import Sequence

from gxbackup.errors import RestoreRefusedError
from gxbackup.postgres import loading
from gxbackup.postgres.archive import Archive
from gxbackup.postgres.server import Overview, Server, major


def require_fit(seen: Overview, archives: Sequence[Archive]) -> None:
    """Raise RestoreRefusedError where the server is older than the captured one, or lacks an extension's files."""
    for archive in archives:
        captured = str(archive.artifact.settings["server_version"])
        if major(seen.version) < major(captured):
            raise RestoreRefusedError(
                f"{seen.label}: expected PostgreSQL {major(captured)} or newer, seen {seen.version}",
                "what a newer server wrote may not fit into an older one",
            )
        if missing := sorted({*archive.evidence["extensions"]} - {*seen.extensions}):
            raise RestoreRefusedError(
                f"{seen.label}: database {archive.database!r} needs the extensions {', '.join(missing)}, "
                "which are not installed there"
            )


def to_come_bytes(seen: Overview, archives: Sequence[Archive]) -> int:
    """Return how much filling these databases takes of the server's disk: they, and what of its log is kept."""
    size_bytes = sum(archive.size_bytes() for archive in archives)
    return size_bytes + min(size_bytes, seen.wal_limit_bytes)


def require_room(server: Server, seen: Overview, archives: Sequence[Archive]) -> None:
    """Raise RestoreRefusedError where the server's disk cannot hold the databases beside the live ones."""
    needed_bytes = to_come_bytes(seen, archives) + loading.SPARE_BYTES
    free_bytes = loading.free_bytes(server, seen.data_directory)
    if free_bytes < needed_bytes:
        raise RestoreRefusedError(
            f"{seen.label}: {seen.data_directory}: expected {needed_bytes} bytes free for the databases beside the "
            f"live ones and for the log of filling them, seen {free_bytes}",
            "make room, or put back one database after the other with `databases`",
        )
