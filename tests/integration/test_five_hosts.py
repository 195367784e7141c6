"""Five hosts, each with a worker, a network, a staging directory and a key of its own, on one real Prefect server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
import yaml
from estate import HOSTS, Estate, await_condition, end

from tests.integration.host_networks import HostNetworks, host_networks
from tests.integration.k3s_hosts import K3sHost
from tests.integration.postgres_server import PASSWORD, running_server

K3S_SERVERS = ("vps3", "vps4", "vps5")
FOLDERS = {"vps1": "vps1-website", "vps2": "vps2-devtest", **{name: f"mainnet-{name}" for name in K3S_SERVERS}}
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
CAPTURE = """
from prefect import flow
from flows.recipes import back_up
@flow
def capture():
    return back_up("mainnet", ["etcd-snapshots"])
capture()
"""


class FiveHosts(Estate):
    """An estate whose hosts share nothing but the remote and the Prefect server."""

    def __init__(self, root: Path, networks: HostNetworks) -> None:
        super().__init__(root)
        self.networks = networks
        self.k3s: dict[str, K3sHost] = {}
        self.workers: dict[str, subprocess.Popen[bytes]] = {}

    def settings(self, name: str) -> dict[str, str]:
        """Return what differs on this host: inventory, staging, Prefect's home, programs."""
        home = self.root / "hosts" / name
        settings = {"GX_STAGING_DIR": str(home / "staging"), "PREFECT_HOME": str(home / "prefect")}
        if name in self.k3s:
            settings |= {"GX_INVENTORY": str(home / "inventory.yaml"), "PATH": self.k3s[name].path}
            settings["PATH"] = f"{Path(sys.executable).parent}:{settings['PATH']}"
        return settings

    def make_hosts(self) -> None:
        """Make the inventory: some files on each host, and the datastore of the three K3s servers."""
        for name in K3S_SERVERS:
            joins = self.k3s.get(K3S_SERVERS[0])
            self.k3s[name] = K3sHost(self.root / "hosts" / name / "k3s", name, joins=joins)

        def edit(document: dict[str, Any]) -> None:
            promise = {"rpo_hours": 24, "keep_days": 30, "restore_flow": "restore-host-config"}
            for name in HOSTS:
                files = self.root / "hosts" / name / "files"
                files.mkdir(parents=True)
                (files / "name").write_text(name)
                source = {"kind": "directory", "root": str(files)}
                document["servers"][name]["data_types"] = {"files": {"source": source, **promise}}

        self.create(edit)
        for name, server in self.k3s.items():
            document = yaml.safe_load(self.inventory_file.read_text())
            source = {
                "kind": "etcd", "data_dir": str(server.data_dir), "config_dir": str(server.config_dir),
                "other_servers": [*K3S_SERVERS[1:]],
            }  # fmt: skip
            promise = {"source": source, "rpo_hours": 24, "keep_days": 30, "restore_flow": "restore-k3s-cluster"}
            document["servers"]["mainnet"] = {
                "runs_on": "vps3",
                "remote_dir": "mainnet",
                "data_types": {"etcd-snapshots": promise},
            }
            (self.root / "hosts" / name / "inventory.yaml").write_text(yaml.safe_dump(document))

    def start(self, name: str, *words: str, host: str = "vps1", **extra: str) -> subprocess.Popen[bytes]:
        """Start a process, a worker on its host's network; see `Estate.start`."""
        network = self.networks.inside(host) if name.startswith("worker-") else []
        return super().start(name, *network, *words, host=host, **extra)

    def work(self, name: str) -> None:
        """Start a host's worker."""
        self.workers[name] = self.start_worker(name, PREFECT_WORKER_QUERY_SECONDS="3", **self.settings(name))

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Ask the Prefect server, again where it was too busy; importing its client takes longer than the answer."""
        data = None if body is None else json.dumps(body).encode()
        for patience in reversed(range(10)):
            try:
                asked = urllib.request.Request(f"{self.url}{path}", data, {"Content-Type": "application/json"})
                with urllib.request.urlopen(asked, timeout=90) as answer:
                    return json.load(answer)
            except OSError:
                if not patience:
                    raise
        return None

    def begin(self, name: str, **parameters: object) -> str:
        """Start a deployment's run; return its id."""
        found = self.ask(f"/deployments/name/{name}/{name}")
        body = {"parameters": parameters, "idempotency_key": token_hex()}
        return str(self.ask(f"/deployments/{found['id']}/create_flow_run", body)["id"])

    def state(self, run: str) -> dict[str, Any]:
        """Return a run's state as the server tells it."""
        told: dict[str, Any] = self.ask(f"/flow_runs/{run}")["state"]
        return told

    def ended(self, run: str) -> str:
        """Wait for a run's end and return how it ended."""
        await_condition("the end of a run", lambda: self.state(run)["type"] in FINAL, 300)
        return str(self.state(run)["name"])

    def log(self, name: str) -> str:
        """Return what a host's worker and its runs have printed."""
        return (self.root / "logs" / f"worker-{name}.log").read_text()

    def held(self, folder: str) -> list[Path]:
        """Return the complete snapshots in a folder of the remote."""
        return sorted(path.parent for path in (self.remote / folder).glob("*/manifest.json"))


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FiveHosts]:
    with host_networks(HOSTS) as networks:
        yield from running(FiveHosts(tmp_path_factory.mktemp("five"), networks))


def running(estate: FiveHosts) -> Iterator[FiveHosts]:
    """Start the server and five workers; end them, and all that they started."""
    try:
        estate.make_hosts()
        with running_server() as database:
            # With SQLite, five workers at times kept each other from its one writer for minutes.
            url = f"postgresql+asyncpg://postgres:{PASSWORD}@/postgres?host={database.folder}"
            estate.start_server(
                address=estate.networks.server, PREFECT_API_SERVICES_LATE_RUNS_AFTER_SECONDS="2",
                PREFECT_SERVER_DATABASE_CONNECTION_URL=url,
            )  # fmt: skip
            estate.deploy()
            for name in HOSTS:
                estate.work(name)
            yield estate
            estate.stop()
    finally:
        estate.stop()
        for server in estate.k3s.values():
            server.fault("")
            server.stop()


def test_a_host_reaches_the_server_and_no_other_host(five: FiveHosts) -> None:
    assert five.url is not None
    port = int(five.url.rsplit(":", 1)[1].partition("/")[0])
    for name in HOSTS:
        assert five.networks.connect(name, five.networks.server, port) == ""
        assert "refused" in five.networks.connect(name, "127.0.0.1", port)
        for other in set(HOSTS) - {name}:
            assert "Network is unreachable" in five.networks.connect(name, five.networks.address(other), port)


def test_each_worker_takes_only_its_own_pool_and_a_host_without_network_is_late_and_costs_the_others_nothing(
    five: FiveHosts,
) -> None:
    await_condition("the worker of vps5", lambda: five.ask("/work_pools/vps5/workers/filter", {}) != [], 300)
    five.networks.unplug("vps5")
    runs = {name: five.begin(f"backup-{name}") for name in HOSTS}

    assert [five.ended(runs[name]) for name in HOSTS[:-1]] == ["Completed"] * 4
    await_condition("the late run", lambda: five.state(runs["vps5"])["name"] == "Late", 120)
    assert five.held(FOLDERS["vps5"]) == []
    for name in HOSTS[:-1]:
        manifest = json.loads((five.held(FOLDERS[name])[0] / "manifest.json").read_text())
        assert (manifest["host"], manifest["complete"]) == (name, True)
        others = [other for other in HOSTS if other != name and f"backup {other}" in five.log(name)]
        assert others == []

    five.networks.plug("vps5")
    assert five.ended(runs["vps5"]) == "Completed"
    assert five.held(FOLDERS["vps5"])


def test_a_k3s_cluster_is_recovered_through_the_workers_of_its_three_hosts_also_after_a_kill(five: FiveHosts) -> None:
    for name in HOSTS[:2]:
        end(five.workers[name])
    first, _, last = five.k3s.values()
    for server in five.k3s.values():
        server.start()
    first.seed()
    before = set(first.etcdctl("get", "/registry/", "--prefix", "--keys-only").split())
    five.run(sys.executable, "-c", CAPTURE, host="vps3", **five.settings("vps3"))  # type: ignore[arg-type]
    first.etcdctl("del", "/registry/", "--prefix")
    shutil.rmtree(last.db / "etcd" / "member" / "wal")
    first.fault("reset-hangs")
    killed = five.begin("restore-k3s-cluster", mode="in-place", approve=True)
    await_condition("the reset of the first server", (first.root / "resetting").exists, 300)
    (area,) = (five.root / "hosts" / "vps3" / "staging").glob("run-restore-mainnet-*")
    os.kill(int(area.name.rpartition("-")[2]), signal.SIGKILL)
    assert five.ended(killed) == "Crashed"
    first.fault("")

    ended = five.ended(five.begin("restore-k3s-cluster", mode="in-place", approve=True))

    assert ended == "Completed", five.log("vps3")
    assert set(last.etcdctl("get", "/registry/", "--prefix", "--keys-only").split()) == before
    assert "objects of 6 kinds compared with the snapshot one by one: 0 missing" in five.log("vps3")
    for name in K3S_SERVERS[1:]:  # the stop is asked for again: people may have started that server since
        steps = [five.log(name).count(f"recover K3s on {name}: {step}' - Beginning") for step in ("stop", "join")]
        assert steps == [2, 1]
        assert len(five.k3s[name].beside("db")) == 1
