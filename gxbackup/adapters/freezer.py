"""
A pod's processes stand still for a moment, by the kernel's freezer, and always go on again.

A process of its own freezes and thaws: it outlives a worker that is killed, and thaws when the worker's end of a pipe
is gone, or after a limit. It leaves the worker's control group, so that killing all of that does not kill it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gxbackup.adapters import process
from gxbackup.errors import CollectError, CommandError, SetupError

CGROUPS = Path("/sys/fs/cgroup")
LIMIT_SECONDS = 10
_WATCHDOG = """file=$1 on=$2 off=$3 seen=$4 word=$5 seconds=$6 root=$7
trap : TERM INT HUP
for procs in "$root/cgroup.procs" "$root/systemd/cgroup.procs" "$root/unified/cgroup.procs"; do
    [ ! -w "$procs" ] || echo $$ >"$procs"
done 2>/dev/null
if echo "$on" >"$file"; then
    tries=0
    until grep -q "$word" "$seen" || [ "$tries" -ge 100 ]; do tries=$((tries + 1)); sleep 0.02; done
    if grep -q "$word" "$seen"; then echo frozen; timeout "$seconds" cat >/dev/null; status=$?; else status=1; fi
    until echo "$off" >"$file"; do [ -e "$file" ] || { status=1; break; }; sleep 0.1; done
    [ "$status" -ne 0 ] || echo thawed
fi"""


@dataclass(frozen=True)
class _Freezer:
    file: Path
    on: str
    off: str
    seen: Path
    word: str


@contextmanager
def frozen(pod_uid: str, label: str, limit_seconds: float = LIMIT_SECONDS) -> Iterator[None]:
    """
    Stop all processes of a pod on this host for the length of the block.

    Raises: SetupError where this host has no control group of that pod; CollectError (retryable) where the pod would
    not freeze, or went on before the block ended, because that took longer than the limit: what was read is not of one
    moment.
    """
    root = CGROUPS
    found = _find(pod_uid, label, root)
    words = [str(found.file), found.on, found.off, str(found.seen), found.word, str(limit_seconds), str(root)]
    # setsid forks: the watchdog is nobody's child, and no signal to the worker's group or thread reaches it.
    with process.start(
        ["setsid", "sh", "-c", _WATCHDOG, "sh", *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as watchdog:  # fmt: skip
        assert watchdog.stdin
        assert watchdog.stdout
        if watchdog.stdout.readline() != b"frozen\n":
            raise CollectError(f"{label}: its processes would not stand still", retryable=True)
        try:
            yield
        finally:
            watchdog.stdin.close()
            last = watchdog.stdout.readline()
        if last != b"thawed\n":
            raise CommandError(
                f"{label}: went on before all was read, or its pod was removed: {limit_seconds:g} s are the limit"
            )


def control_group(pod_uid: str, label: str) -> Path:
    """Return the control group of a pod on this host, which holds those of its containers. Raises: SetupError."""
    return _find(pod_uid, label, CGROUPS).file.parent


def processes(group: Path) -> frozenset[int]:
    """Return the processes of a control group and of those below it now."""
    found: set[int] = set()
    for listed in group.rglob("cgroup.procs"):
        with suppress(OSError):  # a container's group that is gone by now
            found.update(map(int, listed.read_text().split()))
    return frozenset(found)


def _find(pod_uid: str, label: str, root: Path) -> _Freezer:
    names = (f"pod{pod_uid}", f"pod{pod_uid.replace('-', '_')}")
    tops = [root / "freezer", root] if (root / "freezer").is_dir() else [root]
    for top in tops:
        for folder, below, _ in os.walk(top):
            here = Path(folder)
            if here == top:
                below[:] = [name for name in below if "kubepods" in name or name in ("kubelet", "kubelet.slice")]
            for name in below:
                if name.removesuffix(".slice").endswith(names):
                    group = here / name
                    if (group / "freezer.state").exists():
                        state = group / "freezer.state"
                        return _Freezer(state, "FROZEN", "THAWED", state, "^FROZEN")
                    if (group / "cgroup.freeze").exists():
                        return _Freezer(group / "cgroup.freeze", "1", "0", group / "cgroup.events", "^frozen 1")
    raise SetupError(
        f"{label}: expected its control group below {root}, seen none",
        "its volume is read on the node that runs it; is the entry's `node` this host?",
    )
