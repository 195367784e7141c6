"""
TestNet's databases as the operator runs them: backed up by their flow, destroyed, and brought back equal; all with the
rights of the worker's own account, which is lent more only for a restore.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.backup_testnet_databases import backup_testnet_databases
from flows.restore_testnet_postgres import restore_testnet_postgres
from flows.restore_testnet_redis import restore_testnet_redis
from gxbackup.errors import CollectError
from tests.cluster.protected import (
    ServerPlace,
    drop_redis_copies,
    drop_safety_copies,
    keys,
    redis,
    rows,
    sql,
)
from tests.cluster.worker_account import lent
from tests.kubeconfigs import turn_to

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("prefect_server")]
NAMESPACE = "backend-testnet"
DATABASES = ("backend", "explorer")


@pytest.fixture(scope="module")
def testnet(tmp_path_factory: pytest.TempPathFactory, worker_kubeconfig: Path) -> Iterator[ServerPlace]:
    """Give the estate that plays vps2; all of its data types are promised, of which the flow takes the databases."""
    with pytest.MonkeyPatch.context() as patch:
        turn_to(worker_kubeconfig, patch)
        made = ServerPlace(tmp_path_factory.mktemp("testnet"), patch)
        made.protect("vps2", "vps2")
        yield made
        drop_safety_copies(NAMESPACE)
        drop_redis_copies(NAMESPACE)


@pytest.fixture(scope="module")
def snapshot(testnet: ServerPlace) -> str:
    return backup_testnet_databases()


def test_what_may_lose_six_hours_is_in_one_complete_snapshot_and_sent_once(testnet: ServerPlace, snapshot: str) -> None:
    later = backup_testnet_databases()

    manifest = testnet.manifest(snapshot)
    assert manifest.complete
    assert set(manifest.data_types()) == {"postgres-testnet", "redis-testnet"}
    assert {artifact.held_in for artifact in testnet.manifest(later).artifacts} == {snapshot}


def test_each_is_rehearsed_on_a_throwaway_server_by_one_command(snapshot: str) -> None:
    live = (sql(NAMESPACE, "select pg_postmaster_start_time()"), redis(NAMESPACE, "DBSIZE"))

    restore_testnet_postgres(snapshot=snapshot, mode="scratch")
    restore_testnet_redis(snapshot=snapshot, mode="scratch")

    assert (sql(NAMESPACE, "select pg_postmaster_start_time()"), redis(NAMESPACE, "DBSIZE")) == live


def test_tables_and_a_database_that_are_gone_come_back_row_for_row(snapshot: str) -> None:
    before = {database: rows(NAMESPACE, database) for database in DATABASES}
    large_objects = sql(NAMESPACE, "select count(*) from pg_largeobject", "explorer")
    sql(NAMESPACE, ";".join(f'drop table "{table}" cascade' for table in before["backend"]), "backend")
    sql(NAMESPACE, "drop database explorer with (force)")

    restore_testnet_postgres(snapshot=snapshot, mode="in-place", approve=True)

    assert all(before.values())
    assert {database: rows(NAMESPACE, database) for database in DATABASES} == before
    assert sql(NAMESPACE, "select count(*) from pg_largeobject", "explorer") == large_objects != "0"
    assert sql(NAMESPACE, "select count(*) from rich", "backend") != "0"


def test_a_flushed_redis_comes_back_key_for_key_once_the_worker_may_stop_it(snapshot: str) -> None:
    before = [keys(NAMESPACE, number) for number in (0, 1)]
    redis(NAMESPACE, "FLUSHALL")

    with pytest.raises(CollectError, match="statefulset backend-testnet/redis: expected to be allowed, seen 403"):
        restore_testnet_redis(snapshot=snapshot, mode="in-place", approve=True)
    with lent():
        restore_testnet_redis(snapshot=snapshot, mode="in-place", approve=True)

    assert all(before)
    assert [keys(NAMESPACE, number) for number in (0, 1)] == before
