"""A K3s cluster of three servers comes back from its snapshot: on real etcds, with programs that stand in for K3s."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from estate import await_condition

from gxbackup import k3s_recovery, k3s_token
from gxbackup.adapters import k3s
from gxbackup.errors import RestoreError, RestoreRefusedError
from gxbackup.k3s_recovery import begin, resume
from gxbackup.sources.base import Work
from tests.integration.k3s_hosts import PASSWORD, K3sHost, host, play, work

PROJECT = Path(__file__).resolve().parents[2]
SNAPSHOT = "20261122_040000"
# What a worker's process would do on the first host, and on another one.
FIRST = """
import sys
from pathlib import Path
from gxbackup import k3s_recovery, k3s_token
from gxbackup.adapters.k3s import K3s
k3s = K3s(Path(sys.argv[1]), Path(sys.argv[2]))
k3s_recovery.begin(k3s, "20261122_040000").restore_first("etcd", Path(sys.argv[3]), Path(sys.argv[4]))
"""
JOIN = """
import sys
from pathlib import Path
from gxbackup import k3s_recovery, k3s_token
from gxbackup.adapters.k3s import K3s
k3s_recovery.resume(K3s(Path(sys.argv[1]), Path(sys.argv[2])), "together").join()
"""


class Cluster:
    """Three hosts of one cluster, as this process may play them one after the other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.first = K3sHost(root / "vps3", "vps3")
        self.others = [K3sHost(root / name, name, joins=self.first) for name in ("vps4", "vps5")]
        self.hosts = [self.first, *self.others]
        self.source = self.first.source(other_servers=["vps4", "vps5"])

    def play(self, server: K3sHost, monkeypatch: pytest.MonkeyPatch) -> None:
        play(server, self.root / server.name, monkeypatch)

    def members(self) -> list[str]:
        told = json.loads(self.first.etcdctl("member", "list", "-w", "json"))
        return sorted(member["name"] for member in told["members"])

    def harm(self) -> None:
        self.first.etcdctl("del", "/registry/secrets/", "--prefix")
        self.first.etcdctl("put", "/registry/configmaps/default/added-since", "x")

    def stop(self) -> None:
        for server in self.hosts:
            server.fault("")
            server.stop()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look more often than once a second whether the stand-in is up: it takes less than that."""
    monkeypatch.setattr(k3s, "SECONDS_BETWEEN_LOOKS", 0.1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("k3s"))
    try:
        for server in made.hosts:
            server.start()
        made.first.seed()
        yield made
    finally:
        made.stop()


@pytest.fixture
def captured(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    """A good snapshot of the cluster, as a restore has opened it; this process plays the first host."""
    cluster.play(cluster.first, monkeypatch)
    yield work(cluster.source, tmp_path / "captured")
    for server in cluster.hosts:
        server.fault("")


def keys(server: K3sHost) -> set[str]:
    return set(server.etcdctl("get", "/registry/", "--prefix", "--keys-only").split())


def recover(cluster: Cluster, given: Work, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Do what the flow does, each part as its own host."""
    leading = begin(cluster.source.k3s(), SNAPSHOT)
    for other in cluster.others:
        cluster.play(other, monkeypatch)
        resume(other.source().k3s(), leading.name).stop()
    cluster.play(cluster.first, monkeypatch)
    done = cluster.source.recover_first(given, leading)
    for other in cluster.others:
        cluster.play(other, monkeypatch)
        done += resume(other.source().k3s(), leading.name).join()
    cluster.play(cluster.first, monkeypatch)
    done += cluster.source.compare(given)
    leading.finish()
    return done


def token_set(given: Work) -> Path:
    tokens = given.opened[1]
    return k3s_token.unpack(tokens.file, tokens.artifact.evidence, given.area)


def test_three_servers_come_back_as_one_cluster_with_every_object(
    cluster: Cluster, captured: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keys(cluster.first)
    databases = [server.beside("db") for server in cluster.hosts]
    cluster.harm()

    done = recover(cluster, captured, monkeypatch)

    assert keys(cluster.first) == keys(cluster.others[1]) == before
    assert cluster.members() == ["vps3", "vps4", "vps5"]
    assert [len(server.beside("db")) for server in cluster.hosts] == [len(found) + 1 for found in databases]
    assert all((server.beside("db")[-1] / "etcd" / "member").is_dir() for server in cluster.hosts)
    assert re.search(r"\d+ objects of 6 kinds compared .* one by one: 0 missing, 0 changed", "\n".join(done))
    assert PASSWORD not in "".join(done)


def test_the_plan_gives_the_exact_commands_for_each_host_and_changes_nothing(cluster: Cluster, captured: Work) -> None:
    before = keys(cluster.first)

    told = cluster.source.preview(host(), captured)

    db = cluster.first.db
    assert told[1:4] == [f"{name}: systemctl stop k3s" for name in ("this host", "vps4", "vps5")]
    assert told[4] == f"this host: mv {db} {db}.before"
    assert told[5].startswith("this host: k3s server --cluster-reset --cluster-reset-restore-path=")
    assert "--token-file=" in told[5]
    assert told[-1].startswith("vps5, once the node before it is Ready: mv ")
    assert keys(cluster.first) == before


def test_a_cluster_of_several_servers_is_not_restored_by_one_host_alone(cluster: Cluster, captured: Work) -> None:
    with pytest.raises(RestoreRefusedError, match="this cluster has other servers"):
        cluster.source.apply(host(), captured)

    assert cluster.first.is_up()


def test_a_wrong_token_is_refused_by_k3s_and_the_old_database_is_in_its_place_again(
    cluster: Cluster, captured: Work
) -> None:
    before = keys(cluster.first)
    authority, token = cluster.first.server / "tls" / "server-ca.crt", cluster.first.server / "token"
    wrong = token_set(captured)
    (wrong / "token").write_text((wrong / "token").read_text().replace(PASSWORD, "another"))
    own = token.read_text()

    with pytest.raises(RestoreError, match="encrypted with different token"):
        begin(cluster.source.k3s(), SNAPSHOT).restore_first("etcd", captured.opened[0].file, wrong)

    assert token.read_text() == own
    assert authority.is_file()
    cluster.first.start()
    assert keys(cluster.first) == before
    assert cluster.members() == ["vps3", "vps4", "vps5"]


def killed_when(code: str, server: K3sHost, arguments: list[str], reached: Callable[[], bool], staging: Path) -> None:
    """Run a part of a recovery as a process of its own, and kill it -9 at a certain point."""
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(server.data_dir), str(server.config_dir), *arguments], cwd=PROJECT,
        env={**os.environ, "PATH": server.path, "GX_STAGING_DIR": str(staging)},
    )  # fmt: skip
    try:
        await_condition("the point of the cut", reached, 60, died=lambda: child.poll() is not None)
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize(("fault", "reached"), [("reset-hangs", "resetting"), ("start-hangs", "starting")])
def test_a_recovery_that_was_killed_goes_on_where_it_was(
    cluster: Cluster, captured: Work, monkeypatch: pytest.MonkeyPatch, fault: str, reached: str
) -> None:
    before = keys(cluster.first)
    aside = len(cluster.first.beside("db"))
    cluster.harm()
    cluster.stop()
    cluster.first.fault(fault)
    mark = cluster.first.root / reached
    arguments = [str(captured.opened[0].file), str(token_set(captured))]
    killed_when(FIRST, cluster.first, arguments, mark.exists, cluster.root / "vps3" / "staging")
    cluster.first.fault("")
    found = begin(cluster.source.k3s(), SNAPSHOT)
    assert found.has("restored") == (fault == "start-hangs")

    recover(cluster, captured, monkeypatch)

    assert begin(cluster.source.k3s(), SNAPSHOT).name != found.name
    assert keys(cluster.others[0]) == before
    assert cluster.members() == ["vps3", "vps4", "vps5"]
    whole = [folder for folder in cluster.first.beside("db")[aside:] if (folder / "etcd" / "member" / "wal").is_dir()]
    assert whole


def test_another_server_that_was_killed_while_it_joined_joins_once(
    cluster: Cluster, captured: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    leading = begin(cluster.source.k3s(), SNAPSHOT)
    cluster.stop()
    cluster.source.recover_first(captured, leading)
    joining = cluster.others[0]
    joining.fault("start-hangs")
    aside = len(joining.beside("db"))
    killed_when(JOIN, joining, [], (joining.root / "starting").exists, cluster.root / "vps4" / "staging")
    joining.fault("")
    cluster.play(joining, monkeypatch)

    done = resume(joining.source().k3s(), "together").join()

    assert "vps4: started, Ready" in done[-1]
    assert len(joining.beside("db")) == aside + 1
    assert resume(joining.source().k3s(), "together").finished
    cluster.play(cluster.others[1], monkeypatch)
    resume(cluster.others[1].source().k3s(), "").join()
    cluster.play(cluster.first, monkeypatch)
    leading.finish()
    assert cluster.members() == ["vps3", "vps4", "vps5"]


def test_a_node_that_was_ready_when_the_snapshot_was_taken_is_not_ready_now(cluster: Cluster, captured: Work) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)

    with pytest.raises(RestoreError, match=r"node vps3: not Ready .* before the start"):
        cluster.source.k3s().start("vps3", later, timeout_seconds=0)


def test_every_object_is_compared_by_name_and_uid_and_those_missing_more_or_made_anew_are_named(
    cluster: Cluster, captured: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(k3s_recovery, "SETTLE_TIMEOUT_SECONDS", 0)
    made_anew = "/registry/configmaps/default/made-anew"
    cluster.first.etcdctl("put", made_anew, '{"metadata": {"uid": "first"}}')
    given = work(cluster.source, captured.area / "with a uid")
    cluster.first.etcdctl("put", made_anew, '{"metadata": {"uid": "second"}}')
    for number in range(30):
        cluster.first.etcdctl("put", f"/registry/configmaps/default/since-{number:02}", "x")
    try:
        told = cluster.source.compare(given)
        cluster.first.etcdctl("del", "/registry/secrets/", "--prefix")
        with pytest.raises(RestoreError, match=r"lacks 2 of the \d+ objects .* missing: secrets \S+/\S+; missing"):
            cluster.source.compare(given)
    finally:
        cluster.first.etcdctl("del", "/registry/configmaps/default/since-", "--prefix")
        cluster.first.etcdctl("del", made_anew)
        cluster.first.seed()

    assert told[0].endswith("one by one: 0 missing, 1 changed, 30 more")
    assert told[1] == "changed: made anew under its name: configmaps default/made-anew"
    assert told[-1] == "not in the snapshot: and 10 more, 30 in all"


def test_a_single_server_on_sqlite_comes_back_with_the_token_of_its_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = K3sHost(tmp_path / "vps2", "vps2")
    server.seed_sqlite()
    play(server, tmp_path, monkeypatch)
    try:
        server.start()
        given = work(server.source(), tmp_path / "captured")
        server.run("systemctl", "stop", "k3s")
        (server.db / "state.db").write_bytes(b"gone")
        server.write_token("a token of later")

        done = server.source().apply(host(), given)

        assert server.is_up()
        assert PASSWORD in (server.server / "token").read_text()
        assert (server.beside("db")[0] / "state.db").read_bytes() == b"gone"
        assert "a token of later" in server.beside("token")[0].read_text()
        assert re.search(
            r"\d+ objects of 6 kinds compared .* one by one: 0 missing, 0 changed, \d more", "\n".join(done)
        )
    finally:
        server.stop()
