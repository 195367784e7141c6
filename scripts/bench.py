"""
Time GX backup against the strategy's own steps, restic, borg and the bare pipeline, on the same data in one run.

Prints a table and writes JSON to .bench/website.json. Every figure is a whole process, wall time; each round runs all
competitors once, in turn, so that a machine whose speed drifts does so for all. Run it with `make bench`; RUNS=3.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench_figures import Figures, rotated, shell, timed
from estate import PROJECT, Estate, estate, fresh

ROOT = PROJECT / ".bench"
DATA = ROOT / "data"
STAGED = ROOT / "strategy-staging"
KEY = "GX_BENCH_PASSWORD"
SIZES_GIB = (1, 20)
NAMES = {
    "deployment": "gx deployment run", "strategy_restore": "strategy restore", "floor_restore": "floor restore",
    "restore": "gx restore",
}  # fmt: skip


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
        done = self.place.run(sys.executable, "scripts/bench_pieces.py", "backup", "vps1", "website")
        measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return measured

    def memory_mib(self, size_gib: int) -> float:
        """Memory over idle for so many generated GiB."""
        done = self.place.run(sys.executable, "scripts/bench_pieces.py", "memory", str(size_gib))
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
        done = self.place.run(sys.executable, "scripts/bench_pieces.py", "last-run", name)
        measured = float(json.loads(done.stdout.splitlines()[-1])["seconds"])
        assert measured <= whole
        return measured


def measure(runs: int) -> Figures:
    """Run every competitor in turn, `runs` times."""
    figures = Figures()
    with estate(ROOT / "estate", _inventory) as place:
        place.start_server()
        place.deploy()
        place.start_worker("vps1")
        competitors = Competitors(place)
        for size_gib in SIZES_GIB:
            figures.add(f"gx memory at {size_gib} GiB, MiB", competitors.memory_mib(size_gib))
        for number in range(runs):
            for folder in ("strategy-remote", "restic", "borg", "floor", "estate/remote"):
                shutil.rmtree(ROOT / folder, ignore_errors=True)
            shutil.rmtree(place.staging / "last-written", ignore_errors=True)
            for name in rotated(("strategy", "restic", "borg", "floor", "pipeline", "deployment"), number):
                if name == "pipeline":
                    inside = competitors.pipeline()
                    figures.add("gx capture to verify", inside["seconds"])
                    figures.add("gx memory over idle, MiB", inside["memory_mib"])
                else:
                    figures.add(NAMES.get(name, name), timed(getattr(competitors, name)))
            for name in rotated(("strategy_restore", "floor_restore", "restore"), number):
                for folder in ("strategy-fetched", "strategy-restored", "floor-restored", "restored"):
                    shutil.rmtree(ROOT / folder, ignore_errors=True)
                figures.add(NAMES[name], timed(getattr(competitors, name)))
            figures.tell(number, runs)
    return figures


def main() -> int:
    """Measure, print the table with its targets, and write the JSON; 1 where a target is not met."""
    fresh(ROOT)
    make_data(DATA)
    figures = measure(int(os.environ.get("RUNS", "3")))
    ratio = figures.ratio
    targets = {
        "capture to verify / floor": (ratio("gx capture to verify", "floor"), 1.2),
        "deployment run / strategy": (ratio("gx deployment run", "strategy"), 0.25),
        "deployment run / restic": (ratio("gx deployment run", "restic"), 1.0),
        "deployment run / borg": (ratio("gx deployment run", "borg"), 1.0),
        "restore / strategy": (ratio("gx restore", "strategy restore"), 1.0),
        "memory over idle, MiB": (figures.median("gx memory over idle, MiB"), 250.0),
        **{
            f"memory at {size} GiB, MiB": (figures.median(f"gx memory at {size} GiB, MiB"), 250.0) for size in SIZES_GIB
        },
    }
    return figures.judge(ROOT / "website.json", targets)


if __name__ == "__main__":
    sys.exit(main())
