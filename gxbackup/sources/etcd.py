"""
The datastore of K3s: an etcd snapshot, or the SQLite database of a single server, with the token that opens it.

A snapshot without its own token is worthless, so the two are one set. Put back by the flow restore-k3s-cluster.
Source: strategy, row etcd Snapshots; docs.k3s.io (datastore/backup-restore, cli/token).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue, StringConstraints

from gxbackup import datastore_objects, etcd_snapshot, k3s_recovery, k3s_token, kine
from gxbackup.adapters import etcd
from gxbackup.adapters.host import Host
from gxbackup.adapters.k3s import K3s
from gxbackup.errors import (
    BackupError,
    CollectError,
    CommandError,
    IntegrityError,
    RestoreRefusedError,
    SourceMissingError,
)
from gxbackup.etcd_snapshot import ObjectName, SnapshotState, object_name
from gxbackup.file_stream import FileStream
from gxbackup.model import Artifact, Capture, Evidence
from gxbackup.ports import PlainStream, StreamEnd
from gxbackup.sources.base import Opened, Restorable, Work
from gxbackup.sources.directory import AbsolutePath, Directory
from gxbackup.staging import require_room, staging_area

DATABASES = {"etcd": "etcd-snapshot.db", "sqlite": "state.db"}
OLD = "what this server holds may be old"
TOKEN_SET = "server-token.tar"  # noqa: S105 - a file name
HostName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$", max_length=40)]
_log = logging.getLogger(__name__)


class Etcd(Restorable):
    """The datastore of the K3s server on this host, embedded etcd or SQLite, whichever it is."""

    default_folder: ClassVar[str] = "datastore"

    kind: Literal["etcd"] = "etcd"
    data_dir: AbsolutePath = Field(default="/var/lib/rancher/k3s", description="where this K3s keeps its data")
    config_dir: AbsolutePath = Field(default="/etc/rancher/k3s", description="where its config.yaml lies")
    other_servers: tuple[HostName, ...] = Field(
        default=(), description="hosts of the cluster's other servers, which join the restored one again, in this order"
    )

    def k3s(self) -> K3s:
        """Return the K3s server that this entry means."""
        return K3s(Path(self.data_dir), Path(self.config_dir))

    def collect(self, host: Host, data_type: str) -> list[Capture]:
        """
        Find the datastore and its token; two captures. The snapshot itself is made when it is opened for reading.

        Raises: SourceMissingError where there is no datastore on this host, it is external, or the token is not there.
        """
        k3s = self.k3s()
        datastore = k3s.datastore()
        self._sweep(k3s)
        if not k3s.token_file.is_file() or not k3s.token_file.stat().st_size:
            raise SourceMissingError(
                f"{data_type}: {k3s.token_file}: expected the server token, seen none",
                "without its token no snapshot of this cluster can ever be opened",
            )
        belongs = k3s_token.matches_ca(k3s.token_file, k3s.ca_file) if k3s.ca_file.is_file() else None
        evidence: Evidence = {"datastore": datastore, "k3s_version": k3s.version(), "token_matches_ca": belongs}
        live = k3s.sqlite_file if datastore == "sqlite" else k3s.etcd_dir / "member" / "snap" / "db"
        database = Capture(
            data_type=data_type,
            name=DATABASES[datastore],
            settings={"holds": datastore, "data_dir": self.data_dir, "node": k3s.node_name()},
            evidence=evidence,
            expected_size_bytes=live.stat().st_size if live.is_file() else 0,
        )
        (tokens,) = self._token_tree(k3s).collect(host, data_type)
        return [
            database,
            tokens.model_copy(update={"name": TOKEN_SET, "settings": {**tokens.settings, "holds": "token"}}),
        ]

    @contextmanager
    def open(self, host: Host, capture: Capture) -> Iterator[PlainStream]:
        """
        Take the snapshot, check it whole, and read it; it is gone from this host afterwards, however the block ends.

        A token that names another authority than the server's own certificate is a shortfall; so is an etcd that is
        behind the other servers' or cut off from them: it saves what it has as if that were of today.
        """
        k3s = self.k3s()
        if capture.settings["holds"] == "token":
            with self._token_tree(k3s).open(host, capture) as tar:
                yield tar
            return
        foreign = capture.evidence["token_matches_ca"] is False
        taken = self._etcd_snapshot(k3s) if capture.settings["holds"] == "etcd" else self._sqlite_copy(k3s)
        with taken as (file, evidence, old), file.open("rb", buffering=0) as opened:
            shortfalls = [
                *old,
                *(["its server token belongs to another authority than its certificates"] if foreign else []),
            ]
            yield FileStream(opened.fileno(), file.stat().st_size, StreamEnd(evidence, tuple(shortfalls)), capture.name)

    def select(self, artifacts: Sequence[Artifact], options: dict[str, JsonValue]) -> tuple[Artifact, ...]:
        """Return the database and its token set; RestoreRefusedError where the snapshot does not hold both."""
        del options
        held = [str(artifact.settings.get("holds")) for artifact in artifacts]
        if sorted(held) not in (["etcd", "token"], ["sqlite", "token"]):
            raise RestoreRefusedError(
                f"expected a datastore and its token, seen {', '.join(held) or 'nothing'}",
                "a snapshot is worthless without its own token; choose another one",
            )
        return tuple(artifacts)

    def target(self, work: Work) -> str:
        """Spell the datastore."""
        del work
        return str(self.k3s().database_dir)

    def preview(self, host: Host, work: Work) -> list[str]:
        """Check the set whole, and give the exact commands for this host and for each other server."""
        del host
        database, tokens = work_set(work)
        state = _checked(database)
        k3s_token.unpack(tokens.file, tokens.artifact.evidence, work.area)
        return [_told(database, state), *k3s_recovery.commands(self.k3s(), _holds(database), self.other_servers)]

    def rehearse(self, host: Host, work: Work) -> list[str]:
        """Restore into a new etcd that nobody else can reach, serve it and compare; SQLite is opened and checked."""
        del host
        database, tokens = work_set(work)
        state = _checked(database)
        k3s_token.unpack(tokens.file, tokens.artifact.evidence, work.area)
        if _holds(database) == "sqlite":
            return [_told(database, state), "integrity_check ok; rows and objects equal the evidence"]
        require_room(work.area, 2 * database.file.stat().st_size, "the scratch etcd")
        with etcd.served(database.file, work.area) as scratch:
            seen: Evidence = {"revision": scratch.revision(), "objects_by_resource": {**scratch.objects()}}
        _require_equal(seen, database.artifact.evidence, "served by a scratch etcd")
        return [_told(database, state), "served by a scratch etcd; revision and objects equal the evidence"]

    def apply(self, host: Host, work: Work) -> list[str]:
        """Recover a cluster of one server; one of several is recovered by the flow restore-k3s-cluster alone."""
        del host
        if self.other_servers:
            raise RestoreRefusedError(
                f"{self.target(work)}: this cluster has other servers ({', '.join(self.other_servers)}), which must be "
                "stopped first and join again",
                "start the flow restore-k3s-cluster",
            )
        recovery = k3s_recovery.begin(self.k3s(), work.opened[0].artifact.plain_sha256[:12])
        done = self.recover_first(work, recovery)
        done += self.compare(work)
        recovery.finish()
        return done

    def recover_first(self, work: Work, recovery: k3s_recovery.Recovery) -> list[str]:
        """
        Put the set into this host's K3s and start it as a cluster of one; each step once, also when it is run again.

        Raises: RestoreError; the old database lies beside the new one, and nothing was deleted.
        """
        database, tokens = work_set(work)
        _checked(database)
        token_set = k3s_token.unpack(tokens.file, tokens.artifact.evidence, work.area)
        return recovery.restore_first(_holds(database), database.file, token_set)

    def compare(self, work: Work) -> list[str]:
        """
        Hold every object of the snapshot, whose counts are the evidence, against what the recovered API lists.

        Raises: RestoreError where one is missing.
        """
        database = work_set(work)[0]
        _checked(database)
        return k3s_recovery.compare(self.k3s(), _objects(database))

    def _token_tree(self, k3s: K3s) -> Directory:
        return Directory(
            root=str(k3s.server_dir),
            paths=("token",),
            optional_paths=("agent-token", "node-token", "cred", "tls"),
            restores="overlay",
        )

    @contextmanager
    def _etcd_snapshot(self, k3s: K3s) -> Iterator[tuple[Path, Evidence, list[str]]]:
        """Give the snapshot, what it holds, and why that may be old."""
        old: list[str] = []
        agreed = 0
        try:
            agreed = k3s.agreed_revision()
        except CommandError as error:
            old.append(f"the cluster's servers do not say that they agree: {OLD}: {error.message}")
        try:
            file = k3s.save_snapshot()
            etcd_snapshot.require_whole(file)
            state = etcd_snapshot.read_state(file)
            evidence = _evidence(state)
            if (told := etcd.status(file)) is not None:
                if (told["revision"], told["total_keys"]) != (state.revision, state.total_keys):
                    raise CollectError(f"{file.name}: etcd's tool tells {told}, and it holds {evidence}")
                evidence["etcd_hash"] = told["hash"]
            if state.revision < agreed:
                old.append(
                    f"expected revision {agreed} or later, as its servers agree on, seen {state.revision}: {OLD}"
                )
            yield file, evidence, old
        finally:
            self._sweep(k3s)

    @contextmanager
    def _sqlite_copy(self, k3s: K3s) -> Iterator[tuple[Path, Evidence, list[str]]]:
        with staging_area("state-db") as area:
            require_room(area, k3s.sqlite_file.stat().st_size, k3s.sqlite_file.name)
            file = area / k3s.sqlite_file.name
            file.touch(mode=0o600)
            kine.copy(k3s.sqlite_file, file)
            yield file, _evidence(kine.read_state(file)), []

    def _sweep(self, k3s: K3s) -> None:
        """Delete our own etcd snapshots from this host: the one just read, and what a killed run left."""
        for file in k3s.own_snapshots():
            try:
                k3s.delete_snapshot(file)
            except (BackupError, OSError) as error:  # it costs room, not the backup; the next run tries again
                _log.warning("etcd snapshot %s: cannot be deleted: %s", file, error)


def work_set(work: Work) -> tuple[Opened, Opened]:
    """Return the database and its token set."""
    (tokens,) = [opened for opened in work.opened if _holds(opened) == "token"]
    (database,) = [opened for opened in work.opened if _holds(opened) != "token"]
    return database, tokens


def _holds(opened: Opened) -> str:
    return str(opened.artifact.settings["holds"])


def _evidence(state: SnapshotState) -> Evidence:
    return {
        "revision": state.revision,
        "total_keys": state.total_keys,
        "objects": state.object_count,
        "objects_by_resource": {**state.objects},
    }


def _checked(database: Opened) -> SnapshotState:
    """Return what a downloaded database holds, once it is proven whole and equal to its evidence."""
    if _holds(database) == "etcd":
        etcd_snapshot.require_whole(database.file)
        state = etcd_snapshot.read_state(database.file)
    else:
        state = kine.read_state(database.file)
    _require_equal(_evidence(state), database.artifact.evidence, "in the file")
    return state


def _require_equal(seen: Evidence, expected: Evidence, where: str) -> None:
    for name, value in seen.items():
        if value != expected.get(name):
            raise IntegrityError(f"{name} {where}: expected {expected.get(name)}, seen {value}")


def _objects(database: Opened) -> dict[ObjectName, str | None]:
    """Return every object that a database holds, with its uid where it can be read."""
    pairs = (
        ((key, datastore_objects.value_of(pair)) for key, pair in etcd_snapshot.read_pairs(database.file))
        if _holds(database) == "etcd"
        else kine.read_pairs(database.file)
    )
    return {name: datastore_objects.uid(value) for key, value in pairs if (name := object_name(key))}


def _told(database: Opened, state: SnapshotState) -> str:
    node = database.artifact.settings.get("node")
    return (
        f"{_holds(database)} of node {node}, K3s {database.artifact.evidence.get('k3s_version')}: revision "
        f"{state.revision}, {state.object_count} objects of {len(state.objects)} kinds"
    )
