"""
A CouchDB: every database with all its revisions, over HTTP. Fabric keeps there what it derives from its blocks.

Source: strategy row CouchDB (Fabric state); https://hyperledger-fabric.readthedocs.io/en/release-2.5/couchdb_as_state_database.html
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, JsonValue, StringConstraints, model_validator

from gxbackup.adapters.host import Host
from gxbackup.couchdb import choice, restore
from gxbackup.couchdb.client import CouchClient, path_of
from gxbackup.couchdb.dump import SAVEPOINT, Dump, in_order
from gxbackup.couchdb.loading import compare, load
from gxbackup.couchdb.peers import peers_stopped
from gxbackup.couchdb.safety import Safety
from gxbackup.errors import (
    BackupError,
    EmptyArtifactError,
    RestoreRefusedError,
    SetupError,
    SourceMissingError,
)
from gxbackup.fabric import heights
from gxbackup.model import Capture, Evidence, Frozen
from gxbackup.ports import PlainStream
from gxbackup.scratch.couchdb import scratch_couchdb
from gxbackup.sources.base import Restorable, Work

ObjectName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Url = Annotated[str, StringConstraints(pattern=r"^https?://[^@/?#]+(/[^@?#]*)?$")]
REBUILT = (
    "each peer makes them anew from its blocks when it starts: all of them, so not one that joined its channel by a "
    "snapshot; no copy is kept"
)


class SecretRef(Frozen):
    """Where its user and password are kept: a Secret in its namespace; read into memory alone."""

    name: ObjectName
    user_key: str = "user"
    password_key: str = "password"  # noqa: S105 - the name of a key


class CouchDB(Restorable):
    """One CouchDB server, by a Service of the cluster or by its URL."""

    default_folder: ClassVar[str] = "databases"

    kind: Literal["couchdb"] = "couchdb"
    namespace: ObjectName | None = Field(default=None, description="of its Service")
    service: ObjectName | None = Field(default=None, description="its Service: couchdb")
    port: int = Field(default=5984, ge=1, le=65535, description="of the Service")
    url: Url | None = Field(
        default=None, description="instead of a Service, without credentials: http://127.0.0.1:5984"
    )
    secret: SecretRef | None = Field(default=None, description="holds the user and password of a server admin")
    user_variable: Variable | None = Field(default=None, description="instead: the worker's variable with the user")
    password_variable: Variable | None = Field(default=None, description="and the one with the password")
    local_documents: bool = Field(default=False, description="take _local documents (replication checkpoints) too")
    leave_out: tuple[str, ...] = Field(default=("_global_changes",), description="databases that are not captured")
    peer_metrics: tuple[Url, ...] = Field(
        default=(), description="where those peers tell their heights: http://10.0.0.3:9443/metrics"
    )
    peers: tuple[ObjectName, ...] = Field(
        default=(), description="StatefulSets of the peers that use it, stopped while it is restored"
    )

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if bool(self.service) == bool(self.url):
            raise ValueError("expected a service or a url")
        if (self.service or self.secret or self.peers) and not self.namespace:
            raise ValueError("expected the namespace of its service, secret and peers")
        if bool(self.user_variable) != bool(self.password_variable) or (self.secret and self.user_variable):
            raise ValueError("expected secret, or user_variable and password_variable, or neither")
        return self

    def collect(self, host: Host, data_type: str) -> list[Capture]:
        """
        List its databases, savepoints first; one capture of all of them.

        Raises: SourceMissingError, CollectError where it does not answer or wants another password; EmptyArtifactError
        where it has no database.
        """
        with self._client(host) as client:
            version = client.get("/").get("version")
            databases = in_order([name for name in client.get("/_all_dbs") if name not in self.leave_out])
            if not databases:
                raise EmptyArtifactError(f"{data_type}: {client.name}: expected databases, seen none")
            captured: list[JsonValue] = [*databases]
            return [
                Capture(
                    data_type=data_type,
                    name=f"{data_type}.jsonl",
                    settings={"databases": captured, "place": client.name},
                    evidence={"couchdb_version": version},
                )
            ]

    @contextmanager
    def open(self, host: Host, capture: Capture) -> Iterator[PlainStream]:
        """Read one database after the other, page by page; a page that fails is asked for again."""
        databases = capture.settings["databases"]
        assert isinstance(databases, list)
        with self._client(host) as client:
            label = f"{capture.data_type}: {client.name}"
            yield Dump(client, [str(name) for name in databases], self.local_documents, label)

    def target(self, work: Work) -> str:
        """Name the server whose databases are overwritten."""
        del work
        return self.url or f"{self.namespace}/{self.service}"

    def preview(self, host: Host, work: Work) -> list[str]:
        """Say which databases would be dropped or replaced. Raises: RestoreRefusedError."""
        evidence = work.opened[0].artifact.evidence
        wanted = _wanted(work)
        self._require_heights(work, wanted)
        lines = [*work.unread, f"as captured: {_heights(evidence)}"]
        with self._client(host) as client:
            there = [name for name in client.get("/_all_dbs") if wanted(name)]
            lines += [
                f"now: {name}: {client.get(path_of(name))['doc_count']} documents{_height(client, name)}"
                for name in in_order(there)
            ]
        peers = f"stopped meanwhile: {', '.join(self.peers)}"
        if not self.peers:
            told = "said to be stopped" if work.options.get("peers_stopped") else "stop them first, then peers_stopped"
            peers = f"the inventory names no peers: {told}"
        if _method(work) == "rebuild":
            told = f"dropped: {', '.join(in_order(there)[: choice.NAMES_TOLD]) or 'nothing, none is there'}"
            return [*lines, told, REBUILT, peers]
        replaced = [name for name in choice.captured(evidence) if wanted(name)]
        return [
            *lines,
            f"replaced: {', '.join(replaced[: choice.NAMES_TOLD])}",
            f"a copy goes to {work.safety_dir}",
            peers,
        ]

    def rehearse(self, host: Host, work: Work) -> list[str]:
        """Load all databases into a throwaway CouchDB, read them back and compare every revision."""
        opened = work.opened[0]
        folder = work.area / "scratch-couchdb"
        folder.mkdir(mode=0o700)
        with scratch_couchdb(folder, self._known_url(host)) as scratch:
            with opened.file.open("rb") as lines:
                loaded = load(scratch.client, lines, scratch.owned)
            captured = choice.captured(opened.artifact.evidence)
            if missing := [name for name in captured if name not in loaded]:
                raise RestoreRefusedError(f"{work.data_type}: expected database {missing[0]} in the dump, seen none")
            names = {name: scratch.owned(name) for name in captured}
            return compare(scratch.client, opened.artifact.evidence, names, f"{work.data_type}: scratch CouchDB")

    def apply(self, host: Host, work: Work) -> list[str]:
        """
        Drop the peers' databases, or replace them by the documents captured; undone on failure.

        Raises: RestoreRefusedError where peers may be running: none are named, nor said to be stopped.
        """
        if not self.peers and work.options.get("peers_stopped") is not True:
            raise RestoreRefusedError(
                f"{work.data_type}: expected peers in the inventory, or peers_stopped, seen neither",
                "a peer that writes meanwhile leaves a state that is wrong without any error",
                "name its StatefulSets as source.peers; or stop every peer by hand, then give peers_stopped",
            )
        opened = work.opened[0]
        evidence, wanted = opened.artifact.evidence, _wanted(work)
        self._require_heights(work, wanted)
        with self._client(host) as client, self._peers_stopped(host, work):
            if _method(work) == "rebuild":
                return restore.rebuild(client, [name for name in client.get("/_all_dbs") if wanted(name)])
            safety = Safety(work.safety_dir, self.target(work), self.local_documents)
            return restore.put_documents(client, opened.file, wanted, evidence, safety, work.data_type)

    def _url(self, host: Host) -> str:
        if self.url:
            return self.url
        assert self.namespace and self.service
        return host.cluster.endpoint(self.namespace, self.service, self.port)

    def _known_url(self, host: Host) -> str | None:
        """Return where the server is; None where it cannot be told, as on a host without its cluster."""
        try:
            return self._url(host)
        except BackupError:
            return None

    @contextmanager
    def _client(self, host: Host) -> Iterator[CouchClient]:
        user = password = ""
        if self.secret is not None:
            assert self.namespace
            values = host.cluster.secret(self.namespace, self.secret.name)
            for key in (self.secret.user_key, self.secret.password_key):
                if key not in values:
                    raise SourceMissingError(
                        f"secret {self.namespace}/{self.secret.name}: expected key {key!r}, seen {', '.join(values)}",
                        "source.secret.user_key and password_key name its keys",
                    )
            user, password = values[self.secret.user_key].decode(), values[self.secret.password_key].decode()
        elif self.user_variable and self.password_variable:
            user, password = os.environ.get(self.user_variable, ""), os.environ.get(self.password_variable, "")
            if not user:
                raise SetupError(
                    f"variable {self.user_variable}: expected CouchDB's user, seen none",
                    "set it in /etc/gx-backup/worker.env",
                )
        client = CouchClient(self._url(host), user, password)
        try:
            yield client
        finally:
            client.close()

    @contextmanager
    def _peers_stopped(self, host: Host, work: Work) -> Iterator[None]:
        noted = work.safety_dir / f"couchdb-{work.data_type.replace('/', '-')}-peers.json"
        with peers_stopped(host.cluster, self.namespace or "", self.peers, noted):
            yield

    def _peer_heights(self, work: Work) -> dict[str, int]:
        """Return each channel's height: the one given for all, else the lowest that any peer's metrics tell."""
        captured = work.opened[0].artifact.evidence.get("heights")
        given = work.options.get("peer_height")
        if isinstance(given, int) and given > 0:
            return dict.fromkeys(captured if isinstance(captured, dict) else (), given)
        lowest: dict[str, int] = {}
        for url in self.peer_metrics:
            with closing(CouchClient(url)) as peer:
                told = restore.heights_told(peer.request("GET", "").body.decode("utf-8", "replace"))
            for channel, height in told.items():
                lowest[channel] = min(height, lowest.get(channel, height))
        return lowest

    def _require_heights(self, work: Work, wanted: Callable[[str], bool]) -> None:
        """
        Raise RestoreRefusedError where a peer could not go on from what is put back, or make anew what is dropped.

        Documents of a channel may be newer than its peer; a peer that joined by a snapshot lacks the first blocks.
        """
        evidence = work.opened[0].artifact.evidence
        touched = [
            channel
            for channel in choice.channels(evidence)
            if any(wanted(name) and restore.is_state(name, [channel]) for name in choice.captured(evidence))
        ]
        if _method(work) == "rebuild":
            held = sorted([*work.here, *work.elsewhere], key=lambda one: one.snapshot, reverse=True)
            heights.require_rebuildable(touched, self.peers, held, work.data_type)
        elif touched:
            restore.require_older(evidence, self._peer_heights(work), work.data_type)


def _wanted(work: Work) -> Callable[[str], bool]:
    named = work.options.get("databases") or []
    assert isinstance(named, list)
    evidence = work.opened[0].artifact.evidence
    return choice.wanted(evidence, [*map(str, named)], rebuilt=_method(work) == "rebuild", label=work.data_type)


def _method(work: Work) -> str:
    return str(work.options.get("method") or "rebuild")


def _heights(evidence: Evidence) -> str:
    captured = evidence.get("heights")
    told = captured if isinstance(captured, dict) else {}
    return ", ".join(f"channel {name} at height {height}" for name, height in told.items()) or "no channel"


def _height(client: CouchClient, database: str) -> str:
    if not database.endswith("_"):
        return ""
    try:
        return f", height {int(client.get(path_of(database, SAVEPOINT))['BlockNum']) + 1}"
    except BackupError:
        return ", no savepoint"
