"""
Archives put back: each beside the live database, compared with its evidence, then all named in one transaction.

Until that transaction nothing live is touched; it is all or nothing, also where this process is killed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from gxbackup.errors import BackupError, CommandError, IntegrityError, RestoreError, RestoreRefusedError
from gxbackup.postgres import evidence, loading, refusals, swap
from gxbackup.postgres.archive import NAME_BYTES, Archive, before_name, beside_name
from gxbackup.postgres.script import NewRoles, lacking
from gxbackup.postgres.server import Server, quoted_name, quoted_text

NAMES_TOLD = 10


class Restore:
    """One restore of archives to one server."""

    def __init__(
        self,
        server: Server,
        archives: Sequence[Archive],
        script: str,
        options: dict[str, JsonValue],
        tablespace_folder: Path | None = None,
    ) -> None:
        self.server = server
        self.archives = list(archives)
        self.script = script
        self.tablespace_folder = tablespace_folder
        self.is_scratch = tablespace_folder is not None
        self.home = server.maintenance()
        self.named = bool(options.get("databases"))
        self.table = None
        self.to = None
        if options.get("point") and not self.is_scratch:
            self.to = str(options["to"])
            rest = str(options["point"])[len(self.archives[0].database) :]
            self.table = rest[1:] or None

    def preview(self) -> list[str]:
        """
        Say what `apply` would do. Changes nothing.

        Raises: RestoreRefusedError for an older server, a missing extension, no room, a name that is taken.
        """
        there = {found["datname"]: found for found in self.server.databases()}
        wanted, left = self._wanted(there)
        new = self._new_roles()
        self._refuse(wanted)
        lines = [f"{self.server.place.name}: {line}" for line in left]
        if new.roles or new.tablespaces:
            lines.append(f"made: roles and tablespaces {', '.join([*new.roles, *new.tablespaces])}")
        for archive in wanted:
            words = f"{archive.database}: {evidence.summary(archive.evidence)}"
            if self.to is not None:
                lines.append(f"made beside it: database {self.to} from {self.table or 'all'} of {words}")
            elif archive.database in there:
                live = there[archive.database]
                lines.append(
                    f"replaced: {words}; now {live['size_bytes']} bytes, {live['connections']} connections, "
                    f"which are ended; it stays as {before_name(archive.database)}"
                )
            else:
                lines.append(f"made: {words}")
        return lines

    def apply(self) -> list[str]:
        """
        Put all archives back, or change nothing; say what was done.

        Raises: RestoreError, IntegrityError (evidence differs), RestoreRefusedError.
        """
        there = {found["datname"]: found for found in self.server.databases()}
        wanted, said = self._wanted(there)
        self._refuse(wanted)
        new = self._new_roles()
        made: list[str] = []
        try:
            self._make_roles(new)
            for archive in wanted:
                beside = beside_name(self.to or archive.database)
                self._drop(beside)
                made.append(beside)
                said += self._fill(archive, beside)
            names = {beside_name(self.to or one.database): self.to or one.database for one in wanted}
            replaced = {name: before_name(name) for name in names.values() if name in there}
            properties = [] if self.to else [self._properties(archive) for archive in wanted]
            swap.take_names(self.server, names, replaced, properties)
        except BaseException as error:
            self._undo(made, new, error)
            if isinstance(error, CommandError):
                raise RestoreError(error.message, *error.hints, "nothing live was touched", retryable=False) from None
            raise
        said += [f"{name}: what was there is kept as database {old}" for name, old in replaced.items()]
        return said

    def _wanted(self, there: dict[str, Any]) -> tuple[list[Archive], list[str]]:
        """Return the archives to put back, and what is said of those that need not be."""
        if self.to is not None:
            if self.to in there:
                raise RestoreRefusedError(f"database {self.to!r}: expected none of that name, seen one")
            if len(self.to.encode()) > NAME_BYTES:
                raise RestoreRefusedError(f"database {self.to!r}: expected a name of at most {NAME_BYTES} bytes")
            return self.archives, []
        wanted: list[Archive] = []
        left: list[str] = []
        for archive in self.archives:
            bare = evidence.is_bare(archive.evidence) and archive.database in there
            if not bare or (self.named and not self.is_scratch):
                wanted.append(archive)
                continue
            with self.server.session(archive.database) as session:
                bare = evidence.is_bare(evidence.take(session))
            if bare:
                left.append(f"{archive.database}: nothing in it, then and now; left as it is")
            else:
                wanted.append(archive)
        return wanted, left

    def _refuse(self, archives: Sequence[Archive]) -> None:
        refusals.require_version(self.server, self.home, self.archives)
        refusals.require_extensions(self.server, self.home, archives)
        if not self.is_scratch:
            refusals.require_room(self.server, self.home, archives)

    def _new_roles(self) -> NewRoles:
        with self.server.session(self.home) as session:
            roles = {name for (name,) in session.ask("SELECT rolname FROM pg_roles;")}
            tablespaces = {name for (name,) in session.ask("SELECT spcname FROM pg_tablespace;")}
        return lacking(self.script, roles, tablespaces, self._location if self.is_scratch else None)

    def _location(self, tablespace: str) -> str:
        assert self.tablespace_folder
        return str(self.tablespace_folder / hashlib.sha256(tablespace.encode("utf-8", "surrogateescape")).hexdigest())

    def _make_roles(self, new: NewRoles) -> None:
        if new.role_statements:
            self.server.script(
                self.home, "BEGIN;\n" + "".join(f"{each};\n" for each in new.role_statements) + "COMMIT;\n"
            )
        for name in new.tablespaces if self.is_scratch else ():
            self.server.run(["mkdir", "-m", "0777", self._location(name)])
        for statement in new.tablespace_statements:
            self.server.script(self.home, f"{statement};\n")

    def _fill(self, archive: Archive, beside: str) -> list[str]:
        """Make a database and put an archive in; it is proven by the counts that were taken of the captured one."""
        said = self._create(archive, beside)
        loading.load(self.server, archive.file, beside, self.table)
        with self.server.session(beside) as session:
            seen = evidence.take(session)
        expected = archive.evidence
        if self.table is not None:
            expected, seen = _one_table(expected, self.table), _one_table(seen, self.table)
        if differs := evidence.differences(expected, seen):
            raise IntegrityError(
                f"{self.server.place.name}: database {archive.database!r}: {differs[0]}",
                *differs[1:NAMES_TOLD],
                "what was restored differs from what was captured: nothing took its name",
            )
        words = evidence.summary(archive.evidence) if self.table is None else f"table {self.table}"
        return [*said, f"{self.to or archive.database}: evidence equal: {words}"]

    def _create(self, archive: Archive, beside: str) -> list[str]:
        create = archive.create
        words = [
            f"CREATE DATABASE {quoted_name(beside)} TEMPLATE template0 OWNER {quoted_name(create['owner'])}",
            f"ENCODING {quoted_text(create['encoding'])}",
        ]
        if create["tablespace"] != "pg_default":
            words.append(f"TABLESPACE {quoted_name(create['tablespace'])}")
        locale = [f"LC_COLLATE {quoted_text(create['collate'])} LC_CTYPE {quoted_text(create['ctype'])}"]
        if create["provider"] == "i":
            locale.append(f"LOCALE_PROVIDER icu ICU_LOCALE {quoted_text(create['locale'])}")
        try:
            self.server.script(self.home, f"{' '.join([*words, *locale])};\n", timeout_seconds=loading.TIMEOUT_SECONDS)
        except CommandError as error:
            if not (self.is_scratch and "locale" in error.message):
                raise
            sql = f"{' '.join(words)} LC_COLLATE 'C' LC_CTYPE 'C';\n"
            self.server.script(self.home, sql, timeout_seconds=loading.TIMEOUT_SECONDS)
            return [f"{archive.database}: this host has no locale {create['collate']}: rehearsed with C"]
        return []

    def _properties(self, archive: Archive) -> str:
        """Return the statements that belong to the database itself: grants, settings, comment; under its own name."""
        return loading.database_properties(self.server, archive.file)

    def _drop(self, database: str) -> None:
        """Drop a half-made database, with whoever still fills it."""
        swap.drop(self.server, database)

    def _undo(self, made: Sequence[str], new: NewRoles, error: BaseException) -> None:
        """Drop what was made; where that fails too, the error says what is left."""
        left: list[str] = []
        for database in made:
            try:
                self._drop(database)
            except BackupError:
                left.append(f"database {database}")
        for kind, names in (("TABLESPACE", new.tablespaces), ("ROLE", new.roles)):
            for name in names:
                try:
                    self.server.script(self.home, f"DROP {kind} IF EXISTS {quoted_name(name)};\n")
                except BackupError:
                    left.append(f"{kind.lower()} {name}")
        if left and isinstance(error, BackupError):
            error.hints = (*error.hints, f"left there, and dropped by the next try: {', '.join(left)}")


def _one_table(counted: dict[str, Any], table: str) -> dict[str, Any]:
    return {"tables": {table: counted["tables"].get(table)}}
