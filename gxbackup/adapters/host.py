"""What a source reads from: this host's commands, its Docker Engine, the cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from gxbackup.adapters import process
from gxbackup.adapters.cluster import Cluster
from gxbackup.adapters.containers import Containers


@dataclass(frozen=True)
class Host:
    """What sources may touch; made once for a run (`tasks/host.py`). Nothing is asked before a source asks it."""

    containers: Containers
    cluster: Cluster = field(default_factory=Cluster)

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        timeout_seconds: float,
        check: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> process.Completed:
        """Run a command on this host; see `process.run`."""
        return process.run(argv, timeout_seconds=timeout_seconds, check=check, env=env)

    def start(
        self,
        argv: Sequence[str | Path],
        *,
        stdout: process.Stream = None,
        stderr: process.Stream = None,
        stdin: process.Stream = None,
        env: Mapping[str, str] | None = None,
    ) -> AbstractContextManager[process.Child]:
        """Start a command on this host; see `process.start`."""
        return process.start(argv, stdin=stdin, stdout=stdout, stderr=stderr, env=env)
