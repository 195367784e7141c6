"""What every bench shares: timing fairly, keeping figures, and holding their medians against targets."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from estate import BIN

# In a process of its own: what this one used at its peak would be counted as its children's.
TOUCH = "import mmap, sys; mmap.mmap(-1, int(sys.argv[1]), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)"
MEMORY_BYTES = min(8 * 1024**3, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") // 2)


def level_ground() -> None:
    """
    Give whoever is measured next the same machine: no queue for the disk, and memory that is there.

    A virtual machine gives back what it does not use, and getting it again costs whoever comes first seconds a GiB.
    """
    os.sync()
    subprocess.run([sys.executable, "-c", TOUCH, str(MEMORY_BYTES)], check=True)


def timed(action: Callable[[], float | None]) -> float:
    """Return the wall seconds of one call, or those that it measured, on level ground."""
    level_ground()
    began = time.perf_counter()
    measured = action()
    return time.perf_counter() - began if measured is None else measured


def rotated(names: Sequence[str], number: int) -> Sequence[str]:
    """Return competitors in the order of this round: whatever the first or the last has of it, they take turns."""
    first = number % len(names)
    return [*names[first:], *names[:first]]


def shell(command: str, **extra: str) -> None:
    """Run a shell line and raise where it fails."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "PATH": path, **extra},
    )  # fmt: skip


class Figures:
    """What was measured, by name, and what it must come to."""

    def __init__(self) -> None:
        self.seen: dict[str, list[float]] = {}

    def add(self, name: str, value: float) -> None:
        """Keep one measurement."""
        self.seen.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        """Return the median of one figure."""
        return statistics.median(self.seen[name])

    def ratio(self, ours: str, theirs: str) -> float:
        """Return the ratio of two medians."""
        return self.median(ours) / self.median(theirs)

    def tell(self, number: int, runs: int) -> None:
        """Print what a round brought."""
        told = ", ".join(f"{name} {values[-1]:.1f}" for name, values in self.seen.items())
        print(f"round {number + 1} of {runs}: {told}", flush=True)

    def judge(self, file: Path, targets: dict[str, tuple[float, float]]) -> int:
        """Print the table and the targets (seen, at most), write both as JSON; 1 where one is not met."""
        print(f"\n{'what':32} {'min':>9} {'median':>9} {'max':>9}")
        for name, values in self.seen.items():
            print(f"{name:32} {min(values):9.2f} {statistics.median(values):9.2f} {max(values):9.2f}")
        print(f"\n{'target':32} {'seen':>9} {'at most':>9}")
        for name, (seen, limit) in targets.items():
            print(f"{name:32} {seen:9.2f} {limit:9.2f}  {'met' if seen <= limit else 'NOT met'}")
        result = {
            "figures": self.seen,
            "targets": {name: {"seen": seen, "limit": limit} for name, (seen, limit) in targets.items()},
        }
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        return 0 if all(seen <= limit for seen, limit in targets.values()) else 1
