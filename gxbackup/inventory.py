"""
What we promise to protect: `deployments/inventory.yaml`, read and validated here and nowhere else.

Every fault in the file is one line that names the path within it. Holds no secret: keys here are public.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

from gxbackup.documents import read_document
from gxbackup.errors import InventoryError
from gxbackup.model import Frozen, SnapshotId
from gxbackup.sources import AnySource

DEFAULT_PATH = Path("deployments/inventory.yaml")
HINT = "docs/reference/inventory.md lists every field with an example"

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$", max_length=40)]
AgeRecipient = Annotated[str, StringConstraints(pattern=r"^age1[02-9ac-hj-np-z]{58}$")]
SignerKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{43}=$")]
KubernetesName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=253)]
Folder = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*(/[a-z0-9][a-z0-9_-]*)*$")]


def _remote_path(path: str) -> str:
    name = path.partition(":")[0]
    if not path.startswith("/") and (":" not in path or not name or "," in name or "/" in name):
        raise ValueError("expected `remote:folder` with a remote of rclone's configuration, or an absolute path")
    return path


RemotePath = Annotated[str, AfterValidator(_remote_path)]


class RemoteSettings(Frozen):
    """Where snapshots live, and how hard we try to reach it."""

    path: RemotePath = Field(description="any rclone remote and folder: gdrive-backup:gx-backups", min_length=1)
    part_size_bytes: int = Field(
        default=4 * 1024**3, ge=1024**2, description="a larger artifact is stored in parts of this size"
    )
    transfers: int = Field(default=4, ge=1, le=32, description="files sent at once")
    stall_timeout_seconds: int = Field(
        default=300, ge=1, description="a transfer that moves no byte for so long is ended and tried again"
    )
    call_timeout_seconds: int = Field(default=300, ge=1, description="limit of a listing or another small call")


class Recipients(Frozen):
    """The age (X25519) public keys that every artifact is sealed to; hosts hold no identity."""

    recovery: AgeRecipient | None = Field(default=None, description="its identity is kept offline")
    rehearsal: AgeRecipient | None = Field(default=None, description="its identity lives only where rehearsals run")

    def required(self) -> tuple[str, str]:
        """Return both recipients; InventoryError where one is not set: nothing leaves a host unsealed."""
        for name in ("recovery", "rehearsal"):
            if getattr(self, name) is None:
                raise InventoryError(
                    f"recipients.{name}: expected an age recipient (age1…), seen none",
                    "make a key pair where the identity will be kept: `age-keygen -o gx-recovery.txt`; "
                    "put the public key it prints into the inventory",
                )
        assert self.recovery and self.rehearsal
        if self.recovery == self.rehearsal:
            raise InventoryError(
                "recipients: expected two different recipients, seen the same one twice",
                "the recovery identity stays offline; rehearsals need a key of their own",
            )
        return self.recovery, self.rehearsal


class HostSettings(Frozen):
    """A machine that runs a Prefect worker."""

    pool: Name = Field(description="its Prefect work pool, type process")
    signers: tuple[SignerKey, ...] = Field(
        default=(), description="Ed25519 public keys (base64) that this host signs, or once signed, manifests with"
    )


class DataType(Frozen):
    """One promise: what is captured, how much of it may be lost, and how long it is kept."""

    source: AnySource
    rpo_hours: float = Field(gt=0, le=24 * 31, description="at most this much is lost")
    rto_hours: float = Field(
        default=4, gt=0, le=24 * 31, description="back within this long; every rehearsal and drill is held against it"
    )
    keep_days: int = Field(gt=0, le=3660, description="kept so long, counted from its newest good copy")
    keep_at_least: int = Field(default=3, ge=1, le=1000, description="the newest good copies that are never dropped")
    folder: Folder | None = Field(default=None, description="folder in the snapshot; the source's own by default")
    set_name: Name | None = Field(default=None, description="data types of one set are kept and dropped together")
    restore_flow: Name | None = Field(default=None, description="the flow that puts it back; none: read by people")

    def folder_name(self) -> str:
        """Return the folder in the snapshot that this data type's artifacts lie in."""
        return self.folder or self.source.default_folder


class Server(Frozen):
    """A protected host or cluster."""

    runs_on: Name = Field(description="the host whose worker captures it")
    formerly_on: tuple[Name, ...] = Field(default=(), description="hosts whose older signatures are still trusted")
    remote_dir: Folder = Field(description="its folder on the remote")
    prune_limit: float = Field(
        default=0.25, gt=0, le=1, description="a plan that drops more than this share of bytes or snapshots stops"
    )
    pinned: tuple[SnapshotId, ...] = Field(
        default=(), description="snapshots of which nothing is dropped as long as they are named here"
    )
    data_types: dict[Name, DataType] = Field(min_length=1)


class WatchedCronJob(Frozen):
    """A CronJob of the cluster that makes backups of its own: looked at, never touched."""

    namespace: KubernetesName
    name: KubernetesName


class Watch(Frozen):
    """What is looked at beside the backups."""

    cronjobs: tuple[WatchedCronJob, ...] = Field(
        default=(), description="there, not suspended, and succeeded at the last time their schedule named"
    )
    time_zone: str = Field(
        default="UTC",
        description="IANA name of the time zone of the host that the cluster's controller runs on (`timedatectl`): "
        "what a CronJob without a timeZone of its own goes by",
    )

    @field_validator("time_zone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):  # what zoneinfo raises, by how a name is wrong
            raise ValueError("expected the IANA name of a time zone, such as Europe/Berlin") from None
        return name


class Inventory(Frozen):
    """Everything we promise, and whom we trust."""

    remote: RemoteSettings
    recipients: Recipients = Recipients()
    zstd_level: int = Field(default=3, ge=-7, le=19, description="3 is as fast as the disk; 19 is small and slow")
    hosts: dict[Name, HostSettings]
    servers: dict[Name, Server]
    watch: Watch = Watch()

    @model_validator(mode="after")
    def _refer_only_to_what_is_there(self) -> Self:
        folders: dict[str, str] = {}
        for name, server in self.servers.items():
            for host in (server.runs_on, *server.formerly_on):
                if host not in self.hosts:
                    raise ValueError(f"servers.{name}: host {host!r} is not under hosts ({', '.join(self.hosts)})")
            if (other := folders.setdefault(server.remote_dir, name)) != name:
                raise ValueError(f"servers.{name}.remote_dir: {server.remote_dir!r} belongs to servers.{other}")
            for folder in folders:
                inner, outer = sorted((f"{folder}/", f"{server.remote_dir}/"), key=len, reverse=True)
                if inner != outer and inner.startswith(outer):
                    raise ValueError(f"servers.{name}.remote_dir: {server.remote_dir!r} lies in or around {folder!r}")
        return self

    def server(self, name: str) -> Server:
        """Return one server's promises; InventoryError names those that exist."""
        if name not in self.servers:
            raise InventoryError(f"server {name!r}: not in the inventory", f"servers: {', '.join(self.servers)}")
        return self.servers[name]

    def data_type(self, server: str, name: str) -> DataType:
        """Return one data type's promise; InventoryError names those that exist."""
        found = self.server(server).data_types.get(name)
        if found is None:
            raise InventoryError(
                f"data type {name!r}: not protected on {server}",
                f"data types of {server}: {', '.join(self.server(server).data_types)}",
            )
        return found

    def all_signers(self) -> dict[str, str]:
        """Return every listed public key (base64) → the host it belongs to."""
        return {public: name for name, host in self.hosts.items() for public in host.signers}

    def signers_of(self, server: str) -> dict[str, str]:
        """Return the public keys (base64) trusted for a server → the host each belongs to."""
        settings = self.server(server)
        return {key: host for host in (settings.runs_on, *settings.formerly_on) for key in self.hosts[host].signers}


def load(path: Path | None = None) -> Inventory:
    """
    Read and validate the inventory (`GX_INVENTORY`, else deployments/inventory.yaml).

    Raises: InventoryError, one line with the path in the file of the first fault.
    """
    return read_document(path or path_in_use(), Inventory, HINT)


def path_in_use() -> Path:
    """Return the inventory's path: `GX_INVENTORY`, else deployments/inventory.yaml."""
    return Path(os.environ.get("GX_INVENTORY") or DEFAULT_PATH)
