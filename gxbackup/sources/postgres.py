"""
A PostgreSQL server in a pod or a Docker container: roles and tablespaces, then each database as an archive of its own.

Each archive is made of one exported snapshot, in which its evidence was counted too. A new database is picked up by
itself. Source: strategy rows PostgreSQL MainNet, PostgreSQL TestNet, PostgreSQL CA; PostgreSQL's manual, pg_dump.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, JsonValue, StringConstraints, model_validator

from gxbackup.adapters.host import Host
from gxbackup.errors import CollectError, RestoreRefusedError, SourceMissingError
from gxbackup.model import Artifact, Capture
from gxbackup.opened import Opening
from gxbackup.ports import Place, PlainStream
from gxbackup.postgres import evidence, listing
from gxbackup.postgres.archive import HOME, Archive
from gxbackup.postgres.choice import chosen
from gxbackup.postgres.dump import DumpStream, GlobalsStream, globals_program
from gxbackup.postgres.restore import Restore
from gxbackup.postgres.server import INTERRUPTED_DROP, Server, connection
from gxbackup.postgres.several import apply_each, preview_each
from gxbackup.scratch.postgres import running_postgres
from gxbackup.sources.base import Restorable, Work

KubernetesName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
ContainerName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]*$", max_length=128)]
Where = Literal["pod", "docker"]
GLOBALS_BYTES = 64 * 1024


class Postgres(Restorable):
    """All databases, roles and tablespaces of one PostgreSQL server."""

    default_folder: ClassVar[str] = "databases"
    opens: ClassVar[Opening] = "packed"

    kind: Literal["postgres"] = "postgres"
    namespace: KubernetesName | None = Field(default=None, description="of the pod")
    pod: KubernetesName | None = Field(default=None, description="the pod that the server runs in")
    container: KubernetesName | None = Field(default=None, description="its container, where the pod has several")
    docker_container: ContainerName | None = Field(
        default=None,
        description="the Docker container that it runs in; with a pod too, each that is found is captured, and one "
        "that is stopped, or an Engine that does not answer, counts as missing",
    )
    user: str = Field(default="postgres", min_length=1, description="a superuser")
    password_variable: str = Field(
        default="POSTGRES_PASSWORD",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="the place's own variable that holds the password; with _FILE: the file that holds it",
    )
    lock_timeout_seconds: float = Field(
        default=60, gt=0, description="how long a table may be locked by others before the dump gives up"
    )

    @model_validator(mode="after")
    def _name_a_place(self) -> Self:
        if (self.namespace is None) != (self.pod is None):
            raise ValueError("namespace and pod: name both, or neither")
        if self.pod is None and self.docker_container is None:
            raise ValueError("name where it runs: namespace and pod, or docker_container")
        return self

    def collect(self, host: Host, data_type: str) -> list[Capture]:
        """
        List the databases wherever the server is found: a capture for roles and tablespaces, and one for each database.

        A database that refuses connections, and a place that is there but does not answer, are shortfalls of the first.
        Raises: SourceMissingError where it is found nowhere; CollectError where pg_dump is older than the server, or
        the server is a standby that has lost its primary.
        """
        found, absent, faults = self._found(host)
        captures: list[Capture] = []
        for where, place in found:
            suffix = f".{where}" if self.pod and self.docker_container else ""
            captures += self._of_place(self._server(place), data_type, where, suffix, absent, faults)
            faults = []
        return captures

    def _found(self, host: Host) -> tuple[list[tuple[Where, Place]], list[str], list[str]]:
        """Return where it is found, where there is none, and where there may be one that cannot be asked now."""
        wanted: list[Where] = [
            *(["docker"] if self.docker_container else []),  # type: ignore[list-item]
            *(["pod"] if self.pod else []),  # type: ignore[list-item]
        ]
        found: list[tuple[Where, Place]] = []
        failures: list[CollectError] = []
        for where in wanted:
            try:
                found.append((where, self._place(host, where)))
            except CollectError as error:
                failures.append(error)
        if not found:
            if len(failures) == 1:
                raise failures[0]
            raise SourceMissingError(
                "; ".join(failure.message for failure in failures),
                *(hint for failure in failures for hint in failure.hints),
                retryable=any(failure.retryable for failure in failures),
            )
        absent = [failure for failure in failures if isinstance(failure, SourceMissingError) and not failure.retryable]
        return found, [each.message for each in absent], [each.message for each in failures if each not in absent]

    def _place(self, host: Host, where: Where) -> Place:
        if where == "docker":
            assert self.docker_container
            return host.containers.place(self.docker_container)
        assert self.namespace
        return host.cluster.place(self.namespace, pod=self.pod, container=self.container)

    def _server(self, place: Place) -> Server:
        return Server(place, self.user, self.password_variable)

    def _of_place(
        self, server: Server, data_type: str, where: Where, suffix: str, absent: Sequence[str], faults: Sequence[str]
    ) -> list[Capture]:
        seen = server.look()
        seen.require_current()
        server.require_pg_dump(seen.version)
        shortfalls = [*faults]
        captures: list[Capture] = []
        for name, found in seen.databases.items():
            if name in ("template0", HOME):
                continue
            if found["datconnlimit"] == INTERRUPTED_DROP:
                shortfalls.append(f"{server.place.name}: database {name!r} is left of an interrupted DROP DATABASE")
                continue
            if not found["datallowconn"]:
                shortfalls.append(f"{server.place.name}: database {name!r} refuses connections (datallowconn = false)")
                continue
            if "\n" in name or "\r" in name:
                shortfalls.append(
                    f"{server.place.name}: database {name!r}: pg_restore refuses a name with a line break"
                )
            captures.append(
                Capture(
                    data_type=data_type,
                    name=f"{urllib.parse.quote(name, safe='')}{suffix}.dump",
                    settings={
                        "where": where,
                        "database": name,
                        "server_version": seen.version,
                        "create": _creation(found),
                    },
                    expected_size_bytes=found["size_bytes"],
                )
            )
        noted: dict[str, JsonValue] = {"absent": [*absent]} if absent else {}
        return [
            Capture(
                data_type=data_type,
                name=f"globals{suffix}.sql",
                settings={"where": where, "home": seen.home, "shortfalls": [*shortfalls], **noted},
                expected_size_bytes=GLOBALS_BYTES,
            ),
            *captures,
        ]

    @contextmanager
    def open(self, host: Host, capture: Capture) -> Iterator[PlainStream]:
        """
        Lock all tables, export a snapshot, and count inside it while a dump of that same snapshot begins.

        pg_dump takes its own locks first: one that came after somebody's who waits for ours would wait for both.

        Raises: CommandError where a table stays locked, the database is gone, or the login fails.
        """
        settings = capture.settings
        server = self._server(self._place(host, "docker" if settings["where"] == "docker" else "pod"))
        label = f"{server.place.name}: {capture.name}"
        if "database" not in settings:
            shortfalls = settings["shortfalls"]
            assert isinstance(shortfalls, list)
            home = str(settings["home"])
            with server.session(home) as session:
                counted = evidence.of_server(session)
            with server.place.read(server.argv(globals_program(home))) as stream:
                yield GlobalsStream(stream, counted, tuple(map(str, shortfalls)), label)
            return
        database = str(settings["database"])
        with server.session(database) as session:
            snapshot = evidence.begin(session, self.lock_timeout_seconds)
            sequences = evidence.sequences(session)
            with server.place.read(server.argv(self.pg_dump(database, snapshot))) as stream:
                counted = evidence.take(session, sequences)
                listed = listing.expected(session)
                yield DumpStream(stream, counted, listing.Listing(server, listed, label), label)

    def pg_dump(self, database: str, snapshot: str) -> list[str]:
        """Return the command that writes the archive; not compressed: `seal` does that, better and in parallel."""
        return [
            "pg_dump", "--format=custom", "--compress=0", f"--snapshot={snapshot}", "--no-password",
            f"--lock-wait-timeout={round(self.lock_timeout_seconds * 1000)}", f"--dbname={connection(database)}",
        ]  # fmt: skip

    def select(self, artifacts: Sequence[Artifact], options: dict[str, JsonValue]) -> tuple[Artifact, ...]:
        """Return roles and the databases asked for; RestoreRefusedError for one that the snapshot does not hold."""
        return chosen(artifacts, options)

    def target(self, work: Work) -> str:
        """Spell the place, and the new database's name for a `point`."""
        places = ", ".join(
            f"{self.namespace}/{self.pod}" if where == "pod" else str(self.docker_container)
            for where in dict.fromkeys(opened.artifact.settings["where"] for opened in work.opened)
        )
        return f"{places} database {work.options['to']}" if work.options.get("point") else places

    def preview(self, host: Host, work: Work) -> list[str]:
        """Say which databases and roles are made, which are replaced, and whether there is room."""
        return preview_each(self._restores(host, work), work.area)

    def rehearse(self, host: Host, work: Work) -> list[str]:
        """Restore all of it to a PostgreSQL that is started here, in the way that `apply` does, and compare."""
        del host
        said: list[str] = []
        for archives, script in _archives(work):
            needed_bytes = sum(archive.size_bytes() for archive in archives)
            with running_postgres(self.user, needed_bytes) as (server, tablespace_folder):
                said += Restore(server, archives, script, work.options, tablespace_folder=tablespace_folder).apply()
        return said

    def apply(self, host: Host, work: Work) -> list[str]:
        """
        Restore each database beside the live one, compare, then let all take their names in one transaction.

        What is replaced stays as `<name>_before_<time>`: it is the safety copy. Until the last step nothing of the live
        databases is touched, and what was made is dropped again where anything fails. With several places that holds
        for each of them; an error names those that are done. What was not shown by `preview` is not replaced.
        """
        return apply_each(self._restores(host, work), work.area)

    def differences(self, host: Host, artifacts: Sequence[Artifact]) -> list[str]:
        """
        Say what the live databases hold otherwise than these artifacts' evidence; empty where all is as it was kept.

        Raises: CommandError, SourceMissingError where a server or a database cannot be asked.
        """
        found: list[str] = []
        for artifact in artifacts:
            if "database" not in artifact.settings:
                continue
            where: Where = "docker" if artifact.settings["where"] == "docker" else "pod"
            database = str(artifact.settings["database"])
            with self._server(self._place(host, where)).session(database) as session:
                evidence.begin(session, self.lock_timeout_seconds)
                live = evidence.take(session)
            found += [f"database {database}: {line}" for line in evidence.differences(artifact.evidence, live)]
        return found

    def _restores(self, host: Host, work: Work) -> list[Restore]:
        restores: list[Restore] = []
        for archives, script in _archives(work):
            where: Where = "docker" if archives[0].artifact.settings["where"] == "docker" else "pod"
            restores.append(Restore(self._server(self._place(host, where)), archives, script, work.options))
        return restores


def _creation(found: dict[str, Any]) -> dict[str, JsonValue]:
    """Return what CREATE DATABASE needs; PostgreSQL 15 and 17 each renamed the ICU locale."""
    return {
        "owner": found["owner"],
        "encoding": found["encoding_name"],
        "collate": found["datcollate"],
        "ctype": found["datctype"],
        "provider": found.get("datlocprovider", "c"),
        "locale": found.get("datlocale") or found.get("daticulocale"),
        "rules": found.get("daticurules"),
        "tablespace": found["tablespace"],
    }


def _archives(work: Work) -> list[tuple[list[Archive], str]]:
    """Return for each place its archives and the script of its roles."""
    found: list[tuple[list[Archive], str]] = []
    for where in dict.fromkeys(opened.artifact.settings["where"] for opened in work.opened):
        of_place = [opened for opened in work.opened if opened.artifact.settings["where"] == where]
        archives = [
            Archive(artifact=opened.artifact, file=opened.packed)
            for opened in of_place
            if "database" in opened.artifact.settings
        ]
        scripts = [opened.packed for opened in of_place if "database" not in opened.artifact.settings]
        if archives:
            script = b"".join(chunk for one in scripts for chunk in one.chunks()).decode("utf-8", "surrogateescape")
            found.append((archives, script))
    if not found:
        raise RestoreRefusedError(f"{work.data_type}: the snapshot holds no database")
    return found
