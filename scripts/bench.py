"""
Time GX backup against the strategy's own steps, restic, borg and the bare pipeline, on the same data in one run.

Prints a table and writes JSON to .bench/result.json. Every figure is a whole process, wall time; each round runs all
competitors once, in turn, so that a machine whose speed drifts does so for all. Run it with `make bench`; RUNS=3.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from estate import BIN, PROJECT, Estate, estate, fresh

ROOT = PROJECT / ".bench"
DATA = ROOT / "data"
STAGED = ROOT / "strategy-staging"
KEY = "GX_BENCH_PASSWORD"
SIZES_GIB = (1, 20)
RESTORES = {"strategy_restore": "strategy restore", "floor_restore": "floor restore", "restore": "gx restore"}


def make_data(root: Path) -> None:
    """Write 0.7 GiB of website (17,000 files, a third of them incompressible) and 1 GiB that is half compressible."""
    rng = random.Random(7)
    words = [bytes(rng.choice(b"abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 11))) for _ in range(4000)]
    text = b" ".join(rng.choice(words) for _ in range(200_000))
    for number in range(17_000):
        folder = root / "website" / f"section-{number % 170:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        size = int(rng.expovariate(1 / 44_000)) + 100
        start = rng.randrange(len(text) - 1)
        body = rng.randbytes(size) if number % 3 == 0 else (text[start:] + text * (size // len(text) + 1))[:size]
        (folder / f"file-{number:05d}").write_bytes(body)
    (root / "half").mkdir()
    with (root / "half" / "blob.bin").open("wb") as blob:
        for _ in range(1024):
            start = rng.randrange(len(text) - 512 * 1024)
            blob.write(rng.randbytes(512 * 1024))
            blob.write(text[start : start + 512 * 1024])


def _inventory(document: dict[str, Any]) -> None:
    website = document["servers"]["vps1"]["data_types"]["website"]
    website["source"]["root"] = str(DATA)
    document["servers"]["vps1"]["data_types"] = {"website": website}


def timed(action: Callable[[], float | None]) -> float:
    """Return the wall seconds of one call, or those that it measured; the disk's queue is written out before it."""
    os.sync()
    began = time.perf_counter()
    measured = action()
    return time.perf_counter() - began if measured is None else measured


def _in_turn(names: Sequence[str], number: int) -> Sequence[str]:
    first = number % len(names)
    return [*names[first:], *names[:first]]


def shell(command: str, **extra: str) -> None:
    """Run a shell line and raise where it fails."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "PATH": path, **extra},
    )  # fmt: skip


class Competitors:
    """Each way to get the data onto a local remote, and back."""

    def __init__(self, place: Estate) -> None:
        self.place = place
        self.recipients = [
            subprocess.run(["age-keygen", "-y", place.root / "keys" / f"{name}.txt"], check=True, text=True,
                           stdout=subprocess.PIPE).stdout.strip()
            for name in ("recovery", "rehearsal")
        ]  # fmt: skip
        self.password = {
            "RESTIC_PASSWORD": KEY,
            "BORG_PASSPHRASE": KEY,
            "RCLONE_CONFIG": str(place.root / "rclone.conf"),
        }

    def strategy(self) -> None:
        """Steps 1, 5 and 6 of backup-vps1.sh."""
        shell(
            f"mkdir -p {STAGED}; tar -czf {STAGED}/website.tar.gz -C {DATA.parent} {DATA.name}; "
            f"rclone copy {STAGED} {ROOT}/strategy-remote/now/; rm -rf {STAGED}", **self.password,
        )  # fmt: skip

    def restic(self) -> None:
        """Into a new repository."""
        shell(f"restic init -r {ROOT}/restic; restic -r {ROOT}/restic backup {DATA}", **self.password)

    def borg(self) -> None:
        """Into a new, encrypted repository."""
        shell(f"borg init -e repokey-blake2 {ROOT}/borg; borg create {ROOT}/borg::now {DATA}", **self.password)

    def floor(self) -> None:
        """The pipeline with nothing around it."""
        words = " ".join(f"-r {recipient}" for recipient in self.recipients)
        (ROOT / "floor").mkdir()
        shell(f"tar -C {DATA} -cf - . | zstd -3 -T0 -q | age {words} > {ROOT}/floor/data.tar.zst.age")

    def pipeline(self) -> dict[str, float]:
        """Ours from capture to remote verify, in a process of its own that is warm: seconds and memory over idle."""
        done = self.place.run(sys.executable, "scripts/bench_pipeline.py", "vps1", "website")
        measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return measured

    def memory_mib(self, size_gib: int) -> float:
        """Memory over idle for so many generated GiB."""
        done = self.place.run(sys.executable, "scripts/bench_pipeline.py", "--memory", str(size_gib))
        return float(json.loads(done.stdout.splitlines()[-1])["memory_mib"])

    def deployment(self) -> float:
        """The whole deployment run, from the moment it was asked for to its end: Prefect's own start included."""
        return self._deployment_seconds("backup-vps1")

    def strategy_restore(self) -> None:
        """Steps 2 and 3 of "Restore Website"."""
        target = fresh(ROOT / "strategy-restored")
        shell(
            f"rclone copy {ROOT}/strategy-remote/now/ {ROOT}/strategy-fetched/; "
            f"tar -xzf {ROOT}/strategy-fetched/website.tar.gz -C {target}", **self.password,
        )  # fmt: skip

    def floor_restore(self) -> None:
        """The pipeline backwards, nothing checked first."""
        target = fresh(ROOT / "floor-restored")
        shell(f"age -d -i {self.place.identity} {ROOT}/floor/data.tar.zst.age | zstd -dc | tar -xf - -C {target}")

    def restore(self) -> float:
        """Ours to a new place by deployment run: signature, both hashes and evidence checked."""
        return self._deployment_seconds("restore-website", "-p", "mode=scratch", "-p", f"target={ROOT / 'restored'}")

    def _deployment_seconds(self, name: str, *words: str) -> float:
        began = time.perf_counter()
        self.place.run_deployment(name, *words)
        whole = time.perf_counter() - began
        done = self.place.run(sys.executable, "scripts/bench_pipeline.py", "--last-run", name)
        measured = float(json.loads(done.stdout.splitlines()[-1])["seconds"])
        assert measured <= whole
        return measured


def measure(runs: int) -> dict[str, list[float]]:
    """Run every competitor in turn, `runs` times, and return the seconds of each."""
    seconds: dict[str, list[float]] = {}
    with estate(ROOT / "estate", _inventory) as place:
        place.start_server()
        place.deploy()
        place.start_worker("vps1")
        all_of_them = Competitors(place)
        for size_gib in SIZES_GIB:
            seconds[f"gx memory at {size_gib} GiB, MiB"] = [all_of_them.memory_mib(size_gib)]
        for number in range(runs):
            for folder in ("strategy-remote", "strategy-fetched", "restic", "borg", "floor", "estate/remote"):
                shutil.rmtree(ROOT / folder, ignore_errors=True)
            shutil.rmtree(place.staging / "last-written", ignore_errors=True)
            for name in ("strategy", "restic", "borg", "floor"):
                seconds.setdefault(name, []).append(timed(getattr(all_of_them, name)))
            inside = all_of_them.pipeline()
            seconds.setdefault("gx capture to verify", []).append(inside["seconds"])
            seconds.setdefault("gx memory over idle, MiB", []).append(inside["memory_mib"])
            seconds.setdefault("gx deployment run", []).append(timed(all_of_them.deployment))
            # Memory that a virtual machine gave back costs to get again, so who comes first is served best: take turns.
            for name in _in_turn(("strategy_restore", "floor_restore", "restore"), number):
                for folder in ("strategy-fetched", "strategy-restored", "floor-restored", "restored"):
                    shutil.rmtree(ROOT / folder, ignore_errors=True)
                seconds.setdefault(RESTORES[name], []).append(timed(getattr(all_of_them, name)))
            print(
                f"round {number + 1} of {runs}: " + ", ".join(f"{k} {v[-1]:.1f}" for k, v in seconds.items()),
                flush=True,
            )
    return seconds


def main() -> int:
    """Measure, print the table with its targets, and write the JSON; 1 where a target is not met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=int(os.environ.get("RUNS", "3")))
    runs = parser.parse_args().runs
    fresh(ROOT)
    make_data(DATA)
    seconds = measure(runs)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    ours, whole, back = median["gx capture to verify"], median["gx deployment run"], median["gx restore"]
    targets = {
        "capture to verify / floor": (ours / median["floor"], 1.2),
        "deployment run / strategy": (whole / median["strategy"], 0.25),
        "deployment run / restic": (whole / median["restic"], 1.0),
        "deployment run / borg": (whole / median["borg"], 1.0),
        "restore / strategy": (back / median["strategy restore"], 1.0),
        "memory over idle, MiB": (median["gx memory over idle, MiB"], 250.0),
        **{f"memory at {size} GiB, MiB": (median[f"gx memory at {size} GiB, MiB"], 250.0) for size in SIZES_GIB},
    }
    print(f"\n{'what':28} {'min':>8} {'median':>8} {'max':>8}")
    for name, values in seconds.items():
        print(f"{name:28} {min(values):8.1f} {statistics.median(values):8.1f} {max(values):8.1f}")
    print(f"\n{'target':28} {'seen':>8} {'at most':>8}")
    for name, (seen, limit) in targets.items():
        print(f"{name:28} {seen:8.2f} {limit:8.2f}  {'met' if seen <= limit else 'NOT met'}")
    result = {
        "runs": runs,
        "seconds": seconds,
        "targets": {k: {"seen": s, "limit": m} for k, (s, m) in targets.items()},
    }
    (ROOT / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if all(seen <= limit for seen, limit in targets.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
