"""
Time PostgreSQL, pod streams and CouchDB against the strategy's own commands, on a real Kubernetes (KUBECONFIG).

Fills a PostgreSQL in a pod of its own with 2 GiB of pgbench's tables and indexes. Prints a table and writes JSON to
.bench/databases.json. Run it with `make bench`, which starts the cluster where there is one; RUNS=3.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from bench_figures import Figures, level_ground, rotated, shell, timed
from bench_pieces import fill_couchdb
from estate import PROJECT, Estate, estate, fresh

from gxbackup.scratch.couchdb import scratch_couchdb

COUCHDB_PROGRAMS = PROJECT / ".cache" / "couchdb_server" / "node_modules" / ".bin"
ROOT = PROJECT / ".bench" / "databases"
NAMESPACE = "gx-bench"
POD = "postgres-0"
DATABASE = "bench"
# pgbench's scale: tables, their keys and one more index come to 2 GiB.
SCALE = int(os.environ.get("GX_BENCH_SCALE", "122"))
RANDOM_MIB = 512
KEPT = ROOT / "kept.json"
IN_POD = "/var/lib/postgresql/data"
COUCHDB_DOCUMENTS = int(os.environ.get("GX_BENCH_DOCUMENTS", "100000"))
IMAGE = os.environ.get("GX_BENCH_IMAGE", "gx-test/base:1")


def kubectl(*words: str, stdin: str | None = None) -> str:
    """Run kubectl and return what it printed."""
    done = subprocess.run(["kubectl", *words], input=stdin, text=True, stdout=subprocess.PIPE, check=True)
    return done.stdout


def _pod() -> dict[str, Any]:
    environment = {"PGDATA": "/var/lib/postgresql/data/pgdata", "POSTGRES_PASSWORD": "bench", "GX_SIZE_MB": "0"}
    container = {
        "name": "postgres", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["gx-postgres"],
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "readinessProbe": {"exec": {"command": ["pg_isready", "-q", "-h", "127.0.0.1"]}},
        "volumeMounts": [{"name": "data", "mountPath": "/var/lib/postgresql/data"}],
    }  # fmt: skip
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": POD},
        "spec": {
            "containers": [container], "terminationGracePeriodSeconds": 1,
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    }  # fmt: skip


@contextmanager
def filled_pod() -> Iterator[None]:
    """Give a namespace with a filled PostgreSQL and a file to stream, gone after the block."""
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
    kubectl("create", "namespace", NAMESPACE)
    try:
        kubectl("apply", "-n", NAMESPACE, "-f", "-", stdin=yaml.safe_dump(_pod()))
        kubectl("wait", "-n", NAMESPACE, "--for=condition=Ready", f"pod/{POD}", "--timeout=180s")
        _psql("CREATE DATABASE bench", "postgres")
        _in_pod(f"pgbench -U postgres -q -i -I dtGp --foreign-keys -s {SCALE} {DATABASE}")
        _psql("CREATE INDEX ON pgbench_accounts (bid, abalance)")
        _psql("VACUUM (ANALYZE, PARALLEL 0); CHECKPOINT")
        _in_pod(f"pg_dump -U postgres -Fc -Z0 -f {IN_POD}/dump {DATABASE}")
        _in_pod(f"head -c {RANDOM_MIB}M /dev/urandom >{IN_POD}/random")
        yield
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def _in_pod(command: str) -> str:
    return kubectl("exec", "-n", NAMESPACE, POD, "--", "sh", "-c", command)


def _psql(sql: str, database: str = DATABASE) -> str:
    words = ["psql", "-XqAtU", "postgres", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-"]
    return kubectl("exec", "-i", "-n", NAMESPACE, POD, "--", *words, stdin=sql)


class Competitors:
    """Each way to get the database, or a plain stream, out of the pod, and back."""

    def __init__(self, place: Estate) -> None:
        self.place = place
        self.rclone = {"RCLONE_CONFIG": str(place.root / "rclone.conf")}

    def peer(self) -> None:
        """The strategy's dump and copy."""
        shell(
            f"mkdir -p {ROOT}/peer-staging; "
            f"kubectl exec -n {NAMESPACE} {POD} -- pg_dumpall -U postgres > {ROOT}/peer-staging/all.sql; "
            f"rclone copy {ROOT}/peer-staging {ROOT}/peer-remote; rm -r {ROOT}/peer-staging", **self.rclone,
        )  # fmt: skip

    def peer_restore(self) -> None:
        """The strategy's fetch, kubectl cp and psql -f."""
        shell(
            f"rclone copy {ROOT}/peer-remote {ROOT}/peer-fetched; "
            f"kubectl cp {ROOT}/peer-fetched/all.sql {NAMESPACE}/{POD}:/tmp/all.sql; "
            f"kubectl exec -n {NAMESPACE} {POD} -- psql -q -U postgres -f /tmp/all.sql; "
            f"kubectl exec -n {NAMESPACE} {POD} -- rm /tmp/all.sql", **self.rclone,
        )  # fmt: skip

    def floor_restore(self) -> None:
        """What the server alone takes for it: an archive that lies beside it already, by all its processors."""
        _psql(f"CREATE DATABASE {DATABASE}", "postgres")
        _in_pod(f"pg_restore -U postgres -d {DATABASE} --jobs=2 {IN_POD}/dump")

    def kubectl_stream(self, name: str) -> None:
        """What kubectl exec reads of a large file."""
        shell(f"kubectl exec -n {NAMESPACE} {POD} -- cat {IN_POD}/{name}")

    def measured(self, *words: str) -> dict[str, float]:
        """Run one piece of ours in a process of its own."""
        done = self.place.run(sys.executable, "scripts/bench_pieces.py", *words, timeout_seconds=3600)
        told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return told


def _inventory(document: dict[str, Any]) -> None:
    promise = document["servers"]["mainnet"]["data_types"]["postgres-mainnet"]
    promise["source"].update(namespace=NAMESPACE, pod=POD)
    document["servers"]["mainnet"]["data_types"] = {"postgres-mainnet": promise}


def _couchdb_inventory(url: str, document: dict[str, Any]) -> None:
    promise = document["servers"]["mainnet"]["data_types"]["couchdb-fabric"]
    promise["source"] = {"kind": "couchdb", "url": url}
    document["servers"]["mainnet"]["data_types"] = {"couchdb-fabric": promise}


def _size_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _empty_the_database() -> None:
    names = _psql("SELECT datname FROM pg_database WHERE datname ~ '^bench'", "postgres").split()
    _psql("".join(f"DROP DATABASE {name} WITH (FORCE);\n" for name in names) + "CHECKPOINT;\n", "postgres")


def measure(runs: int) -> Figures:
    """Run every competitor in turn, `runs` times."""
    figures = Figures()
    with estate(ROOT / "estate", _inventory) as place, filled_pod():
        competitors = Competitors(place)
        figures.add("database, GiB", float(_psql(f"SELECT pg_database_size('{DATABASE}')")) / 1024**3)
        for number in range(runs):
            _backups(competitors, figures, number)
            _restores(competitors, figures, number)
            _streams(competitors, figures, number)
            figures.tell(number, runs)
        measure_unchanged(place, figures)
    measure_couchdb(figures, runs)
    return figures


def measure_unchanged(place: Estate, figures: Figures) -> None:
    """Run the six-hourly flow twice: what the second adds to the remote, its manifest and page included."""
    shutil.rmtree(place.remote, ignore_errors=True)
    for name in ("gx 6-hourly, first, MiB", "gx 6-hourly, nothing changed, MiB"):
        before = _size_bytes(place.remote)
        place.flow("backup_mainnet_incremental", host="vps3")
        figures.add(name, (_size_bytes(place.remote) - before) / 1024**2)


def measure_couchdb(figures: Figures, runs: int) -> None:
    """Time documents out and in, `runs` times; then a backup and a restore over what is there, for their memory."""
    os.environ["PATH"] = f"{COUCHDB_PROGRAMS}{os.pathsep}{os.environ['PATH']}"
    ours, kept = ("mainnet", "couchdb-fabric"), str(ROOT / "couchdb.json")
    with scratch_couchdb(fresh(ROOT / "couchdb-server"), None) as server:
        url = server.client.name.removeprefix("CouchDB ")
        with estate(ROOT / "couchdb-estate", partial(_couchdb_inventory, url)) as place:
            competitors = Competitors(place)
            for number in range(runs):
                folder = fresh(ROOT / "couchdb")
                for name, value in competitors.measured("couchdb", str(COUCHDB_DOCUMENTS), str(folder)).items():
                    figures.add(f"CouchDB {name}", value)
                figures.tell(number, runs)
            fill_couchdb(server.client, COUCHDB_DOCUMENTS)
            figures.add("CouchDB backup memory, MiB", competitors.measured("backup", *ours, kept)["memory_mib"])
            figures.add("CouchDB restore memory, MiB", competitors.measured("restore", *ours, kept)["memory_mib"])


def _backups(competitors: Competitors, figures: Figures, number: int) -> None:
    ours, theirs = ROOT / "estate" / "remote" / "mainnet", ROOT / "peer-remote"
    for folder in (ours, theirs):
        shutil.rmtree(folder, ignore_errors=True)
    for name in rotated(("peer", "ours"), number):
        if name == "peer":
            figures.add("peer backup", timed(competitors.peer))
            continue
        level_ground()
        told = competitors.measured("backup", "mainnet", "postgres-mainnet", str(KEPT))
        figures.add("gx backup", told["seconds"])
        figures.add("gx backup memory, MiB", told["memory_mib"])
    figures.add("gx bytes / peer bytes", _size_bytes(ours) / _size_bytes(theirs))


def _restores(competitors: Competitors, figures: Figures, number: int) -> None:
    rows = _psql("SELECT count(*) FROM pgbench_accounts")
    for name in rotated(("peer", "ours", "floor"), number):
        shutil.rmtree(ROOT / "peer-fetched", ignore_errors=True)
        _empty_the_database()
        if name == "peer":
            figures.add("peer restore", timed(competitors.peer_restore))
        elif name == "floor":
            figures.add("server's own restore", timed(competitors.floor_restore))
        else:
            level_ground()
            told = competitors.measured("restore", "mainnet", "postgres-mainnet", str(KEPT))
            figures.add("gx restore", told["seconds"])
            figures.add("gx restore memory, MiB", told["memory_mib"])
        assert _psql("SELECT count(*) FROM pgbench_accounts") == rows


def _streams(competitors: Competitors, figures: Figures, number: int) -> None:
    for data in ("dump", "random"):
        for name in rotated(("kubectl", "ours"), number):
            if name == "kubectl":
                figures.add(f"kubectl exec, {data}", timed(partial(competitors.kubectl_stream, data)))
            else:
                told = competitors.measured("stream", NAMESPACE, POD, f"{IN_POD}/{data}")
                figures.add(f"gx stream, {data}", told["seconds"])


def main() -> int:
    """Measure, print the table with its targets, and write the JSON; 1 where a target is not met."""
    fresh(ROOT)
    figures = measure(int(os.environ.get("RUNS", "3")))
    ratio, median = figures.ratio, figures.median
    targets = {
        "PostgreSQL backup / peer": (ratio("gx backup", "peer backup"), 0.7),
        "PostgreSQL bytes / peer": (median("gx bytes / peer bytes"), 0.3),
        "PostgreSQL restore / peer": (ratio("gx restore", "peer restore"), 0.7),
        "pod stream / kubectl exec": (ratio("gx stream, dump", "kubectl exec, dump"), 1 / 1.5),
        "memory, backup, MiB": (median("gx backup memory, MiB"), 350.0),
        "memory, restore, MiB": (median("gx restore memory, MiB"), 350.0),
        "6-hourly, nothing changed, MiB": (median("gx 6-hourly, nothing changed, MiB"), 1.0),
        "CouchDB backup memory, MiB": (median("CouchDB backup memory, MiB"), 350.0),
        "CouchDB restore memory, MiB": (median("CouchDB restore memory, MiB"), 350.0),
        "CouchDB out, s per 1000 documents": (median("CouchDB out, s per 1000"), 1 / 3),
        "CouchDB in, s per 1000 documents": (median("CouchDB in, s per 1000"), 1 / 3),
    }
    return figures.judge(PROJECT / ".bench" / "databases.json", targets)


if __name__ == "__main__":
    sys.exit(main())
