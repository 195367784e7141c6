"""
etcd's own programs: the status of a snapshot file, and a throwaway server that a snapshot is restored into.

Servers listen on Unix sockets in a private directory: what they hold are a cluster's secrets.
Source: etcd.io/docs (op-guide/recovery); `etcdutl` has what `etcdctl snapshot` had before etcd 3.6.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gxbackup.adapters import process
from gxbackup.errors import CommandError, IntegrityError, RestoreError
from gxbackup.etcd_snapshot import REGISTRY, count_objects
from gxbackup.exchange import discard

BRIEF_SECONDS = 120
RESTORE_TIMEOUT_SECONDS = 1800
START_TIMEOUT_SECONDS = 120
SECONDS_BETWEEN_LOOKS = 0.1
_ENVIRONMENT = {"ETCDCTL_API": "3"}
_NAME = "gx-rehearsal"
# Names of sockets, below the directory that the programs run in: a path would be too long for a socket.
_CLIENT, _PEER = "unix://client:0", "unix://peer:0"
_HINT = "install etcd and its client (Debian packages etcd-server and etcd-client; neither need be started)"


def status(file: Path) -> dict[str, int] | None:
    """
    Return hash, revision and keys of a snapshot as etcd's own tool sees them; None where this host has no such tool.

    Raises: IntegrityError with the tool's words where it refuses the file.
    """
    tool = _snapshot_tool()
    if tool is None:
        return None
    words = [tool, "snapshot", "status", str(file), "--write-out=json"]
    done = process.run(words, timeout_seconds=RESTORE_TIMEOUT_SECONDS, env=_ENVIRONMENT, check=False)
    if done.returncode != 0:
        raise IntegrityError(f"{file.name}: {tool}: {done.complaint()}", retryable=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return {"hash": int(told["hash"]), "revision": int(told["revision"]), "total_keys": int(told["totalKey"])}


@dataclass(frozen=True)
class ScratchEtcd:
    """A running etcd of one member that nobody else can reach."""

    folder: Path

    def revision(self) -> int:
        """Return the revision that it serves."""
        return int(json.loads(self._ask("endpoint", "status", "--write-out=json"))[0]["Status"]["header"]["revision"])

    def objects(self) -> dict[str, int]:
        """Count the Kubernetes objects that it serves."""
        return count_objects(self._ask("get", REGISTRY.decode(), "--prefix", "--keys-only").split(b"\n"))

    def answers(self) -> bool:
        """Tell whether it serves."""
        words = ["etcdctl", f"--endpoints={_CLIENT}", "--command-timeout=2s", "get", "gx-is-it-there"]
        done = process.run(words, timeout_seconds=BRIEF_SECONDS, env=_ENVIRONMENT, cwd=self.folder, check=False)
        return done.returncode == 0

    def _ask(self, *words: str) -> bytes:
        argv = ["etcdctl", f"--endpoints={_CLIENT}", "--command-timeout=60s", *words]
        return process.run(argv, timeout_seconds=BRIEF_SECONDS, env=_ENVIRONMENT, cwd=self.folder).stdout


@contextmanager
def served(snapshot: Path, area: Path) -> Iterator[ScratchEtcd]:
    """
    Restore a snapshot into a new data directory below `area` and serve it; server and directory are gone afterwards.

    Raises: IntegrityError where etcd refuses the snapshot, RestoreError where it does not come up, SetupError where
    etcd or its client is not installed.
    """
    process.find_program("etcd", _HINT)
    process.find_program("etcdctl", _HINT)
    folder = area / "scratch-etcd"
    folder.mkdir(mode=0o700)
    try:
        _restore(snapshot, folder)
        words = ["etcd", f"--name={_NAME}", "--data-dir=data", f"--listen-client-urls={_CLIENT}",
                 f"--advertise-client-urls={_CLIENT}", f"--listen-peer-urls={_PEER}", *_membership()]  # fmt: skip
        log = folder / "log"
        with (
            log.open("wb") as opened,
            process.start(words, stdout=opened, stderr=subprocess.STDOUT, cwd=folder) as etcd,
        ):
            scratch = ScratchEtcd(folder)
            deadline = time.monotonic() + START_TIMEOUT_SECONDS
            while not scratch.answers():
                if etcd.poll() is not None or time.monotonic() > deadline:
                    raise RestoreError(f"scratch etcd: does not serve {snapshot.name}: {log.read_text()[-2000:]}")
                time.sleep(SECONDS_BETWEEN_LOOKS)
            yield scratch
    finally:
        discard(folder)


def _restore(snapshot: Path, folder: Path) -> None:
    tool = _snapshot_tool()
    assert tool is not None
    words = [tool, "snapshot", "restore", str(snapshot), "--data-dir=data", f"--name={_NAME}", *_membership()]
    try:
        process.run(words, timeout_seconds=RESTORE_TIMEOUT_SECONDS, env=_ENVIRONMENT, cwd=folder)
    except CommandError as error:
        raise IntegrityError(f"{snapshot.name}: {error.message}") from None


def _membership() -> list[str]:
    # Nobody else is a member, so nobody ever dials this address.
    return ["--initial-advertise-peer-urls=http://127.0.0.1:1", f"--initial-cluster={_NAME}=http://127.0.0.1:1"]


def _snapshot_tool() -> str | None:
    return next((tool for tool in ("etcdutl", "etcdctl") if shutil.which(tool)), None)
