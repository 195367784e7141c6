"""
MainNet as the operator runs it: backed up by its flows from a real cluster, destroyed, and brought back equal; all with
the rights of the worker's own account, which is lent more only for the restores that say so.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flows.backup_mainnet import backup_mainnet
from flows.backup_mainnet_incremental import backup_mainnet_incremental
from flows.drill_disaster_recovery import drill_disaster_recovery
from flows.restore_ca_postgres import restore_ca_postgres
from flows.restore_fabric_crypto import restore_fabric_crypto
from flows.restore_k8s_manifests import restore_k8s_manifests
from flows.restore_mainnet_postgres import restore_mainnet_postgres
from flows.restore_mainnet_redis import restore_mainnet_redis
from gxbackup.adapters.cluster import Cluster
from gxbackup.errors import IncompleteBackupError, RestoreRefusedError
from gxbackup.scratch.postgres import programs, running_postgres
from tests.cluster import protected
from tests.cluster.protected import ServerPlace, drop_redis_copies, drop_safety_copies, keys, rows
from tests.cluster.scratch_api import kubectl, scratch_api_server
from tests.cluster.worker_account import RESTORES_OF_OBJECTS, lent
from tests.integration.node import until
from tests.kubeconfigs import turn_to

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("prefect_server")]
# The cluster's API server is not K3s, so that there is no datastore of K3s to save; it has no CouchDB.
NOT_HERE = ("etcd-snapshots", "couchdb-fabric")
PROTECTED = {
    "postgres-mainnet", "redis-mainnet", "fabric-crypto", "postgres-ca", "k8s-manifests", "chaincode-packages",
}  # fmt: skip
MEBIBYTE = 1024**2


class MainNet(ServerPlace):
    """An estate that plays vps3 and protects the test cluster as MainNet."""

    def create_mainnet(self) -> None:
        def reduce(mainnet: dict[str, Any]) -> None:
            for name in NOT_HERE:
                mainnet["data_types"].pop(name, None)
            mainnet["data_types"]["postgres-ca"]["source"].pop("docker_container")
            mainnet["data_types"]["fabric-crypto"]["source"]["cainfo_port"] = 0  # the stand-ins answer no /cainfo
            mainnet["prune_limit"] = 1

        self.protect("mainnet", "vps3", reduce)

    def sent_bytes(self, snapshot: str) -> int:
        return sum(file.stat().st_size for file in (self.remote / "mainnet" / snapshot).rglob("*") if file.is_file())


@pytest.fixture(scope="module")
def mainnet(tmp_path_factory: pytest.TempPathFactory, worker_kubeconfig: Path) -> Iterator[MainNet]:
    with pytest.MonkeyPatch.context() as patch:
        turn_to(worker_kubeconfig, patch)
        made = MainNet(tmp_path_factory.mktemp("mainnet"), patch)
        made.create_mainnet()
        drop_all_copies()  # of a run that was killed
        yield made
        drop_all_copies()


@pytest.fixture(scope="module")
def snapshot(mainnet: MainNet) -> str:
    return backup_mainnet()


def drop_all_copies() -> None:
    """Remove what restores in place left there: the cluster outlives the tests."""
    for namespace in ("backend-mainnet", "fabric"):
        drop_safety_copies(namespace)
    drop_redis_copies("backend-mainnet")


sql = partial(protected.sql, "backend-mainnet", database="backend")
redis = partial(protected.redis, "backend-mainnet")


def tables() -> list[str]:
    return sql("select relname from pg_stat_user_tables order by relname").splitlines()


def test_every_data_type_is_in_one_complete_signed_snapshot(mainnet: MainNet, snapshot: str) -> None:
    manifest = mainnet.manifest(snapshot)

    assert manifest.complete
    assert set(manifest.data_types()) == PROTECTED
    assert len(manifest.of("fabric-crypto")) == len(("root", "org1", "org2", "orderer", "tls")) + len(("Secrets",))
    assert (mainnet.remote / "mainnet" / snapshot / "manifest.json.sig").exists()


def test_six_hours_later_what_has_changed_is_sent_and_only_that(mainnet: MainNet, snapshot: str) -> None:
    redis("SET", "gx-changed", "1")

    later = backup_mainnet_incremental()

    redis("DEL", "gx-changed")
    manifest = mainnet.manifest(later)
    assert set(manifest.data_types()) == {"postgres-mainnet", "redis-mainnet"}
    assert {artifact.held_in for artifact in manifest.of("postgres-mainnet")} == {snapshot}
    [changed] = manifest.of("redis-mainnet")
    assert changed.held_in is None
    assert mainnet.sent_bytes(later) - changed.sealed_size_bytes < MEBIBYTE


def test_a_destroyed_postgres_comes_back_row_for_row(mainnet: MainNet, snapshot: str) -> None:
    before = rows("backend-mainnet", "backend")
    sql(";".join(f'drop table "{table}" cascade' for table in before))

    restore_mainnet_postgres(snapshot=snapshot, mode="in-place", approve=True)

    assert before
    assert rows("backend-mainnet", "backend") == before


def test_a_flushed_redis_comes_back_key_for_key(mainnet: MainNet, snapshot: str) -> None:
    before = keys("backend-mainnet", 0)
    redis("FLUSHALL")

    with lent():
        restore_mainnet_redis(snapshot=snapshot, mode="in-place", approve=True)

    assert before
    assert keys("backend-mainnet", 0) == before


def test_a_pod_that_is_gone_costs_its_own_data_type_and_no_other(mainnet: MainNet) -> None:
    try:
        kubectl("scale", "-n", "backend-mainnet", "statefulset/redis", "--replicas=0")
        until(lambda: "redis-0" not in kubectl("get", "pods", "-n", "backend-mainnet", "-o", "name"), "it is gone", 180)
        with pytest.raises(IncompleteBackupError, match="1 of 2 data types are missing: redis-mainnet: pod"):
            backup_mainnet(only=["redis-mainnet", "chaincode-packages"])
    finally:
        kubectl("scale", "-n", "backend-mainnet", "statefulset/redis", "--replicas=1")

    newest = sorted(folder.name for folder in (mainnet.remote / "mainnet").iterdir())[-1]
    assert mainnet.manifest(newest).data_types() == ("chaincode-packages",)


def test_a_deleted_secret_comes_back_byte_for_byte(mainnet: MainNet, snapshot: str) -> None:
    name = "org1-admin-msp"
    restore = partial(
        restore_k8s_manifests, server="mainnet", snapshot=snapshot, namespaces=["fabric-devnet"], kinds=["Secret"],
        names=[name], mode="in-place", approve=True,
    )  # fmt: skip
    before = _data(name)
    kubectl("delete", "secret", "-n", "fabric-devnet", name)

    with pytest.raises(RestoreRefusedError, match=f"Secret fabric-devnet/{name}: .*403 Forbidden"):
        restore()
    with lent(RESTORES_OF_OBJECTS):
        restore()

    assert before
    assert _data(name) == before


def _data(secret: str) -> dict[str, str]:
    told: dict[str, str] = json.loads(kubectl("get", "secret", "-n", "fabric-devnet", secret, "-o", "json"))["data"]
    return told


def test_a_ca_whose_keys_are_gone_comes_back(mainnet: MainNet, snapshot: str) -> None:
    digests = ["sh", "-c", "cd /var/hyperledger && find . -type f ! -name '*.log' -exec sha256sum {} + | sort -k 2"]
    place = Cluster().place("fabric", "ca-org1-0")
    before = place.run(digests, timeout_seconds=60).text()
    place.run(["sh", "-c", "find /var/hyperledger -type f -delete"], timeout_seconds=60)

    with lent():
        restore_fabric_crypto(snapshot=snapshot, cas=["ca-org1"], mode="in-place", approve=True)

    assert Cluster().place("fabric", "ca-org1-0").run(digests, timeout_seconds=60).text() == before


def test_a_table_and_a_database_of_the_cas_come_back_row_for_row(mainnet: MainNet, snapshot: str) -> None:
    before = {database: rows("fabric", database) for database in ("ca_org1", "ca_tls")}
    others = "select datname, oid from pg_database where datname not in ('ca_org1', 'ca_tls') order by datname"
    untouched = protected.sql("fabric", others)
    protected.sql("fabric", "drop table certificates", "ca_org1")
    protected.sql("fabric", "drop database ca_tls with (force)")

    restore_ca_postgres(snapshot=snapshot, mode="in-place", approve=True, databases=[*before])

    assert all(held["certificates"] for held in before.values())
    assert {database: rows("fabric", database) for database in before} == before
    kept = [line for line in protected.sql("fabric", others).splitlines() if "_before_" not in line]
    assert kept == untouched.splitlines()


def test_each_database_is_rehearsed_on_a_throwaway_server_by_one_command(mainnet: MainNet, snapshot: str) -> None:
    kubectl("rollout", "status", "-n", "backend-mainnet", "statefulset/redis", "--timeout=180s")
    live = (sql("select pg_postmaster_start_time()"), redis("DBSIZE"))

    restore_mainnet_postgres(snapshot=snapshot, mode="scratch")
    restore_mainnet_redis(snapshot=snapshot, mode="scratch")

    assert (sql("select pg_postmaster_start_time()"), redis("DBSIZE")) == live


def test_the_page_beside_the_snapshot_brings_the_databases_back_with_nothing_of_ours(
    mainnet: MainNet, snapshot: str, tmp_path: Path
) -> None:
    page = (mainnet.remote / "mainnet" / snapshot / "RECOVER.md").read_text()
    opening, _, put_back = page.partition("## 3 Put back")
    databases = "".join(section for section in put_back.split("\n### ") if section.startswith("postgres-mainnet:"))
    with running_postgres("postgres", MEBIBYTE) as (server, folder):
        environment = {
            "PATH": f"{programs()}:{mainnet.environment()['PATH']}", "HOME": str(tmp_path),
            "PGHOST": str(folder.parent), "PGUSER": "postgres", "REMOTE": str(mainnet.remote),
            "IDENTITY": str(mainnet.identity), "WORK": str(tmp_path / "work"), "RCLONE_CONFIG": str(tmp_path / "none"),
        }  # fmt: skip
        for text in (opening, databases):
            script = "\n".join(block.split("\n", 1)[1] for block in text.split("```")[1::2])
            subprocess.run(["bash", "-euc", f'WORK="{tmp_path}/work"\n{script}'], check=True, env=environment)
        with server.session("backend") as session:
            restored = [name for (name,) in session.ask("SELECT relname FROM pg_stat_user_tables ORDER BY 1;")]

    assert restored == tables()


@pytest.mark.usefixtures("snapshot")
def test_the_monthly_drill_brings_everything_back_from_the_remote_alone_with_figures(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = (sql("select pg_postmaster_start_time()"), redis("DBSIZE"))

    with scratch_api_server(tmp_path) as empty, caplog.at_level("INFO"):
        monkeypatch.setenv("GX_SCRATCH_KUBECONFIG", str(empty))
        turn_to(tmp_path / "none", monkeypatch)
        drill_disaster_recovery()

    (page,) = (record.getMessage() for record in caplog.records if "# Disaster recovery drill" in record.getMessage())
    assert "# Disaster recovery drill: all restored, evidence equal" in page
    assert "0 too old, 0 too slow" in page
    steps = []
    for data_type in PROTECTED:
        row = rf"\| 🟢 well \| (\d+) \| mainnet {data_type} \| \d{{8}}_\d{{6}} \| "
        row += r"[\d.]+ h \| \d+ h \| [\d.]+ s \| 4 h \| \S"
        found = re.search(row, page)
        assert found, page
        steps.append((int(found[1]), data_type))
    assert min(steps)[1] == "k8s-manifests"
    assert "objects put on the scratch API server, equal to the snapshot, and removed again" in page
    assert (sql("select pg_postmaster_start_time()"), redis("DBSIZE")) == live


def test_what_lies_on_the_remote_tells_nothing(mainnet: MainNet, snapshot: str) -> None:
    secret = Cluster().secret("backend-mainnet", "postgres-credentials")["password"]

    for file in Path(mainnet.remote / "mainnet" / snapshot).rglob("*"):
        if file.is_file():
            assert secret not in file.read_bytes(), file
