"""
Every row of the strategy's four tables: promised as it says, restored by a flow with a page, and proven by name.

Each row names the tests in which its data is destroyed or lost, put back, and compared; that they are there is tested
here, and that they pass is what `make test` and `make cluster-test` say.
"""

from __future__ import annotations

import ast
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from cronsim import CronSim

from gxbackup import inventory
from gxbackup.schedules import load

PROJECT = Path(__file__).resolve().parent.parent
HOSTS = ("vps1", "vps2", "vps3", "vps4", "vps5")
LEDGER_NODES = ("vps3", "vps4", "vps5")


class Row(NamedTuple):
    """One line of a table: where it is kept from, how often, how long, and what brings it back in a test."""

    name: str
    servers: tuple[str, ...]
    data_type: str
    at_most_hours: int
    keep_days: int
    restore_flow: str
    proven_by: tuple[str, ...]


MAINNET, RESTORE = "tests/cluster/test_mainnet.py", "tests/flows/test_restore.py"
OBJECTS = "tests/cluster/test_kubernetes_objects_whole.py"
POSTGRES = "tests/cluster/test_postgres_pods.py"
TESTNET, COUCHDB = "tests/cluster/test_testnet.py", "tests/cluster/test_couchdb_flows.py"
DRIVERS = "tests/cluster/test_driver_volumes.py"
NETWORK = "tests/cluster/test_ledger_flows.py"
LEDGER_FLOWS = f"{NETWORK}::test_a_destroyed_network_comes_back_with_equal_heights_and_commits_the_next_block"
LEDGERS = "tests/flows/test_fabric_ledgers.py"
FIVE_HOSTS = "tests/integration/test_five_hosts.py"
HOST_CONFIG = (
    "tests/flows/test_restore_host_config.py::test_host_config_comes_back_file_by_file_and_nothing_is_deleted",
)
DRILL = f"{MAINNET}::test_the_monthly_drill_brings_everything_back_from_the_remote_alone_with_figures"
ROWS = (
    Row("Website Files", ("vps1",), "website", 24, 30, "restore-website", (
        f"{RESTORE}::test_a_destroyed_website_comes_back_equal_in_every_byte_and_attribute",
        "tests/integration/test_worker.py::test_the_operators_spelling_backs_up_and_restores_through_the_worker",
    )),
    Row("Docker Compose Config", ("vps3",), "compose-config", 24, 90, "restore-compose-config", (
        f"{RESTORE}::test_a_destroyed_compose_folder_comes_back_equal",
    )),
    Row("K8s Manifests", ("vps1", "vps2", "mainnet"), "k8s-manifests", 24, 90, "restore-k8s-manifests", (
        f"{MAINNET}::test_a_deleted_secret_comes_back_byte_for_byte",
        f"{OBJECTS}::test_everything_comes_back_on_an_empty_api_server_by_kubectl_and_by_us",
    )),
    Row("PostgreSQL (MainNet)", ("mainnet",), "postgres-mainnet", 6, 7, "restore-mainnet-postgres", (
        f"{MAINNET}::test_a_destroyed_postgres_comes_back_row_for_row", DRILL,
    )),
    Row("PostgreSQL (TestNet)", ("vps2",), "postgres-testnet", 6, 3, "restore-testnet-postgres", (
        f"{TESTNET}::test_tables_and_a_database_that_are_gone_come_back_row_for_row",
        f"{POSTGRES}::test_a_pods_databases_are_captured_rehearsed_and_put_back_under_live_connections",
    )),
    Row("Redis (MainNet)", ("mainnet",), "redis-mainnet", 6, 7, "restore-mainnet-redis", (
        f"{MAINNET}::test_a_flushed_redis_comes_back_key_for_key", DRILL,
    )),
    Row("Redis (TestNet)", ("vps2",), "redis-testnet", 6, 3, "restore-testnet-redis", (
        f"{TESTNET}::test_a_flushed_redis_comes_back_key_for_key_once_the_worker_may_stop_it",
        "tests/cluster/test_redis_pods.py::test_it_is_captured_rehearsed_and_put_back_with_what_was_there_kept",
    )),
    Row("CouchDB (Fabric)", ("mainnet",), "couchdb-fabric", 24, 30, "restore-couchdb", (
        f"{COUCHDB}::test_by_default_a_state_ahead_of_its_peer_is_dropped_and_the_peer_makes_it_anew",
        f"{COUCHDB}::test_destroyed_databases_come_back_with_every_revision_while_the_peer_is_stopped",
        "tests/integration/test_couchdb_restore.py::test_documents_replace_the_state_and_a_copy_of_it_stays",
    )),
    Row("CA PostgreSQL", ("mainnet",), "postgres-ca", 24, 90, "restore-ca-postgres", (
        f"{MAINNET}::test_a_table_and_a_database_of_the_cas_come_back_row_for_row",
        f"{POSTGRES}::test_a_databases_container_is_captured_and_put_back_too", DRILL,
    )),
    Row("Fabric Crypto Materials", ("mainnet", "vps2"), "fabric-crypto", 24, 90, "restore-fabric-crypto", (
        f"{MAINNET}::test_a_ca_whose_keys_are_gone_comes_back",
        "tests/cluster/test_ca_pair.py::test_keys_come_back_beside_the_registry_of_their_own_moment_and_beside_no_other",
        "tests/cluster/test_fabric_secrets.py::test_secrets_come_back_as_they_were_and_what_was_overwritten_is_kept",
        "tests/cluster/test_fabric_claims.py::test_a_peer_and_an_admin_get_their_keys_back_from_their_claims",
    )),
    Row("Orderer Ledger", LEDGER_NODES, "orderer-ledger", 24, 30, "restore-orderer-ledger", (
        LEDGER_FLOWS,
        f"{LEDGERS}::test_orderers_come_back_where_another_host_holds_them_at_the_same_height",
    )),
    Row("Peer Ledger", LEDGER_NODES, "peer-ledger", 24, 30, "restore-peer-ledger", (
        LEDGER_FLOWS,
        f"{DRIVERS}::test_a_volume_of_a_csi_driver_is_kept_on_two_days_and_comes_back_at_its_height",
    )),
    Row("Chaincode Packages", ("mainnet",), "chaincode-packages", 168, 90, "restore-chaincode", (
        f"{NETWORK}::test_a_peer_gets_its_chaincode_back_and_no_other_is_started_again",
    )),
    Row("K3s Config", HOSTS, "k3s-config", 24, 90, "restore-host-config", HOST_CONFIG),
    Row("etcd Snapshots", ("mainnet",), "etcd-snapshots", 24, 30, "restore-k3s-cluster", (
        "tests/integration/test_k3s_recovery.py::test_three_servers_come_back_as_one_cluster_with_every_object",
        f"{FIVE_HOSTS}::test_a_k3s_cluster_is_recovered_through_the_workers_of_its_three_hosts_also_after_a_kill",
    )),
    Row("SSH Keys", HOSTS, "ssh-keys", 168, 90, "restore-host-config", HOST_CONFIG),
    Row("System Configs", HOSTS, "system-config", 168, 90, "restore-host-config", HOST_CONFIG),
)  # fmt: skip


@lru_cache
def names_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in ROWS])
def test_the_row_is_promised_restored_and_proven(row: Row) -> None:
    promised = inventory.load(PROJECT / "deployments" / "inventory.yaml")
    deployed = {deployment.name for deployment in load(PROJECT / "prefect.yaml").deployments}

    for server in row.servers:
        promise = promised.data_type(server, row.data_type)
        assert promise.rpo_hours <= row.at_most_hours
        assert promise.keep_days >= row.keep_days
        assert promise.restore_flow == row.restore_flow
    assert row.restore_flow in deployed
    assert (PROJECT / "docs" / "runbooks" / f"{row.restore_flow}.md").exists()
    for test in row.proven_by:
        file, _, name = test.partition("::")
        assert name in names_in(PROJECT / file)


# The testing schedule: what is started how often, at the latest, and the tests of what it finds.
HEALTH, PROOFS = "tests/flows/test_health.py", "tests/flows/test_proofs.py"
SCHEDULE = {
    "verify-backups": (24, f"{PROOFS}::test_the_last_days_snapshots_are_verified_and_one_rotten_artifact_is_named"),
    "verify-integrity": (168, f"{PROOFS}::test_integrity_opens_what_is_held_once_and_records_it"),
    "rehearse-restores": (168, f"{MAINNET}::test_each_database_is_rehearsed_on_a_throwaway_server_by_one_command"),
    "drill-disaster-recovery": (31 * 24, DRILL),
    "check-backup-health": (1, f"{HEALTH}::test_all_is_well_after_a_backup_and_every_promise_has_its_figures"),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULE)
def test_the_testing_schedule_is_kept(name: str) -> None:
    at_most_hours, test = SCHEDULE[name]
    [deployment] = [one for one in load(PROJECT / "prefect.yaml").deployments if one.name == name]

    [schedule] = deployment.schedules
    moment = CronSim(schedule.cron, datetime(2026, 1, 1, tzinfo=UTC))
    begun = [next(moment) for _ in range(60)]
    assert max(later - earlier for earlier, later in pairwise(begun)) <= timedelta(hours=at_most_hours)
    assert (PROJECT / "docs" / "runbooks" / f"{name}.md").exists()
    file, _, function = test.partition("::")
    assert function in names_in(PROJECT / file)


def test_the_tables_have_all_17_rows() -> None:
    assert len({row.name for row in ROWS}) == 17
