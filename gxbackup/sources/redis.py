"""
A Redis server: an RDB that is known to be finished, checked by Redis's own tool, with the keys of each database.

Source: strategy rows Redis MainNet and Redis TestNet; https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, JsonValue, StringConstraints, model_validator

from gxbackup.adapters.host import Host
from gxbackup.adapters.places import LocalPlace
from gxbackup.errors import BackupError, CollectError, CommandError, RestoreRefusedError
from gxbackup.model import Artifact, Capture
from gxbackup.ports import Place, PlainStream
from gxbackup.redis import rdb, restore, swap
from gxbackup.redis.pods import PodTarget
from gxbackup.redis.saved import saved
from gxbackup.redis.server import SAVE_TIMEOUT_SECONDS, RedisServer, keyspace
from gxbackup.redis.swap import DataFiles
from gxbackup.scratch.redis import compare, databases_of, running_redis
from gxbackup.sources.base import Restorable, Work

FILE_SETTINGS = ("dir", "dbfilename", "appendonly", "appenddirname", "appendfilename")

ObjectName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
AclUser = Annotated[str, StringConstraints(pattern=r"^[^\s\x00-\x1f-][^\s\x00-\x1f]*$", max_length=100)]
FilePath = Annotated[str, StringConstraints(pattern=r"^/[^\x00-\x1f]+$", max_length=1000)]


class Redis(Restorable):
    """One Redis server, in a pod or in a Docker container."""

    default_folder: ClassVar[str] = "databases"

    kind: Literal["redis"] = "redis"
    namespace: ObjectName | None = Field(default=None, description="of its pod")
    pod: ObjectName | None = Field(default=None, description="its pod: redis-0")
    container: ObjectName | None = Field(default=None, description="where the pod has more than one")
    docker_container: str | None = Field(
        default=None,
        description="instead of a pod: the Docker container it runs in; captured and rehearsed, not restored in place",
    )
    password_variable: Variable = Field(
        default="REDIS_PASSWORD", description="the variable there that holds its password, or with _FILE names its file"
    )
    user: AclUser | None = Field(default=None, description="its ACL user, where that is not `default`")
    tls_ca_file: FilePath | None = Field(
        default=None, description="where it speaks TLS: the certificate of its authority, as a file there"
    )
    tls_cert_file: FilePath | None = Field(default=None, description="where it wants the client's own, as a file there")
    tls_key_file: FilePath | None = Field(default=None, description="and that one's key")
    port: int = Field(default=6379, ge=1, le=65535, description="where it listens there")
    file: FilePath | None = Field(default=None, description="its RDB, where the server does not tell (CONFIG refused)")
    save_timeout_seconds: int = Field(
        default=SAVE_TIMEOUT_SECONDS, ge=1, description="a save that takes longer has failed"
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if bool(self.namespace and self.pod) == bool(self.docker_container) or bool(self.namespace) != bool(self.pod):
            raise ValueError("expected namespace and pod, or docker_container")
        return self

    def collect(self, host: Host, data_type: str) -> list[Capture]:
        """
        Have it save, unless the last save holds all there is and its file is that save; one capture.

        So a run with nothing changed reads the same bytes again. Raises: SourceMissingError; CommandError while it
        loads; CollectError where it wants another password, the save fails, or it is one of several that hold the data.
        """
        server = self._server(host)
        info = server.info()
        _require_whole(info, f"{data_type}: {server.place.name}")
        settings = self._files(server)
        size_bytes = saved(server, str(settings["file"]), self.save_timeout_seconds, data_type)
        return [
            Capture(
                data_type=data_type,
                name=f"{data_type}.rdb",
                settings={**settings, "namespace": self.namespace, "pod": self.pod, "place": server.place.name},
                evidence={
                    "redis_version": info["redis_version"],
                    "role": info.get("role", ""),
                    "append_only": info.get("aof_enabled") == "1",
                    "saved_at": int(server.info()["rdb_last_save_time"]),
                },
                expected_size_bytes=size_bytes,
            )
        ]

    @contextmanager
    def open(self, host: Host, capture: Capture) -> Iterator[PlainStream]:
        """Check the file with Redis's own tool and read that very file; its end tells the keys of each database."""
        place = self._place(host)
        file = str(capture.settings["file"])
        checked = rdb.check(place, file)
        with place.read(rdb.read_argv(file, checked)) as stream:
            yield rdb.RdbStream(stream, checked, f"{capture.data_type}: {place.name}: {file}")

    def target(self, work: Work) -> str:
        """Name the pod or container whose data is overwritten."""
        del work
        return f"{self.namespace}/{self.pod}" if self.pod else f"docker/{self.docker_container}"

    def preview(self, host: Host, work: Work) -> list[str]:
        """Say what it holds now, and what would take its place. Raises: RestoreRefusedError."""
        artifact = work.opened[0].artifact
        target, _ = self._where(host, artifact)
        replicas = target.replicas()
        if replicas:
            target.claim()
        keys = artifact.evidence.get("keys")
        lines = [f"{target.name}: {keys} keys as of the save take the place of all it holds"]
        try:
            info = target.server().info()
            now = sum(count.keys for count in keyspace(info).values())
            lines.append(
                f"it holds {now} keys now (Redis {info['redis_version']}, "
                f"append-only file {'on' if info.get('aof_enabled') == '1' else 'off'})"
            )
            cut = swap.unfinished(target.server().place, target.folder)
            lines += [
                f"a restore was cut short here: {target.folder}/{name} is put back first, and all that was written "
                f"since moves to {target.folder}/before-restore-<time>"
                for name in cut
            ]
        except BackupError as error:
            lines.append(f"it does not answer now: {error.message}")
            lines.append("what it holds and has not written to its disk is lost when it is stopped")
            lines.append("so it is not seen whether a restore was cut short here; if so, that is undone first")
        stopped = "is stopped already" if replicas == 0 else "is stopped meanwhile"
        return [*lines, f"statefulset {self.namespace}/{target.stateful_set} {stopped}, and started at the end",
                f"what is there stays in {target.folder}/before-restore-<time>"]  # fmt: skip

    def rehearse(self, host: Host, work: Work) -> list[str]:
        """Serve it from a Redis of our own in the run's private folder, and compare every database's keys."""
        del host
        opened = work.opened[0]
        folder = work.area / "scratch-redis"
        folder.mkdir(mode=0o700)
        served = folder / "dump.rdb"
        served.hardlink_to(opened.file)
        place = LocalPlace("scratch Redis")
        settings = databases_of(place, str(served), opened.artifact.evidence)
        with running_redis(place, str(folder), served.name, settings) as server:
            seen = server.keyspace()
            checked = rdb.check(place, str(served))  # after: what has expired by now may have been there a moment ago
            return compare(opened.artifact.evidence, seen, checked, f"{work.data_type}: scratch Redis")

    def apply(self, host: Host, work: Work) -> list[str]:
        """Save, stop it, put the proven RDB in its data's place, start it; undone on failure. Raises: RestoreError."""
        opened = work.opened[0]
        target, files = self._where(host, opened.artifact)
        return restore.put_in_place(target, opened.file, files, opened.artifact.evidence, self.save_timeout_seconds)

    def _where(self, host: Host, artifact: Artifact) -> tuple[PodTarget, DataFiles]:
        """
        Return what is restored into, and how it names its files: as it tells now, else as once captured.

        Raises: RestoreRefusedError where it is a replica, or appends to a file that nobody tells: it would ignore what
        is put in.
        """
        settings = dict(artifact.settings)
        target = self._target(host, settings)
        info: dict[str, str] = {}
        if not settings["appendonly"]:
            settings["appendonly"] = "yes" if artifact.evidence.get("append_only") else "no"
        with suppress(BackupError):  # it does not run, which may be why it is restored
            server = target.server()
            info = server.info()
            if aof := info.get("aof_enabled"):
                settings["appendonly"] = "yes" if aof == "1" else "no"
            now = self._files(server)
            settings |= {name: told for name, told in now.items() if told or now["appendonly"]}
        restore.require_primary(info, target.name)
        files = _data_files(settings)
        if files.appends and not files.append_file:
            raise RestoreRefusedError(
                f"{target.name}: has an append-only file, which it loads instead of an RDB; expected CONFIG GET "
                "appendfilename to tell its name, seen no answer",
                "let CONFIG GET through for this restore; or restore to scratch and put the RDB in by hand",
            )
        return self._target(host, settings), files

    def _place(self, host: Host) -> Place:
        if self.docker_container:
            return host.containers.place(self.docker_container)
        assert self.namespace
        return host.cluster.place(self.namespace, self.pod, None, self.container)

    def _server(self, host: Host) -> RedisServer:
        return self._connect(self._place(host))

    def _connect(self, place: Place) -> RedisServer:
        words = {"--user": self.user, "--cacert": self.tls_ca_file, "--cert": self.tls_cert_file,
                 "--key": self.tls_key_file}  # fmt: skip
        given = [word for name, value in words.items() if value for word in (name, value)]
        return RedisServer(
            place, self.password_variable, ("-p", str(self.port), *(["--tls"] if self.tls_ca_file else []), *given)
        )

    def _files(self, server: RedisServer) -> dict[str, JsonValue]:
        """Return where it keeps its data, as it tells itself."""
        told = {name: server.setting(name) for name in FILE_SETTINGS}
        if self.file is not None:
            path = PurePosixPath(self.file)
            told |= {"dir": str(path.parent), "dbfilename": path.name}
        if not told["dir"] or not told["dbfilename"]:
            raise CollectError(
                f"{server.place.name}: expected CONFIG GET dir to tell where its RDB is, seen no answer",
                "source.file names it where CONFIG is refused",
            )
        return {"file": f"{told['dir'].rstrip('/')}/{told['dbfilename']}", **{name: told[name] or "" for name in told}}

    def _target(self, host: Host, settings: dict[str, JsonValue]) -> PodTarget:
        # Every Redis of the strategy is a pod. Who stops a container, and where its data lies meanwhile, is Compose's
        # business: a restore that cannot be sure of either is not begun.
        if not self.namespace or not self.pod:
            raise RestoreRefusedError(
                f"docker container {self.docker_container}: a restore in place needs a pod",
                "restore to scratch, then copy the RDB into the stopped container by hand",
            )
        folder = str(settings["dir"])
        return PodTarget(host.cluster, self.namespace, self.pod, self.container, folder, self._connect)


def _require_whole(info: dict[str, str], label: str) -> None:
    """Raise unless this one server holds the whole dataset, and has it in memory."""
    if info.get("loading") == "1" or info.get("async_loading") == "1":
        raise CommandError(f"{label}: is still loading its dataset")
    if info.get("cluster_enabled") == "1":
        raise CollectError(
            f"{label}: runs in cluster mode, where each node holds a part of the keys",
            "this kind captures one server that holds all of them",
        )
    if info.get("role") == "slave" and info.get("master_link_status") != "up":
        raise CollectError(
            f"{label}: is a replica that has lost its primary: what it holds may be old",
            "name the primary's pod in the inventory",
            retryable=True,
        )


def _data_files(settings: dict[str, JsonValue]) -> DataFiles:
    return DataFiles(
        rdb=str(settings["dbfilename"]),
        appends=settings["appendonly"] == "yes",
        append_folder=str(settings["appenddirname"]),
        append_file=str(settings["appendfilename"]),
    )
