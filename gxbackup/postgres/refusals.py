"""What a restore is refused for before anything is made: an older server, a missing role or folder, no room."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from gxbackup.errors import RestoreRefusedError
from gxbackup.postgres import loading
from gxbackup.postgres.archive import Archive
from gxbackup.postgres.listing import UNSUPPORTED
from gxbackup.postgres.server import Overview, Server, major, quoted_name

# What CREATE TABLESPACE asks of a folder: that it is there, the server's own, and nobody's tablespace.
_JUDGE = """data=$1 version=$2; shift 2
for folder; do
  if [ ! -d "$folder" ]; then echo 'none'
  elif [ "$(stat -c %u "$folder")" != "$(stat -c %u "$data")" ]; then echo "one of $(stat -c %U "$folder")'s"
  elif ls -d "$folder/PG_${version}_"* >/dev/null 2>&1; then echo 'one that a tablespace lies in already'
  else echo fit; fi
done"""
# An archive's magic, version and format.
_HEAD_BYTES = 11


def require_fit(seen: Overview, archives: Sequence[Archive]) -> None:
    """Raise RestoreRefusedError for a standby, a server older than the captured one, or one without an extension."""
    if seen.in_recovery:
        raise RestoreRefusedError(
            f"{seen.label}: expected a server that can be written to, seen one in recovery",
            "it is a standby: restore to its primary, which it follows",
        )
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


def require_renamable(seen: Overview, replaced: Collection[str]) -> None:
    """Raise RestoreRefusedError where a database that is to be kept aside cannot be renamed."""
    for name in replaced:
        if count := seen.databases[name]["prepared"]:
            raise RestoreRefusedError(
                f"{seen.label}: database {name!r}: expected no prepared transaction, seen {count}",
                "no database with one can be renamed: SELECT gid, database FROM pg_prepared_xacts; then "
                "COMMIT PREPARED or ROLLBACK PREPARED",
            )


def require_roles(seen: Overview, archives: Sequence[Archive], made: Collection[str]) -> None:
    """Raise RestoreRefusedError where a database refers to a role that is neither there nor made."""
    for archive in archives:
        if missing := sorted({*archive.needs_roles()} - {*seen.roles, *made}):
            raise RestoreRefusedError(
                f"{seen.label}: database {archive.database!r} needs the roles {', '.join(missing)}, which are neither "
                "there nor among those that were captured",
                "they were made after the roles were captured: a later snapshot holds them; or make them first, with "
                + " ".join(f"CREATE ROLE {quoted_name(name)};" for name in missing),
            )


def require_pg_restore(server: Server, archives: Sequence[Archive]) -> None:
    """Raise RestoreRefusedError where pg_restore there is older than the form of an archive: its pg_dump was newer."""
    heads: dict[bytes, Archive] = {}
    for archive in archives:
        heads.setdefault(archive.file.beginning(_HEAD_BYTES), archive)
    for head, archive in heads.items():
        # Of a head alone it always complains, but of another thing where it is new enough.
        words = server.argv(["pg_restore", "--list"])
        said = server.place.run(words, timeout_seconds=60, stdin=head, check=False).complaint()
        if UNSUPPORTED in said:
            raise RestoreRefusedError(
                f"{server.place.name}: expected a pg_restore that reads the archive of {archive.database!r}, "
                f"seen: {said}",
                "the pg_restore there is older than the pg_dump that wrote it: use the server's own image",
            )


def to_come_bytes(seen: Overview, archives: Sequence[Archive]) -> int:
    """Return how much filling these databases takes of the server's disk: they, and what of its log is kept."""
    size_bytes = sum(archive.size_bytes() for archive in archives)
    return size_bytes + min(size_bytes, seen.wal_limit_bytes)


def require_folders(server: Server, seen: Overview, tablespaces: Mapping[str, str]) -> None:
    """Raise RestoreRefusedError where the folder of a tablespace that has to be made cannot take it."""
    if not tablespaces:
        return
    words = ["sh", "-c", _JUDGE, "sh", seen.data_directory, str(major(seen.version)), *tablespaces.values()]
    told = server.place.run(words, timeout_seconds=60).text().splitlines()
    for (name, folder), fault in zip(tablespaces.items(), told, strict=True):
        if fault != "fit":
            raise RestoreRefusedError(
                f"{seen.label}: tablespace {name!r}: expected a folder {folder} there that is the server's own, "
                f"seen {fault}",
                f"make it there: mkdir -p '{folder}' && chown --reference='{seen.data_directory}' '{folder}'",
                f"or let it lie elsewhere: CREATE TABLESPACE {quoted_name(name)} LOCATION '…'; "
                "what is there is not made again",
            )


def require_room(server: Server, seen: Overview, archives: Sequence[Archive], tablespaces: Mapping[str, str]) -> None:
    """Raise RestoreRefusedError where a disk of the server cannot hold its share of the databases beside the live."""
    needed_bytes = defaultdict(int, {seen.data_directory: to_come_bytes(seen, archives) + loading.SPARE_BYTES})
    folders = {**seen.tablespaces, **tablespaces}
    for archive in archives:
        for name, size_bytes in archive.in_tablespaces().items():
            if folder := folders.get(name):
                needed_bytes[seen.data_directory] -= size_bytes
                needed_bytes[folder] += size_bytes
    for disk in loading.disks(server, list(needed_bytes)):
        needed = sum(needed_bytes[folder] for folder in disk.folders)
        if disk.free_bytes < needed:
            raise RestoreRefusedError(
                f"{seen.label}: {', '.join(disk.folders)}: expected {needed} bytes free for the databases beside the "
                f"live ones and for the log of filling them, seen {disk.free_bytes}",
                "make room, or put back one database after the other with `databases`",
            )
