"""
Every command of K3s and of its service, and where it keeps what. The only speller of K3s arguments and paths.

Secrets never stand in an argv: the token is read by K3s from a file.
Source: docs.k3s.io (cli/etcd-snapshot, datastore/backup-restore, cli/token); k3s-io/k3s pkg/cli/cmds.
"""

from __future__ import annotations

import json
import re
import shlex
import socket
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from gxbackup import clock
from gxbackup.adapters import k3s_unit, process
from gxbackup.errors import CommandError, RestoreError, SourceMissingError
from gxbackup.etcd_snapshot import ObjectName

SERVICE = "k3s"
SNAPSHOT_TIMEOUT_SECONDS = 1800
RESET_TIMEOUT_SECONDS = 1800
BRIEF_SECONDS = 120
AGREED_WITHIN_SECONDS = 30
SECONDS_BETWEEN_LOOKS = 1.0
OURS = re.compile(r"gx-\d{8}t\d{6}z(-.+)?")

_COLUMNS = "NAMESPACE:.metadata.namespace,NAME:.metadata.name,UID:.metadata.uid"

Datastore = Literal["etcd", "sqlite"]


@dataclass(frozen=True)
class K3s:
    """The K3s server of this host."""

    data_dir: Path
    config_dir: Path

    @property
    def server_dir(self) -> Path:
        """What the server keeps: database, token, certificates."""
        return self.data_dir / "server"

    @property
    def database_dir(self) -> Path:
        """The datastore's own folder."""
        return self.server_dir / "db"

    @property
    def etcd_dir(self) -> Path:
        """The embedded etcd."""
        return self.database_dir / "etcd"

    @property
    def sqlite_file(self) -> Path:
        """The datastore of a single server."""
        return self.database_dir / "state.db"

    @property
    def snapshot_dir(self) -> Path:
        """Where etcd snapshots are saved."""
        return self.database_dir / "snapshots"

    @property
    def token_file(self) -> Path:
        """The server token, which a snapshot cannot be opened without."""
        return self.server_dir / "token"

    @property
    def ca_file(self) -> Path:
        """The certificate of the cluster's own authority, whose hash a token begins with."""
        return self.server_dir / "tls" / "server-ca.crt"

    def datastore(self) -> Datastore:
        """
        Return which datastore this server keeps on its own disk.

        Raises: SourceMissingError where it is elsewhere (`datastore-endpoint`), or where there is none.
        """
        if where := self._external_datastore():
            raise SourceMissingError(
                f"{self.database_dir}: K3s keeps its data in an external datastore ({where})",
                "back that database up where it runs, as a data type of its own; its address holds a password, so it "
                "is not shown here",
            )
        if (self.etcd_dir / "member").is_dir():
            return "etcd"
        if self.sqlite_file.is_file():
            return "sqlite"
        raise SourceMissingError(
            f"{self.database_dir}: expected an embedded etcd or state.db, seen neither",
            "is this a K3s server (not an agent), and is data_dir in the inventory the one that it runs with?",
        )

    def node_name(self) -> str:
        """Return the name of this host's node: as etcd knows it, as its unit or file sets it, or the host's own."""
        named = self.etcd_dir / "name"
        if named.is_file():
            return re.sub(r"-[0-9a-f]{8}$", "", named.read_text(encoding="utf-8").strip())
        unit = k3s_unit.read(SERVICE)
        if set_by_unit := unit.option("node-name") or unit.variables.get("K3S_NODE_NAME"):
            return set_by_unit
        for document in self._configuration():
            if isinstance(name := document.get("node-name"), str):
                return name
        return socket.gethostname().lower()

    def version(self) -> str:
        """Return the version of this K3s: v1.31.4+k3s1. A snapshot needs the same or a newer one."""
        told = process.run(["k3s", "--version"], timeout_seconds=BRIEF_SECONDS).stdout.decode("utf-8", "replace")
        found = re.search(r"^k3s version (\S+)", told, re.MULTILINE)
        return found.group(1) if found else told.strip()[:80]

    def save_snapshot(self) -> Path:
        """
        Save an etcd snapshot under a name of ours and return its file; `delete_snapshot` must follow.

        Raises: CommandError where K3s refused, or left no file, or more than one.
        """
        name = f"gx-{clock.now():%Y%m%dt%H%M%Sz}"
        words = [*self._snapshot_words("save"), "--name", name, "--snapshot-compress=false"]
        process.run(words, timeout_seconds=SNAPSHOT_TIMEOUT_SECONDS)
        found = [file for file in self.own_snapshots() if file.name == name or file.name.startswith(f"{name}-")]
        if len(found) != 1:
            raise CommandError(f"k3s etcd-snapshot save: expected one file {name}-… in {self.snapshot_dir}, seen "
                               f"{len(found)}")  # fmt: skip
        return found[0]

    def agreed_revision(self) -> int:
        """
        Return the datastore's revision as most of the cluster's servers agree on now: a list without a version is that.

        Raises: CommandError where they do not, or the API does not answer. Source: kubernetes.io, API concepts,
        "Semantics for get and list".
        """
        words = ["get", "--raw=/api/v1/namespaces?limit=1", f"--request-timeout={AGREED_WITHIN_SECONDS}s"]
        told = self._kubectl(*words).stdout
        try:
            return int(json.loads(told)["metadata"]["resourceVersion"])
        except (ValueError, KeyError, TypeError):
            raise CommandError(
                f"k3s kubectl {words[1]}: expected a list with its version, seen {told[:80]!r}"
            ) from None

    def own_snapshots(self) -> list[Path]:
        """Return the etcd snapshots of ours that lie on this host, oldest first; never one of K3s's or a person's."""
        return sorted(file for file in self.snapshot_dir.glob("gx-*") if OURS.fullmatch(file.name))

    def delete_snapshot(self, file: Path) -> None:
        """Delete an etcd snapshot of ours: K3s keeps on-demand ones for ever. Where K3s does not answer, its file."""
        assert OURS.fullmatch(file.name), file
        process.run([*self._snapshot_words("delete"), file.name], timeout_seconds=BRIEF_SECONDS, check=False)
        file.unlink(missing_ok=True)

    def stop_command(self) -> list[str]:
        """Return the command that stops the server; its pods go on."""
        return ["systemctl", "stop", SERVICE]

    def start_command(self) -> list[str]:
        """Return the command that starts the server; whether it came up is asked of its API."""
        return ["systemctl", "start", "--no-block", SERVICE]

    def reset_command(self, snapshot: Path, token_file: Path) -> list[str]:
        """
        Return the command that makes a new cluster of one server from an etcd snapshot and its own token.

        It has the flags of the host's own unit: K3s writes the address of etcd's member from them, and a service whose
        address is another one is no member of its own cluster.
        """
        return [
            "k3s", "server", "--cluster-reset", f"--cluster-reset-restore-path={snapshot}",
            f"--token-file={token_file}", f"--data-dir={self.data_dir}", "--etcd-s3=false",
            *k3s_unit.read(SERVICE).for_reset(),
        ]  # fmt: skip

    def reset_spelled(self, snapshot: Path, token_file: Path) -> str:
        """Spell that command as a person would type it, with the unit's variables that are no secret."""
        variables = [f"{name}={value}" for name, value in k3s_unit.read(SERVICE).shown().items()]
        return shlex.join([*(["env", *variables] if variables else []), *self.reset_command(snapshot, token_file)])

    def stop(self) -> None:
        """Stop the server and see that it is stopped; RestoreError where it is not. Stopping twice is no error."""
        process.run(self.stop_command(), timeout_seconds=300)
        state = process.run(["systemctl", "is-active", SERVICE], timeout_seconds=BRIEF_SECONDS, check=False)
        if (seen := state.stdout.decode().strip()) not in ("inactive", "failed", "unknown"):
            raise RestoreError(f"service {SERVICE}: expected inactive after stop, seen {seen!r}")

    def reset(self, snapshot: Path, token_file: Path) -> None:
        """Make the new cluster; RestoreError with K3s's last words where it did not."""
        words, variables = self.reset_command(snapshot, token_file), k3s_unit.read(SERVICE).environment()
        done = process.run(words, timeout_seconds=RESET_TIMEOUT_SECONDS, env=variables, check=False)
        if done.returncode != 0:
            raise RestoreError(
                f"k3s server --cluster-reset: expected exit status 0, seen {done.returncode}: {done.complaint()}",
                "is the token the one that belongs to this snapshot? is this K3s older than the one that saved it?",
            )

    def start(self, node: str, since: datetime, timeout_seconds: float) -> None:
        """
        Start the server and return once its API answers and its node says of itself that it is Ready.

        A restored database remembers every node as Ready: only what the node said since then (the start) counts.

        Raises: RestoreError naming what is still missing.
        """
        process.run(self.start_command(), timeout_seconds=BRIEF_SECONDS)
        deadline = time.monotonic() + timeout_seconds
        while missing := self._not_ready(node, since):
            if time.monotonic() > deadline:
                raise RestoreError(
                    f"node {node}: not Ready {timeout_seconds:g} s after the start of {SERVICE}: {missing}",
                    f"journalctl -u {SERVICE} tells why; then start the same recovery again: it goes on from here",
                )
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def objects(self, resource: str) -> dict[ObjectName, str | None]:
        """Return the objects of a resource that the API lists, in all namespaces, each with its uid."""
        words = ["--all-namespaces", "--no-headers", f"--output=custom-columns={_COLUMNS}"]
        listed = self._kubectl("get", resource, *words)
        found: dict[ObjectName, str | None] = {}
        for line in listed.stdout.decode("utf-8", "replace").splitlines():
            namespace, name, uid = (None if word == "<none>" else word for word in line.split())
            found[ObjectName(resource, namespace or "", name or "")] = uid
        return found

    def _not_ready(self, node: str, since: datetime) -> str:
        """Return what is missing until the API and the node are ready; empty: nothing."""
        answer = self._kubectl("get", "--raw=/readyz", check=False)
        if answer.returncode != 0:
            return f"the API does not answer: {answer.complaint()[-500:]}"
        answer = self._kubectl("get", "nodes", "--output=json", check=False)
        if answer.returncode != 0:
            return f"the API lists no nodes: {answer.complaint()[-500:]}"
        found = {item["metadata"]["name"]: item for item in json.loads(answer.stdout)["items"]}
        if node not in found:
            return f"no such node; there are {', '.join(sorted(found)) or 'none'}"
        for condition in found[node]["status"].get("conditions", []):
            if condition["type"] == "Ready" and condition["status"] == "True":
                heard = datetime.fromisoformat(condition["lastHeartbeatTime"])
                return "" if heard >= since else f"last heard of at {heard.isoformat()}, before the start"
        return "the node says that it is not Ready"

    def _kubectl(self, *words: str, check: bool = True) -> process.Completed:
        return process.run(["k3s", "kubectl", *words], timeout_seconds=BRIEF_SECONDS, check=check)

    def _snapshot_words(self, verb: str) -> list[str]:
        return [
            "k3s", "etcd-snapshot", verb, "--data-dir", str(self.data_dir), "--dir", str(self.snapshot_dir),
            "--s3=false",
        ]  # fmt: skip

    def _external_datastore(self) -> str:
        """Say where a datastore-endpoint is set, empty where none is; never what it is."""
        for document in self._configuration():
            if document.get("datastore-endpoint"):
                return f"datastore-endpoint in {self.config_dir}"
        for where, text in k3s_unit.read(SERVICE).texts.items():
            if re.search(r"--datastore-endpoint\b|\bK3S_DATASTORE_ENDPOINT=[^\s'\"]", text):
                return f"set in {where}"
        return ""

    def _configuration(self) -> list[dict[str, Any]]:
        files = [*sorted((self.config_dir / "config.yaml.d").glob("*.yaml"), reverse=True),
                 self.config_dir / "config.yaml"]  # fmt: skip
        documents = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
        return [document for document in documents if isinstance(document, dict)]
