"""
Time a peer's ledger of 4 GiB, its second day and its restore, against `tar -czf`, on a real Kubernetes (KUBECONFIG).

The peer is a pod that appends to its volume all the time. Prints a table and writes JSON to .bench/ledger.json. Run it
with `make bench`, which starts the cluster where there is one; RUNS=3.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench_databases import IMAGE, NAMESPACE, kubectl
from bench_figures import Figures, level_ground, rotated, shell, timed
from estate import PROJECT, Estate, estate, fresh

ROOT = PROJECT / ".bench" / "ledger"
MOUNT = "/var/hyperledger/production"
CHAIN = "ledgersData/chains/chains/gxchannel"
LEDGER_MIB = int(os.environ.get("GX_BENCH_LEDGER_MIB", "4096"))
GROWTH_MIB = LEDGER_MIB // 50
WRITES = f"while :; do echo tick >>{MOUNT}/ticks; sleep 0.05; done"


def _peer() -> dict[str, Any]:
    labels = {"app": "peer0", "tier": "peer"}
    container = {
        "name": "peer", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["bash", "-c", WRITES],
        "volumeMounts": [{"name": "data", "mountPath": MOUNT}],
    }  # fmt: skip
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "100Mi"}}}
    return {
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "peer0"},
        "spec": {
            "serviceName": "peer0", "replicas": 1, "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
            },
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}],
        },
    }  # fmt: skip


@contextmanager
def running_peer() -> Iterator[tuple[Path, str]]:
    """Give the folder that the peer's volume is, and its node's name; all is gone after the block."""
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
    kubectl("create", "namespace", NAMESPACE)
    folder: Path | None = None
    try:
        kubectl("apply", "-n", NAMESPACE, "-f", "-", stdin=json.dumps(_peer()))
        kubectl("rollout", "status", "-n", NAMESPACE, "statefulset/peer0", "--timeout=180s")
        node = kubectl("get", "pod", "-n", NAMESPACE, "peer0-0", "-o", "jsonpath={.spec.nodeName}")
        volume = kubectl("get", "pvc", "-n", NAMESPACE, "data-peer0-0", "-o", "jsonpath={.spec.volumeName}")
        folder = Path(kubectl("get", "pv", volume, "-o", "jsonpath={.spec.hostPath.path}"))
        yield folder, node
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")
        if folder is not None:
            shutil.rmtree(folder.parent / f".gxbackup-frozen-{folder.name}", ignore_errors=True)


class Competitors:
    """Ours, and tar on the volume's folder."""

    def __init__(self, place: Estate, volume: Path) -> None:
        self.place = place
        self.volume = volume

    def piece(self, *words: str | Path) -> dict[str, float]:
        """Run one piece of ours in a process of its own."""
        done = self.place.run(sys.executable, "scripts/bench_pieces.py", *words, timeout_seconds=3600)
        told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return told

    def tar_full(self) -> None:
        """Compress all of it in one go."""
        shell(f"tar -czf {ROOT}/full.tar.gz --exclude=./ticks -C {self.volume} .")

    def tar_restore(self) -> None:
        """Unpack what `tar_full` wrote."""
        shell(f"mkdir {ROOT}/unpacked; tar -xzf {ROOT}/full.tar.gz -C {ROOT}/unpacked")


def measure(runs: int) -> Figures:
    """Run every competitor in turn, `runs` times."""
    figures = Figures()
    with running_peer() as (volume, node):

        def edit(document: dict[str, Any]) -> None:
            promise = document["servers"]["vps3"]["data_types"]["peer-ledger"]
            promise["source"].update(namespace=NAMESPACE, node=node)
            document["servers"]["vps3"]["data_types"] = {"peer-ledger": promise}

        with estate(ROOT / "estate", edit) as place:
            competitors = Competitors(place, volume)
            ours = ("vps3", "peer-ledger")
            for number in range(runs):
                shutil.rmtree(volume / "ledgersData", ignore_errors=True)
                shutil.rmtree(volume.parent / f".gxbackup-frozen-{volume.name}", ignore_errors=True)
                shutil.rmtree(place.remote, ignore_errors=True)
                shutil.rmtree(ROOT / "unpacked", ignore_errors=True)
                first, second = ROOT / f"first-{number}.json", ROOT / f"second-{number}.json"
                competitors.piece("blocks", volume / CHAIN, str(LEDGER_MIB))
                for name in rotated(("tar", "ours"), number):
                    if name == "tar":
                        figures.add("tar -czf of all", timed(competitors.tar_full))
                        continue
                    level_ground()
                    told = competitors.piece("backup", *ours, first)
                    figures.add("gx first day", told["seconds"])
                    figures.add("gx memory, MiB", told["memory_mib"])
                    figures.add("stood still", told["stood_still_seconds"])
                competitors.piece("blocks", volume / CHAIN, str(GROWTH_MIB))
                level_ground()
                told = competitors.piece("backup", *ours, second, first)
                figures.add("gx second day", told["seconds"])
                figures.add("stood still", told["stood_still_seconds"])
                figures.add("second day, MiB sent", told["sent_mib"])
                for name in rotated(("tar", "ours"), number):
                    if name == "tar":
                        figures.add("tar -xzf of all", timed(competitors.tar_restore))
                    else:
                        level_ground()
                        figures.add("gx restore of both", competitors.piece("restore", *ours, first, second)["seconds"])
                figures.tell(number, runs)
    return figures


def main() -> int:
    """Measure, print the table with its targets, and write the JSON; 1 where a target is not met."""
    fresh(ROOT)
    figures = measure(int(os.environ.get("RUNS", "3")))
    targets = {
        "first day / tar -czf": (figures.ratio("gx first day", "tar -czf of all"), 0.2),
        "second day / tar -czf": (figures.ratio("gx second day", "tar -czf of all"), 0.1),
        "second day, sent / growth": (figures.median("second day, MiB sent") / GROWTH_MIB, 1.1),
        "stood still, s": (max(figures.seen["stood still"]), 2.0),
        "restore / tar -xzf": (figures.ratio("gx restore of both", "tar -xzf of all"), 1.0),
        "memory, MiB": (figures.median("gx memory, MiB"), 250.0),
    }
    return figures.judge(PROJECT / ".bench" / "ledger.json", targets)


if __name__ == "__main__":
    sys.exit(main())
