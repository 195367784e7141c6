"""
How each kind of artifact is put back with common tools alone, once it is opened: the end of `RECOVER.md`. Pure text.

Two blocks each: what is done in the work folder on any machine, and what is done on the server that it belongs to. The
second one uses that server's own client, with the variables of its own (PGHOST, KUBECONFIG) set before.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import NamedTuple

from gxbackup import layout
from gxbackup.model import Artifact

EVERYWHERE = ("postgres", "template1")
_APPLY = "kubectl apply --server-side --force-conflicts --field-manager gx-recover"
_TAR = "tar --extract --preserve-permissions --same-owner --numeric-owner --acls --xattrs --xattrs-include='*'"


class Steps(NamedTuple):
    """What a person reads, does in the work folder, and does on the server; `there` is empty where nothing is."""

    about: str
    here: str
    there: str = ""


def steps(artifact: Artifact, plain: str) -> Steps:
    """Return the steps for one artifact whose plain file lies at `plain` in the work folder."""
    by_kind = _BY_KIND.get(artifact.kind)
    return by_kind(artifact, plain) if by_kind else _read_it(artifact, plain)


def _tree(artifact: Artifact, plain: str) -> Steps:
    root = artifact.settings.get("root", "/")
    target = f"tree/{artifact.data_type}"
    about = f"A file tree; it came from `{root}`. Look at it in `{target}` first, then move what you need to its place."
    return Steps(about, _unpacked(plain, target))


def _of_a_pod(artifact: Artifact, plain: str) -> Steps:
    if PurePosixPath(plain).suffix != ".tar":
        return _objects(artifact, plain)
    stem = PurePosixPath(plain).stem
    target = f"tree/{artifact.data_type}/{stem}"
    about = (
        f"The files of `{stem}`, as its pod sees them. Stop the pod, put them on its volume, start it; a CA needs the "
        "database of the same snapshot (postgres-ca) too."
    )
    return Steps(about, _unpacked(plain, target))


def _ledger(artifact: Artifact, plain: str) -> Steps:
    pod = artifact.settings.get("pod", "?")
    target = f"tree/{artifact.data_type}/{pod}"
    folder = artifact.settings.get("volume", "?")
    about = f"The volume of `{pod}`: stop it, empty its folder `{folder}`, move these there."
    if "read_through" in artifact.settings and "claim" not in artifact.settings:
        about = (
            f"The ledger of `{pod}`, on no claim that was known: give it one at `{folder}`, stop it, move these there."
        )
    lines = [f"mkdir -p {shlex.quote(target)}"]
    if artifact.base is not None:
        base = str(artifact.settings.get("base_path"))
        full = f"plain/{base.removesuffix(layout.SEALED_SUFFIX)}"
        about += f" It holds what changed since snapshot {artifact.base}, whose copy is unpacked first."
        opened = f'age --decrypt --identity "$IDENTITY" | zstd --decompress --quiet > {shlex.quote(full)}'
        lines += [
            f"mkdir -p {shlex.quote(str(PurePosixPath(full).parent))}",
            f"cat sealed/.held/{artifact.base}/{shlex.quote(base)}* | {opened}",
            _incremental(full, target),
        ]
    return Steps(about, "\n".join([*lines, _incremental(plain, target)]))


def _postgres(artifact: Artifact, plain: str) -> Steps:
    file = shlex.quote(plain)
    if PurePosixPath(plain).suffix == ".sql":
        return Steps(
            "Roles and tablespaces; first of all. Roles that exist already are told as errors, and stay as they are.",
            f"ls -l {file}",
            f"psql --no-psqlrc --quiet --dbname postgres --file {file}",
        )
    database = str(artifact.settings.get("database", PurePosixPath(plain).stem))
    # With its own encoding, owner and grants; two are there in every server.
    into = f"--dbname {database}" if database in EVERYWHERE else "--create --dbname template1"
    return Steps(
        "One database, for `pg_restore` of the same or a newer PostgreSQL. An existing one of that name is in the way: "
        "rename it first (`ALTER DATABASE … RENAME TO …`), and drop it once you are content. Where one thing cannot be "
        "made and all else is needed now, leave `--exit-on-error` out: what fails is named, and the rest comes back.",
        f"ls -l {file}",
        f"pg_restore --exit-on-error {into} {file}",
    )


def _redis(_artifact: Artifact, plain: str) -> Steps:
    return Steps(
        "A Redis dump. Stop Redis first: it overwrites the file when it stops. With `appendonly yes` it ignores the "
        "file: start it once with `--appendonly no`, then `CONFIG SET appendonly yes`, and wait for the rewrite.",
        f"ls -l {shlex.quote(plain)}",
        f'install --mode 0640 {shlex.quote(plain)} "$REDIS_DIR/dump.rdb"',
    )


def _couchdb(_artifact: Artifact, plain: str) -> Steps:
    return Steps(
        "Fabric's state databases, one JSON line a revision. They are derived: delete them and start the peer, which "
        "rebuilds them from its blocks. Only otherwise: each line's `doc` goes to `POST /DATABASE/_bulk_docs` with "
        '`"new_edits": false`, the database that ends in `_` first.',
        f"ls -l {shlex.quote(plain)}",
    )


def _objects(_artifact: Artifact, plain: str) -> Steps:
    file = shlex.quote(plain)
    if PurePosixPath(plain).suffix == ".yaml":
        return Steps(
            "Every object, cleaned and in the order in which it can be applied; take out what you do not want. It runs "
            "twice, since a definition is served a moment after it is made.",
            f"ls -l {file}",
            f"{_APPLY} --filename {file} || {_APPLY} --filename {file}",
        )
    return Steps("Every object as the API server told it, one JSON line each; to be read.", f"ls -l {file}")


def _datastore(artifact: Artifact, plain: str) -> Steps:
    if artifact.settings.get("holds") == "token":
        return _tree(artifact, plain)
    data_dir = str(artifact.settings.get("data_dir", "/var/lib/rancher/k3s"))
    database, token = f"{data_dir}/server/db", f"{data_dir}/server/token"
    file = f'"$WORK"/{shlex.quote(plain)}'
    put_token = _kept_beside(token) + _installed(f'"$WORK"/tree/{artifact.data_type}/token', token)
    if PurePosixPath(plain).name.startswith("state"):
        return Steps(
            "K3s's SQLite datastore, and the token of this same snapshot. Stop K3s first, and start it "
            "afterwards; what is there is renamed.",
            f"ls -l {shlex.quote(plain)}",
            put_token + _kept_beside(database) + _installed(file, f"{database}/state.db").rstrip(),
        )
    return Steps(
        "An etcd snapshot; worthless without the token of this same snapshot, which is put in its place too. Stop K3s "
        f"on all servers first; afterwards start this server; on each other one remove `{database}` "
        "and start it. Never remove that folder on this one. Flags that the unit gives K3s (`systemctl cat k3s`: "
        "`--node-ip`, `--node-name`, …) belong behind this command too.",
        f"ls -l {shlex.quote(plain)}",
        f"{put_token}k3s server --cluster-reset --cluster-reset-restore-path={file} "
        f"--token-file={shlex.quote(token)} --data-dir={shlex.quote(data_dir)} --etcd-s3=false",
    )


def _kept_beside(path: str) -> str:
    was = shlex.quote(path)
    return f'[ ! -e {was} ] || mv {was} {was}.before-"$(date -u +%Y%m%dT%H%M%S.%N)"\n'


def _installed(file: str, target: str) -> str:
    return f"install -D --mode 0600 {file} {shlex.quote(target)}\n"


def _read_it(_artifact: Artifact, plain: str) -> Steps:
    return Steps("To be read by people, one object a line.", f"ls -l {shlex.quote(plain)}")


def _unpacked(plain: str, target: str) -> str:
    return f"mkdir -p {shlex.quote(target)}\n{_TAR} --file {shlex.quote(plain)} --directory {shlex.quote(target)}"


def _incremental(plain: str, target: str) -> str:
    return f"{_TAR} --listed-incremental=/dev/null --file {shlex.quote(plain)} --directory {shlex.quote(target)}"


_BY_KIND: dict[str, Callable[[Artifact, str], Steps]] = {
    "chaincode": _of_a_pod,
    "couchdb": _couchdb,
    "directory": _tree,
    "etcd": _datastore,
    "fabric_crypto": _of_a_pod,
    "kubernetes_objects": _objects,
    "ledger": _ledger,
    "postgres": _postgres,
    "redis": _redis,
}
