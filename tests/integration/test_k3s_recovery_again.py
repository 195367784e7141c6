"""A recovery of K3s that is started again after people changed what it had done: on real etcds, as its fellow tests."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gxbackup import k3s_recovery
from gxbackup.adapters import k3s
from gxbackup.errors import RestoreError
from gxbackup.k3s_recovery import begin, resume
from gxbackup.sources.base import Work
from tasks import k3s_recovery as steps
from tests.integration.k3s_hosts import K3sHost, host, play, work
from tests.integration.test_k3s_recovery import SNAPSHOT, Cluster, recover

TAMPERED = "/registry/configmaps/default/tampered-with"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Three servers that run; this process plays the first host."""
    monkeypatch.setattr(k3s, "SECONDS_BETWEEN_LOOKS", 0.1)
    monkeypatch.setattr(k3s_recovery, "START_TIMEOUT_SECONDS", 20)
    monkeypatch.setattr(k3s_recovery, "SETTLE_TIMEOUT_SECONDS", 10)
    made = Cluster(tmp_path / "k3s")
    try:
        for server in made.hosts:
            server.start()
        made.first.seed()
        made.play(made.first, monkeypatch)
        yield made
    finally:
        made.stop()


@pytest.fixture
def captured(cluster: Cluster, tmp_path: Path) -> Work:
    """A snapshot that holds an object which was tampered with since."""
    cluster.first.etcdctl("put", TAMPERED, '{"metadata": {"uid": "as-it-was"}}')
    given = work(cluster.source, tmp_path / "captured")
    cluster.first.etcdctl("put", TAMPERED, '{"metadata": {"uid": "tampered-with"}}')
    return given


def step(server: K3sHost, name: steps.Step, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Do a step by hand, as recover-k3s-server does."""
    monkeypatch.setattr(steps, "datastore_of", lambda _: ("etcd-snapshots", server.source()))
    return steps.step_here.fn("mainnet", name, "")


def test_a_database_that_people_put_back_is_restored_again_and_not_taken_for_the_restored_one(
    cluster: Cluster, captured: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = begin(cluster.source.k3s(), SNAPSHOT)
    cluster.stop()
    cluster.source.recover_first(captured, cut)
    first = cluster.first
    first.run("systemctl", "stop", "k3s")
    first.db.rename(first.server / "db.of-the-recovery")
    first.beside("db")[-1].rename(first.db)

    done = recover(cluster, captured, monkeypatch)

    assert "0 missing, 0 changed" in "\n".join(done)
    assert "as-it-was" in first.etcdctl("get", TAMPERED)
    assert cluster.members() == ["vps3", "vps4", "vps5"]


def test_a_server_that_is_stopped_by_hand_is_stopped_whatever_an_older_recovery_noted_there(
    cluster: Cluster, captured: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in cluster.others:
        cluster.play(other, monkeypatch)
        unfinished = resume(other.source().k3s(), "by-hand-of-last-month")
        for done in ("stopped", "aside", "started", "ready"):
            unfinished.mark(done)

        told = step(other, "stop", monkeypatch)

        assert told == [f"{other.name}: stopped"]
        assert not other.is_up()

    cluster.play(cluster.first, monkeypatch)
    cluster.source.recover_first(captured, begin(cluster.source.k3s(), SNAPSHOT))
    for other in cluster.others:
        cluster.play(other, monkeypatch)
        step(other, "join", monkeypatch)
    assert cluster.members() == ["vps3", "vps4", "vps5"]
    assert "as-it-was" in cluster.others[0].etcdctl("get", TAMPERED)


def test_a_single_server_that_people_took_back_is_not_said_to_be_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(k3s, "SECONDS_BETWEEN_LOOKS", 0.1)
    server = K3sHost(tmp_path / "vps2", "vps2")
    server.seed_sqlite()
    play(server, tmp_path, monkeypatch)
    given = work(server.source(), tmp_path / "captured")
    with closing(sqlite3.connect(server.db / "state.db")) as database:
        database.execute("INSERT INTO kine (name, created, deleted) VALUES ('/registry/secrets/default/rogue', 1, 0)")
        database.commit()
    try:
        server.start()
        with monkeypatch.context() as patch:
            patch.setattr(k3s_recovery, "compare", fails)
            with pytest.raises(RestoreError):
                server.source().apply(host(), given)
        server.run("systemctl", "stop", "k3s")
        server.db.rename(server.server / "db.of-the-recovery")
        server.beside("db")[-1].rename(server.db)
        server.start()

        server.source().apply(host(), given)

        assert "rogue" not in server.run("k3s", "kubectl", "get", "secrets", "--all-namespaces", "--no-headers")
    finally:
        server.stop()


def fails(*_: object) -> list[str]:
    raise RestoreError("the recovered cluster lacks 1 of the 9 objects of its snapshot")
