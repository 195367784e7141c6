"""What a restore is refused for before anything is made: an older server, a missing extension, no room."""

from __future__ import annotations

from collections.abc import Sequence

from gxbackup.errors import RestoreRefusedError
from gxbackup.postgres import loading
from gxbackup.postgres.archive import Archive
from gxbackup.postgres.server import Server, major


def require_version(server: Server, home: str, archives: Sequence[Archive]) -> None:
    """Raise RestoreRefusedError where the server is of an older major version than the captured one."""
    with server.session(home) as session:
        version = session.value("SHOW server_version;")
    captured = str(archives[0].artifact.settings["server_version"])
    if major(version) < major(captured):
        raise RestoreRefusedError(
            f"{server.place.name}: expected PostgreSQL {major(captured)} or newer, seen {version}",
            "what a newer server wrote may not fit into an older one",
        )


def require_extensions(server: Server, home: str, archives: Sequence[Archive]) -> None:
    """Raise RestoreRefusedError naming the extensions that an archive needs and the server has no files of."""
    with server.session(home) as session:
        known = {name for (name,) in session.ask("SELECT name FROM pg_available_extensions;")}
    for archive in archives:
        if missing := sorted({*archive.evidence["extensions"]} - known):
            raise RestoreRefusedError(
                f"{server.place.name}: database {archive.database!r} needs the extensions "
                f"{', '.join(missing)}, which are not installed there"
            )


def require_room(server: Server, home: str, archives: Sequence[Archive]) -> None:
    """Raise RestoreRefusedError where the server's disk cannot hold the databases beside the live ones."""
    needed_bytes = sum(archive.size_bytes() for archive in archives) + loading.SPARE_BYTES
    with server.session(home) as session:
        folder = session.value("SHOW data_directory;")
    free_bytes = loading.free_bytes(server, folder)
    if free_bytes < needed_bytes:
        raise RestoreRefusedError(
            f"{server.place.name}: {folder}: expected {needed_bytes} bytes free for the databases beside the "
            f"live ones, seen {free_bytes}",
            "make room, or put back one database after the other with `databases`",
        )
