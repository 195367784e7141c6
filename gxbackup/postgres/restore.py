"""
Archives put back: each beside the live database, compared with its evidence, then all named in one transaction.

Until that transaction nothing live is touched; it is all or nothing, also where this process is killed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import JsonValue

from gxbackup.errors import BackupError, CommandError, IntegrityError, RestoreError, RestoreRefusedError
from gxbackup.postgres import evidence, listing, loading, making, refusals, reserve, swap
from gxbackup.postgres.archive import HOME, NAME_BYTES, Archive, before_name, beside_name
from gxbackup.postgres.script import NewRoles, lacking
from gxbackup.postgres.server import Server, major, quoted_name

NAMES_TOLD = 10
# What is only asked of a server takes its time on the way there.
QUESTIONS_AT_ONCE = 4
Answer = TypeVar("Answer")


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
        self.seen = server.look()
        self.home = self.seen.home
        self.label = server.place.name
        self.kept: list[str] = []
        self.named = bool(options.get("databases"))
        self.table = None
        self.tables: list[str] | None = None
        self.to = None
        if options.get("point") and not self.is_scratch:
            self.to = str(options["to"])
            rest = str(options["point"])[len(self.archives[0].database) :]
            self.table = rest[1:] or None
            if self.table is not None:
                self.tables = self.archives[0].tables_of(self.table)

    def preview(self) -> list[str]:
        """
        Say what `apply` would do. Changes nothing.

        Raises: RestoreRefusedError for an older server, a missing extension, no room, a name that is taken.
        """
        there = self.seen.databases
        wanted, bare = self._wanted
        new = self._new_roles(wanted)
        self._refuse(wanted, bare, new)
        lines = _told_bare(bare)
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
                    f"which are ended; it stays as {before_name(archive.database, there)}"
                )
                lines += self._replication(archive.database)
            else:
                lines.append(f"made: {words}")
        return lines

    def apply(self) -> list[str]:
        """
        Put all archives back, or change nothing; say what was done.

        Raises: RestoreError, IntegrityError (evidence differs), RestoreRefusedError. Where the server does not answer
        when the names were just exchanged, the RestoreError says that the outcome is unknown, and nothing is dropped.
        """
        wanted, bare = self._wanted
        said = _told_bare(bare)
        new = self._new_roles(wanted)
        self._refuse(wanted, bare, new)
        names = {beside_name(self.to or one.database): self.to or one.database for one in wanted}
        made: list[str] = []
        made_roles: list[tuple[str, str]] = []
        properties: list[str] = []
        try:
            if not self.is_scratch:
                reserve.take(self.server, self.seen.data_directory)
            home = self._meanwhile([*names, *names.values()], made)
            making.make_roles(self.server, self.home, new, self.tablespace_folder, made_roles)
            properties += _at_once([partial(loading.about, self.server, one.file) for one in bare])
            for done, archive in enumerate(wanted):
                beside = beside_name(self.to or archive.database)
                made.append(beside)
                said += making.make_database(self.server, self.seen, archive, beside, is_scratch=self.is_scratch)
                room = self._room(wanted[done:])
                properties.append(loading.load(self.server, archive.file, beside, self.tables, room))
                said.append(self._compare(archive, beside))
            there = self.seen.databases
            replaced = {name: before_name(name, there) for name in names.values() if name in there}
            properties += [f"{grant};\n" for grant in new.parameter_grants]
            properties += [
                f"{statement};\n" for name, statement in new.settings_of_all.items()
                if name not in self.seen.settings_of_all and not self.named
            ]  # fmt: skip
            reserve.give_back(self.server, self.seen.data_directory)
        except BaseException as error:
            self._undo(made, made_roles, error)
            if isinstance(error, CommandError):
                raise self._untouched(error) from None
            raise
        try:
            swap.take_names(self.server, home, names, replaced, [] if self.to else properties)
        except CommandError as error:
            self._undo(made, made_roles, error)
            raise self._untouched(error) from None
        if home == HOME:
            with suppress(BackupError):  # dropped by the next restore
                making.drop_database(self.server, self.home, HOME)
        self.kept = [*replaced.values()]
        for name, old in replaced.items():
            said += [f"{name}: what was there is kept as database {old}", *self._replication(name)]
        return said

    def ask_again(self) -> None:
        """Forget what the server answered: it may have been long ago."""
        self.seen = self.server.look()
        self.home = self.seen.home
        self.__dict__.pop("_wanted", None)

    def _replication(self, database: str) -> list[str]:
        """Say what of a database that is kept aside goes on there, and is not the restored one's."""
        live = self.seen.databases[database]
        said = []
        if live["subscriptions"]:
            said.append(
                f"{database}: subscriptions {', '.join(live['subscriptions'])} go with what is kept aside, and fill it "
                "on: disable them there; those of the restored database are disabled until you enable them"
            )
        if live["slots"]:
            said.append(
                f"{database}: replication slots {', '.join(live['slots'])} go with what is kept aside: who reads from "
                "them sees nothing of the restored database; drop them there, and make them anew"
            )
        return said

    def replaces(self) -> list[str]:
        """Return the live databases that `apply` would replace."""
        if self.to is not None:
            return []
        return sorted(archive.database for archive in self._wanted[0] if archive.database in self.seen.databases)

    def _untouched(self, error: CommandError) -> RestoreError:
        hint = f"{self.label}: nothing live was touched"
        return RestoreError(error.message, *error.hints, hint, retryable=False)

    def _meanwhile(self, names: Collection[str], made: list[str]) -> str:
        """Return a database to be connected to while these change names; one made for it where there is no other."""
        if HOME in self.seen.databases:
            making.drop_database(self.server, self.home, HOME)
        home = self.seen.home_but([HOME, *names])
        if home is None:
            made.append(HOME)
            making.make_home(self.server, self.home)
        return home or HOME

    @cached_property
    def _wanted(self) -> tuple[list[Archive], list[Archive]]:
        """The archives to put back, and those with nothing but settings and grants of their database; asked once."""
        if self.to is not None:
            if self.to in self.seen.databases:
                raise RestoreRefusedError(f"database {self.to!r}: expected none of that name, seen one")
            if len(self.to.encode()) > NAME_BYTES:
                raise RestoreRefusedError(f"database {self.to!r}: expected a name of at most {NAME_BYTES} bytes")
            return self.archives, []
        bare = [self._stays_bare(archive) for archive in self.archives]
        both = [*zip(self.archives, bare, strict=True)]
        return [archive for archive, is_bare in both if not is_bare], [archive for archive, is_bare in both if is_bare]

    def _stays_bare(self, archive: Archive) -> bool:
        """Tell whether there is nothing in a database, then and now, and nobody asked for it by its name."""
        if (self.named and not self.is_scratch) or archive.database not in self.seen.databases:
            return False
        if not evidence.is_bare(archive.evidence):
            return False
        listed = archive.listed_count()
        if listed or (listed is None and not listing.is_bare(self.server, archive.file)):
            return False
        with self.server.session(archive.database) as session:
            return evidence.is_bare(evidence.take(session))

    def _refuse(self, archives: Sequence[Archive], bare: Sequence[Archive], new: NewRoles) -> None:
        refusals.require_fit(self.seen, [*archives, *bare])
        if self.to is None:
            refusals.require_renamable(self.seen, {one.database for one in archives} & {*self.seen.databases})
        refusals.require_roles(self.seen, [*archives, *bare], new.roles)
        questions = [partial(refusals.require_pg_restore, self.server, [*archives, *bare])]
        if not self.is_scratch:
            questions += [
                partial(refusals.require_folders, self.server, self.seen, new.tablespaces),
                partial(refusals.require_room, self.server, self.seen, archives, new.tablespaces),
            ]
        _at_once(questions)

    def _room(self, to_come: Sequence[Archive]) -> loading.Room:
        bytes_to_come = refusals.to_come_bytes(self.seen, to_come)
        return loading.Room(
            folder=self.seen.data_directory, version=major(self.seen.version), to_come_bytes=bytes_to_come
        )

    def _new_roles(self, wanted: Sequence[Archive]) -> NewRoles:
        location = self._location if self.is_scratch else None
        needed = None
        if self.named or self.to is not None:  # an older snapshot does not tell: then all are made
            told = all("tablespaces" in archive.evidence for archive in wanted)
            needed = {name for archive in wanted for name in archive.in_tablespaces()} if told else None
        return lacking(self.script, self.seen.roles, self.seen.tablespaces, location, needed)

    def _location(self, tablespace: str) -> str:
        assert self.tablespace_folder
        return str(self.tablespace_folder / hashlib.sha256(tablespace.encode("utf-8", "surrogateescape")).hexdigest())

    def _compare(self, archive: Archive, beside: str) -> str:
        """Prove a filled database by the counts that were taken of the captured one."""
        with self.server.session(beside) as session:
            seen = evidence.take(session)
        expected = archive.evidence
        if self.tables is not None:
            expected, seen = _tables_of(expected, self.tables), _tables_of(seen, self.tables)
        if differs := evidence.differences(expected, seen):
            raise IntegrityError(
                f"{self.label}: database {archive.database!r}: {differs[0]}",
                *differs[1:NAMES_TOLD],
                "what was restored differs from what was captured: nothing took its name",
            )
        return f"{self.to or archive.database}: evidence equal: {self._compared(archive)}"

    def _compared(self, archive: Archive) -> str:
        if self.tables is None:
            return evidence.summary(archive.evidence)
        rows = sum(archive.evidence["tables"][name] for name in self.tables)
        parts = "" if self.tables == [self.table] else f" in {len(self.tables)} partitions"
        return f"table {self.table} with {rows} rows{parts}"

    def _undo(self, made: Sequence[str], made_roles: Sequence[tuple[str, str]], error: BaseException) -> None:
        """Drop what was made; where that fails too, the error says what is left."""
        reserve.give_back(self.server, self.seen.data_directory)
        left: list[str] = []
        for database in made:
            try:
                making.drop_database(self.server, self.home, database)
            except BackupError:
                left.append(f"database {database}")
        for kind, name in reversed(made_roles):
            try:
                self.server.script(self.home, f"DROP {kind} IF EXISTS {quoted_name(name)};\n")
            except BackupError:
                left.append(f"{kind.lower()} {name}")
        if left and isinstance(error, BackupError):
            error.hints = (*error.hints, f"left there, and dropped by the next try: {', '.join(left)}")


def _at_once(questions: Sequence[Callable[[], Answer]]) -> list[Answer]:
    """
    Ask several things that change nothing; raises what the first of them raises.

    None of them logs in: an application may have left the superuser a single connection.
    """
    with ThreadPoolExecutor(QUESTIONS_AT_ONCE, thread_name_prefix="question") as pool:
        asked = [pool.submit(question) for question in questions]
    return [each.result() for each in asked]


def _told_bare(bare: Sequence[Archive]) -> list[str]:
    return [f"{each.database}: nothing in it, then and now; just its settings and grants are put back" for each in bare]


def _tables_of(counted: dict[str, Any], tables: Sequence[str]) -> dict[str, Any]:
    return {"tables": {table: counted["tables"].get(table) for table in tables}}
