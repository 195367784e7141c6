"""The datastore of K3s, captured and rehearsed: a real etcd, SQLite under a write-ahead log, and the token of both."""

from __future__ import annotations

import json
import logging
import sqlite3
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import closing, suppress
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest

from gxbackup import etcd_snapshot
from gxbackup.adapters import etcd
from gxbackup.errors import CollectError, IntegrityError, RestoreRefusedError, SourceMissingError
from tests.integration.k3s_hosts import COUNTS, PASSWORD, K3sHost, host, new_authority, play, read, work

STRAY = "gx-20260101t000000z-vps3-1767225600"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[K3sHost]:
    made = K3sHost(tmp_path_factory.mktemp("vps3") / "vps3", "vps3")
    try:
        made.start()
        made.seed()
        yield made
    finally:
        made.stop()


@pytest.fixture
def server(first: K3sHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[K3sHost]:
    play(first, tmp_path, monkeypatch)
    yield first
    first.fault("")
    for name in first.snapshots():
        (first.db / "snapshots" / name).unlink()


@pytest.fixture
def single(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> K3sHost:
    made = K3sHost(tmp_path / "vps2", "vps2")
    made.seed_sqlite()
    play(made, tmp_path, monkeypatch)
    return made


def test_an_etcd_snapshot_is_proven_counted_and_gone_from_the_host(server: K3sHost) -> None:
    source = server.source()
    database, tokens = source.collect(host(), "etcd-snapshots")

    plain, ending = read(source, database)

    assert (database.name, tokens.name) == ("etcd-snapshot.db", "server-token.tar")
    assert sha256(plain[:-32]).digest() == plain[-32:]
    assert ending.evidence["objects_by_resource"] == {**COUNTS, "nodes": 1}
    assert (
        ending.evidence["revision"]
        == json.loads(server.etcdctl("endpoint", "status", "-w", "json"))[0]["Status"]["header"]["revision"]
    )
    assert ending.shortfalls == ()
    assert database.evidence == {"datastore": "etcd", "k3s_version": "v1.31.4+k3s1", "token_matches_ca": True}
    assert server.snapshots() == []


def test_our_reading_of_a_snapshot_agrees_with_etcds_own_tool(server: K3sHost, tmp_path: Path) -> None:
    server.etcdctl("snapshot", "save", str(tmp_path / "s.db"))

    state, told = etcd_snapshot.read_state(tmp_path / "s.db"), etcd.status(tmp_path / "s.db")

    assert told is not None
    assert (state.revision, state.total_keys) == (told["revision"], told["total_keys"])


def test_a_snapshot_that_lacks_its_end_is_said_to_be_none(server: K3sHost, tmp_path: Path) -> None:
    """Whatever lies there: all keys may be in what is left, and are read as they were then, never as others."""
    file = tmp_path / "s.db"
    server.etcdctl("snapshot", "save", str(file))
    whole = etcd_snapshot.read_state(file)
    file.write_bytes(file.read_bytes()[:20000])

    with pytest.raises(IntegrityError, match=r"s\.db"):
        etcd_snapshot.require_whole(file)
    with suppress(IntegrityError):
        assert etcd_snapshot.read_state(file) == whole


@pytest.mark.parametrize("kept_bytes", [0, 100, 4096])
def test_a_file_that_is_not_all_of_an_etcd_database_is_said_to_be_none(
    server: K3sHost, tmp_path: Path, kept_bytes: int
) -> None:
    file = tmp_path / "s.db"
    server.etcdctl("snapshot", "save", str(file))
    file.write_bytes(file.read_bytes()[:kept_bytes])

    with pytest.raises(IntegrityError, match=r"s\.db|holds no key"):
        etcd_snapshot.require_whole(file)
    with pytest.raises(IntegrityError, match=r"s\.db|holds no key"):
        etcd_snapshot.read_state(file)


def test_the_token_set_holds_what_opens_the_snapshot_and_is_told_nowhere(
    server: K3sHost, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    source = server.source()
    captures = source.collect(host(), "etcd-snapshots")

    plain, ending = read(source, captures[1])

    with tarfile.open(fileobj=BytesIO(plain)) as tar:
        names = tar.getnames()
        token = tar.extractfile("./token")
        assert token is not None
        assert PASSWORD.encode() in token.read()
    assert {"./token", "./node-token", "./cred/encryption-config.json", "./tls/server-ca.crt"} <= set(names)
    told = "".join(capture.model_dump_json() for capture in captures) + json.dumps(ending.evidence) + caplog.text
    assert PASSWORD not in told


@pytest.mark.parametrize(("fault", "said"), [("cut", "expected whole pages"), ("flip", "expected sha256")])
def test_a_snapshot_that_k3s_left_damaged_is_no_backup_and_does_not_stay(
    server: K3sHost, fault: str, said: str
) -> None:
    source = server.source()
    database, _ = source.collect(host(), "etcd-snapshots")
    server.fault(fault)

    with pytest.raises(IntegrityError, match=said) as caught, source.open(host(), database):
        pass

    assert caught.value.retryable
    assert server.snapshots() == []


def test_what_a_killed_run_left_is_swept_and_the_snapshots_of_others_stay(server: K3sHost) -> None:
    folder = server.db / "snapshots"
    folder.mkdir(exist_ok=True)
    others = ["etcd-snapshot-vps3-1767225600", "gx-by-hand", "on-demand-vps3-1767225600"]
    for name in [STRAY, *others]:
        (folder / name).write_text("left")

    server.source().collect(host(), "etcd-snapshots")

    assert server.snapshots() == others


def test_an_own_snapshot_goes_although_k3s_does_not_answer(single: K3sHost) -> None:
    folder = single.db / "snapshots"
    folder.mkdir()
    (folder / STRAY).write_text("left")

    single.source().collect(host(), "etcd-snapshots")

    assert single.snapshots() == []


def test_a_snapshot_is_rehearsed_in_an_etcd_that_nobody_else_can_reach(server: K3sHost, tmp_path: Path) -> None:
    source = server.source()

    done = source.rehearse(host(), given := work(source, tmp_path / "area"))

    assert done[-1] == "served by a scratch etcd; revision and objects equal the evidence"
    assert not (given.area / "scratch-etcd").exists()
    assert scratch_processes(given.area) == []


def scratch_processes(area: Path) -> list[str]:
    """Return the ids of every process that works below a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(area):
                found.append(process.name)
        except OSError:
            continue
    return found


def test_a_rehearsal_sees_a_database_that_is_not_the_one_captured(server: K3sHost, tmp_path: Path) -> None:
    source = server.source()
    given = work(source, tmp_path / "area")
    database = given.opened[0]
    wrong = {**database.artifact.evidence, "objects_by_resource": {**COUNTS, "nodes": 2}}
    forged = database.model_copy(update={"artifact": database.artifact.model_copy(update={"evidence": wrong})})

    with pytest.raises(IntegrityError, match="objects_by_resource in the file: expected"):
        source.rehearse(host(), given.model_copy(update={"opened": (forged, given.opened[1])}))


def test_a_set_without_its_token_is_refused(server: K3sHost, tmp_path: Path) -> None:
    source = server.source()
    artifacts = [opened.artifact for opened in work(source, tmp_path / "area").opened]

    assert source.select(artifacts, {}) == tuple(artifacts)
    with pytest.raises(RestoreRefusedError, match="expected a datastore and its token, seen etcd"):
        source.select(artifacts[:1], {})


def test_a_token_of_another_cluster_makes_the_backup_incomplete_and_a_restore_refused(
    server: K3sHost, tmp_path: Path
) -> None:
    authority = server.server / "tls" / "server-ca.crt"
    before = authority.read_bytes()
    source = server.source()
    try:
        authority.write_bytes(new_authority())
        database, _ = source.collect(host(), "etcd-snapshots")
        shortfalls = read(source, database)[1].shortfalls
        given = work(source, tmp_path / "area")
    finally:
        authority.write_bytes(before)

    assert shortfalls == ("its server token belongs to another authority than its certificates",)
    with pytest.raises(RestoreRefusedError, match="its token belongs to another authority"):
        source.preview(host(), given)


def test_a_full_token_may_name_the_root_of_a_chain_of_authorities(server: K3sHost) -> None:
    authority, token = server.server / "tls" / "server-ca.crt", server.server / "token"
    before = authority.read_bytes(), token.read_text()
    root = new_authority()
    der = subprocess.run(["openssl", "x509", "-outform", "DER"], input=root, check=True, capture_output=True).stdout
    try:
        authority.write_bytes(new_authority() + root)
        token.write_text(f"K10{sha256(der).hexdigest()}::server:{PASSWORD}\n")
        database, _ = server.source().collect(host(), "etcd-snapshots")
    finally:
        authority.write_bytes(before[0])
        token.write_text(before[1])

    assert database.evidence["token_matches_ca"] is True


def test_sqlite_is_copied_whole_while_it_is_written_and_rehearsed(single: K3sHost, tmp_path: Path) -> None:
    source = single.source()
    with closing(sqlite3.connect(single.db / "state.db")) as writer:
        writer.execute("INSERT INTO kine (name, created, deleted) VALUES ('/registry/secrets/default/c', 1, 0)")
        writer.commit()
        assert (single.db / "state.db-wal").stat().st_size
        writer.execute("INSERT INTO kine (name, created, deleted) VALUES ('/registry/secrets/default/d', 1, 0)")

        given = work(source, tmp_path / "area")

    database = given.opened[0].artifact
    assert database.settings["holds"] == "sqlite"
    assert database.evidence["objects_by_resource"] == {**COUNTS, "secrets": 3}
    assert database.evidence["total_keys"] == sum(COUNTS.values()) + 3
    assert "integrity_check ok" in source.rehearse(host(), given)[-1]
    assert list((tmp_path / "staging").iterdir()) == []


def test_a_damaged_sqlite_database_is_no_backup(single: K3sHost) -> None:
    source = single.source()
    database, _ = source.collect(host(), "etcd-snapshots")
    with closing(sqlite3.connect(single.db / "state.db")) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    with (single.db / "state.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 2048)

    with pytest.raises(IntegrityError, match=r"state\.db"), source.open(host(), database):
        pass


@pytest.mark.parametrize("where", ["config.yaml", "config.yaml.d/10-store.yaml", "flags"])
def test_an_external_datastore_is_named_as_missing_without_its_address(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "postgres://k3s:hunter2@10.0.0.9/k3s"
    server = K3sHost(tmp_path / "vps3", "vps3", flags=f"--datastore-endpoint {address}" if where == "flags" else "")
    server.seed_sqlite()  # left from before it was moved
    if where != "flags":
        file = server.config_dir / where
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"datastore-endpoint: {address}\n")
    play(server, tmp_path, monkeypatch)

    with pytest.raises(SourceMissingError, match="external datastore") as caught:
        server.source().collect(host(), "etcd-snapshots")

    assert "hunter2" not in str(caught.value)


def test_a_host_without_a_datastore_or_without_a_token_is_a_missing_source(
    single: K3sHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (single.server / "token").unlink()
    with pytest.raises(SourceMissingError, match="expected the server token, seen none"):
        single.source().collect(host(), "etcd-snapshots")

    agent = K3sHost(tmp_path / "agent", "agent")
    play(agent, tmp_path, monkeypatch)
    with pytest.raises(SourceMissingError, match=r"expected an embedded etcd or state\.db, seen neither"):
        agent.source().collect(host(), "etcd-snapshots")


def test_k3s_that_is_down_is_an_error_in_its_own_words(server: K3sHost, tmp_path: Path) -> None:
    source = server.source()
    database, _ = source.collect(host(), "etcd-snapshots")
    server.stop()
    try:
        with pytest.raises(CollectError, match="etcd database not found"), source.open(host(), database):
            pass
    finally:
        server.start()
