"""
What a recovery of K3s does on one host: stop, set the old database aside, put the new one in or join, start, compare.

A journal in the staging root (k3s-recovery.json) notes each step once it is done, so that a recovery that was cut goes
on where it was. Nothing is ever deleted: what is in the way is renamed, with the time. Reaches no other host.
Source: docs.k3s.io, datastore/backup-restore; the other servers' databases must be gone before they join.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pydantic import Field

from gxbackup import clock
from gxbackup.adapters.k3s import K3s
from gxbackup.datastore_objects import Uids, differences, told
from gxbackup.errors import CommandError, RestoreError
from gxbackup.exchange import require_room
from gxbackup.model import Frozen
from gxbackup.staging import staging_root

START_TIMEOUT_SECONDS = 900
SETTLE_TIMEOUT_SECONDS = 180
SECONDS_BETWEEN_LOOKS = 2.0
JOURNAL = "k3s-recovery.json"
# A cluster that runs makes and removes these by itself; their counts are told, and no failure.
RESTLESS = frozenset({
    "addons.k3s.cattle.io", "apiservices.apiregistration.k8s.io", "certificatesigningrequests", "controllerrevisions",
    "csinodes", "endpoints", "endpointslices", "etcdsnapshotfiles.k3s.cattle.io", "events", "flowschemas", "jobs",
    "leases", "nodes", "pods", "prioritylevelconfigurations", "replicasets", "volumeattachments",
})  # fmt: skip


class Journal(Frozen):
    """How far a recovery has come on this host."""

    recovery: str
    node: str
    finished: bool = False
    done: dict[str, str] = Field(default_factory=dict, description="step → when it was done")
    aside: dict[str, str] = Field(default_factory=dict, description="what was renamed → where it lies now")
    put_in: int | None = Field(default=None, description="the inode of the database folder that was put in")


def begin(k3s: K3s, snapshot: str) -> Recovery:
    """
    Go on with this host's unfinished recovery from a snapshot, or begin a new one: for the first server.

    Anew too where the database that it put in does not lie there any more: people went back to what was there before.
    """
    found = _read()
    unfinished = found is not None and not found.finished and found.recovery.startswith(f"{snapshot}-")
    if found is not None and unfinished and found.put_in in (None, _inode(k3s.database_dir)):
        return Recovery(k3s, found)
    return _new(k3s, f"{snapshot}-{clock.now():%Y%m%dt%H%M%Sz}")


def resume(k3s: K3s, recovery: str, *, first_step: bool = False) -> Recovery:
    """
    Go on with a recovery that another host leads, or join it: for the other servers.

    Without a name, by hand, its first step begins a new one, and what follows is of the unfinished one of this host:
    one that was left unfinished earlier must not pass for this one.
    """
    found = _read()
    if found is not None and (found.recovery == recovery or not (recovery or found.finished or first_step)):
        return Recovery(k3s, found)
    return _new(k3s, recovery or f"by-hand-{clock.now():%Y%m%dt%H%M%Sz}")


class Recovery:
    """One recovery on this host, and its journal."""

    def __init__(self, k3s: K3s, journal: Journal) -> None:
        self._k3s = k3s
        self._journal = journal

    @property
    def name(self) -> str:
        """The name that all hosts of one recovery share."""
        return self._journal.recovery

    @property
    def finished(self) -> bool:
        """Whether all of it is done on this host."""
        return self._journal.finished

    def has(self, step: str) -> bool:
        """Tell whether a step is done."""
        return step in self._journal.done

    def mark(self, step: str) -> datetime:
        """Note that a step is done; the first time counts."""
        moment = self._journal.done.get(step) or clock.now().isoformat(timespec="seconds")
        self._write(done={**self._journal.done, step: moment})
        return datetime.fromisoformat(moment)

    def finish(self) -> None:
        """Note that all is done: the next recovery begins anew."""
        self._write(finished=True)

    def stop(self) -> list[str]:
        """Stop this host's server, unless it is already a part of the recovered cluster."""
        if self.has("started"):
            return [f"{self._journal.node}: already started again"]
        self._k3s.stop()
        self.mark("stopped")
        return [f"{self._journal.node}: stopped"]

    def restore_first(self, holds: str, database: Path, token_set: Path) -> list[str]:
        """
        Make this host's server a cluster of one from a database and its token, and start it.

        Raises: RestoreError. Where K3s refused the database, the old one is in its place again.
        """
        if not self.has("restored"):
            require_room(self._k3s.server_dir, 2 * database.stat().st_size)
            self._k3s.stop()
            try:
                self._set_aside(self._k3s.database_dir)
                self._place_token(token_set)
                self._put_in(holds, database, token_set / "token")
            except BaseException:
                self._put_back()
                raise
            self._write(put_in=_inode(self._k3s.database_dir))
            self.mark("restored")
        return [*self._told_aside(), *self._start()]

    def join(self) -> list[str]:
        """Set this host's old database aside and start its server, which joins the recovered cluster."""
        if not self.has("aside"):
            self._k3s.stop()
            self._set_aside(self._k3s.database_dir)
            self.mark("aside")
        done = [*self._told_aside(), *self._start()]
        self.finish()
        return done

    def _start(self) -> list[str]:
        if not self.has("ready"):
            since = self.mark("started")
            self._k3s.start(self._journal.node, since, START_TIMEOUT_SECONDS)
            self.mark("ready")
        return [f"{self._journal.node}: started, Ready since {self._journal.done['ready']}"]

    def _put_in(self, holds: str, database: Path, token_file: Path) -> None:
        if holds == "etcd":
            self._k3s.reset(database, token_file)
            return
        self._k3s.database_dir.mkdir(mode=0o700)
        shutil.copyfile(database, self._k3s.sqlite_file)
        self._k3s.sqlite_file.chmod(0o600)
        os.sync()

    def _place_token(self, token_set: Path) -> None:
        """Make the snapshot's own token this server's; certificates of another cluster make way for K3s to write."""
        server = self._k3s.server_dir
        ours, authority = token_set / "token", token_set / "tls" / "server-ca.crt"
        if authority.is_file() and _differs(authority, self._k3s.ca_file):
            self._set_aside(server / "tls")
            self._set_aside(server / "cred")
        if _differs(ours, self._k3s.token_file):
            self._set_aside(self._k3s.token_file)
            growing = server / "token.gx-new"
            growing.touch(mode=0o600)
            shutil.copyfile(ours, growing)
            growing.rename(self._k3s.token_file)

    def _set_aside(self, path: Path) -> None:
        """Rename what is there; noted first, so that what was there before all others is known after any cut."""
        if not os.path.lexists(path):
            return
        away = path.with_name(f"{path.name}.before-{clock.now():%Y%m%dT%H%M%S.%fZ}")
        first = self._journal.aside.get(str(path))
        if first is None or not os.path.lexists(first):
            self._write(aside={**self._journal.aside, str(path): str(away)})
        path.rename(away)

    def _put_back(self) -> None:
        for name, away in self._journal.aside.items():
            if os.path.lexists(away):
                if os.path.lexists(name):
                    Path(name).rename(f"{name}.failed-{clock.now():%Y%m%dT%H%M%S.%fZ}")
                Path(away).rename(name)
        self._write(aside={})

    def _told_aside(self) -> list[str]:
        return [f"{self._journal.node}: {name} was set aside as {away}" for name, away in self._journal.aside.items()]

    def _write(self, **changes: object) -> None:
        self._journal = _written(self._journal.model_copy(update=changes))


def commands(k3s: K3s, holds: str, others: Sequence[str]) -> list[str]:
    """Spell what a recovery runs, host by host, as a person would type it."""
    database = k3s.database_dir
    stop, start, aside = " ".join(k3s.stop_command()), " ".join(k3s.start_command()), f"mv {database} {database}.before"
    put_in = k3s.reset_spelled(Path("etcd-snapshot.db"), Path("token"))
    if holds == "sqlite":
        put_in = f"install -D -m 600 state.db {k3s.sqlite_file}"
    return [
        *(f"{host}: {stop}" for host in ("this host", *others)),
        f"this host: {aside}",
        f"this host: {put_in}",
        f"this host: {start}",
        *(f"{host}, once the node before it is Ready: {aside} && {start}" for host in others),
    ]


def compare(k3s: K3s, expected: Uids) -> list[str]:
    """
    Hold every object of the snapshot against what the API lists: kind, namespace, name, uid; wait while K3s settles.

    What is there besides, or is another object of that name, is told: K3s and its controllers make some anew.
    Raises: RestoreError naming the objects that are missing, but for kinds that come and go by themselves.
    """
    resources = sorted({name.resource for name in expected})
    deadline = time.monotonic() + SETTLE_TIMEOUT_SECONDS
    while True:
        seen = {name: uid for resource in resources for name, uid in _objects(k3s, resource).items()}
        found = differences(expected, seen)
        lost = [name for name in found.missing if name.resource not in RESTLESS]
        if not lost:
            break
        if time.monotonic() > deadline:
            raise RestoreError(
                f"the recovered cluster lacks {len(lost)} of the {len(expected)} objects of its snapshot: "
                f"{'; '.join(told('missing', lost))}",
                "the cluster is up; look whether K3s is still at work, then run the same recovery again",
            )
        time.sleep(SECONDS_BETWEEN_LOOKS)
    counts = f"{len(found.missing)} missing, {len(found.changed)} changed, {len(found.extra)} more"
    return [
        f"{len(expected)} objects of {len(resources)} kinds compared with the snapshot one by one: {counts}",
        *told("missing, of a kind that comes and goes", found.missing),
        *told("changed: made anew under its name", found.changed),
        *told("not in the snapshot", found.extra),
    ]


def _objects(k3s: K3s, resource: str) -> Uids:
    try:
        return k3s.objects(resource)
    except CommandError:  # its API group is not served yet, or not any more
        return {}


def _differs(file: Path, other: Path) -> bool:
    return not other.is_file() or file.read_bytes() != other.read_bytes()


def _inode(folder: Path) -> int | None:
    return folder.stat().st_ino if folder.exists() else None


def _new(k3s: K3s, recovery: str) -> Recovery:
    return Recovery(k3s, _written(Journal(recovery=recovery, node=k3s.node_name())))


def _read() -> Journal | None:
    file = staging_root() / JOURNAL
    try:
        return Journal.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RestoreError(f"{file}: cannot be read: {error}", "move it away: the recovery then begins anew") from None


def _written(journal: Journal) -> Journal:
    file = staging_root() / JOURNAL
    growing = file.with_suffix(".new")
    with growing.open("w", encoding="utf-8") as opened:
        opened.write(journal.model_dump_json(indent=2))
        opened.flush()
        os.fsync(opened.fileno())
    growing.rename(file)
    return journal
