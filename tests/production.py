"""
All that is protected, as far as it can exist without Kubernetes: real servers and files behind one host.

Real are PostgreSQL, Redis, etcd, the CA's keys, the ledgers, the chaincode package and all file trees; CouchDB answers
what a real one did. Stand-ins are the pods that they run in, K3s around its etcd, and an API server that only lists.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import pytest

from gxbackup.adapters.cluster import Cluster
from gxbackup.adapters.containers import Containers
from gxbackup.adapters.host import Host
from gxbackup.adapters.places import LocalPlace
from gxbackup.adapters.volumes import Volume
from gxbackup.fabric import layout as files
from tasks import host
from tests import fabric_network
from tests.fabric_network import PACKAGE
from tests.integration.couchdb_servers import PASSWORD, USER, GoldenCouch, golden
from tests.integration.faulty_api_server import faulty_api_server
from tests.integration.k3s_hosts import K3sHost
from tests.integration.postgres_server import running_server
from tests.integration.redis_servers import LocalRedis
from tests.integration.test_fabric_crypto import make_ca
from tests.kubeconfigs import turn_to
from tests.local_cluster import VOLUME, LocalCluster

CA, PEER, ORDERER = "ca-root-0", "peer0-org1-0", "orderer0-0"
WANTED = {
    "vps1": ("website", "k8s-manifests", "k3s-config", "ssh-keys", "system-config"),
    "vps2": ("postgres-testnet", "redis-testnet"),
    "mainnet": (
        "couchdb-fabric", "postgres-mainnet", "redis-mainnet", "postgres-ca", "fabric-crypto", "chaincode-packages",
        "etcd-snapshots",
    ),
    "vps3": ("peer-ledger", "orderer-ledger", "compose-config"),
}  # fmt: skip


class Pods(LocalCluster):
    """The cluster: pods that are folders, servers that play one, and the API server that KUBECONFIG names."""

    def __init__(self, volumes: dict[str, Path], servers: dict[str, LocalPlace]) -> None:
        super().__init__(volumes)
        self._servers = servers
        self.mounts = {PEER: files.PRODUCTION["peer"], ORDERER: files.PRODUCTION["orderer"]}

    def place(
        self, namespace: str, pod: str | None = None, selector: str | None = None, container: str | None = None
    ) -> Any:
        return self._servers.get(pod or "") or super().place(namespace, pod, selector, container)

    def secret(self, namespace: str, name: str) -> dict[str, bytes]:
        return {"user": USER.encode(), "password": PASSWORD.encode()}

    def api(self) -> AbstractContextManager[Any]:
        return Cluster().api()

    def volume_of(self, cluster: object, namespace: str, claim: str) -> Volume:
        return Volume(name="pv", folder=self.volumes[claim.removeprefix("data-")], driver="local", nodes=("here",))


class Production:
    """Where all of it lies; `edit` makes the inventory mean it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.k3s = K3sHost(root / "vps3", "vps3")
        self.couchdb_url = ""
        self.redis_port = 0

    def edit(self, document: dict[str, Any]) -> None:
        """Leave every data type that a restore flow brings back, each pointed at what is here."""
        servers = document["servers"]
        for server, names in WANTED.items():
            servers[server]["data_types"] = {name: servers[server]["data_types"][name] for name in names}
        document["servers"] = {server: servers[server] for server in WANTED}
        here: dict[str, dict[str, Any]] = {
            "website": {"root": str(self.root / "www")}, "compose-config": {"root": str(self.root / "compose")},
            **{name: {"root": str(self.root / "host")} for name in ("k3s-config", "ssh-keys", "system-config")},
            **{name: {"port": self.redis_port} for name in ("redis-testnet", "redis-mainnet")},
            "couchdb-fabric": {"service": None, "url": self.couchdb_url,
                               "secret": {"name": "c", "user_key": "user", "password_key": "password"}},
            "postgres-ca": {"docker_container": None},
            "fabric-crypto": {"cas": ["ca-root"], "folders": [VOLUME], "claims": [], "with_secrets": False,
                              "cainfo_port": 0},
            "chaincode-packages": {"packages_dir": f"{VOLUME}/lifecycle/chaincodes"},
            "etcd-snapshots": {"data_dir": str(self.k3s.data_dir), "config_dir": str(self.k3s.config_dir)},
            "peer-ledger": {"node": "here"}, "orderer-ledger": {"node": "here"},
        }  # fmt: skip
        for server in document["servers"].values():
            for name, promise in server["data_types"].items():
                promise["source"] = {**promise["source"], **here.get(name, {})}

    def make_files(self) -> None:
        """Make the file trees of the hosts."""
        for name, text in {
            "www/index.html": "GX", "compose/docker-compose.yaml": "services: {}\n", "compose/.env": "PASSWORD=x\n",
            "host/etc/rancher/k3s/config.yaml": "node-name: vps1\n", "host/etc/hostname": "vps1\n",
            "host/root/.ssh/authorized_keys": "ssh-ed25519 AAAA admin\n",
        }.items():  # fmt: skip
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(text)


@contextmanager
def production(root: Path, patch: pytest.MonkeyPatch) -> Iterator[Production]:
    """Run all of it for the length of a block, in which this process is its hosts; then nothing of it is left."""
    made = Production(root)
    made.make_files()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, root)
        database = stack.enter_context(running_server())
        database.psql("CREATE DATABASE backend")
        database.psql(
            "CREATE TABLE account AS SELECT i AS id, 'user-' || i AS name FROM generate_series(1, 50) i", "backend"
        )
        redis = LocalRedis(root / "redis")
        stack.callback(redis.forget)
        redis.start()
        redis.fill()
        couch = GoldenCouch(golden())
        stack.callback(couch.stop)
        stack.callback(made.k3s.stop)
        made.k3s.start()
        made.k3s.seed()
        made.couchdb_url, made.redis_port = couch.url, redis.port
        server, kubeconfig = stack.enter_context(faulty_api_server(root))
        server.objects |= {"configmaps": ["channel-config"], "secrets": ["org1-admin-msp"]}
        turn_to(kubeconfig, patch)
        patch.setenv("PATH", made.k3s.path)
        pods = Pods(_volumes(root), {"postgres-0": database.place(), "redis-0": redis.place})
        patch.setattr("gxbackup.adapters.volumes.volume_of", pods.volume_of)
        patch.setattr("gxbackup.sources.ledger.frozen", lambda *_: nullcontext())  # these pods have no processes
        patch.setattr(host, "host", lru_cache(maxsize=1)(lambda: Host(Containers(), cast(Cluster, pods))))
        yield made


def _volumes(root: Path) -> dict[str, Path]:
    """Return the folders that are the pods' volumes: a CA's, and those that a real Fabric network wrote."""
    make_ca(root / CA, "ca-root")
    peer = fabric_network.unpack("peer0", root / "peer")
    (peer / "lifecycle" / "chaincodes").mkdir(parents=True, exist_ok=True)
    shutil.copy(PACKAGE, peer / "lifecycle" / "chaincodes")
    return {CA: root / CA, PEER: peer, ORDERER: fabric_network.unpack("orderer1", root / "orderer")}
