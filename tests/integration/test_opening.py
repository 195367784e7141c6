"""What is held is opened by its own tool: real dumps of real servers pass, the same with one wrong byte do not."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gxbackup import opening
from gxbackup.errors import CommandError, IntegrityError
from tests.integration.k3s_hosts import K3sHost
from tests.integration.postgres_server import Protected
from tests.integration.redis_servers import LocalRedis
from tests.sealed import Bytes, Keys, make_keys, seal


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def dump(postgres: Protected, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("dump") / "app.dump"
    env = {**os.environ, **postgres.env(), "PGPASSWORD": postgres.env()["POSTGRES_PASSWORD"]}
    subprocess.run(["pg_dump", "-U", "postgres", "-Fc", "-f", file, "app"], env=env, check=True)
    return file.read_bytes()


@pytest.fixture(scope="module")
def rdb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bytes]:
    server = LocalRedis(tmp_path_factory.mktemp("redis"))
    server.start()
    try:
        server.fill()
        server.cli("SAVE")
        yield (server.path / "dump.rdb").read_bytes()
    finally:
        server.stop()


@pytest.fixture(scope="module")
def etcd_snapshot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bytes]:
    host = K3sHost(tmp_path_factory.mktemp("etcd") / "vps3", "vps3")
    try:
        host.start()
        host.seed()
        file = host.root / "taken.db"
        host.etcdctl("snapshot", "save", str(file))
        yield file.read_bytes()
    finally:
        host.stop()


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    host = K3sHost(tmp_path_factory.mktemp("sqlite") / "vps2", "vps2")
    host.seed_sqlite()
    return (host.db / "state.db").read_bytes()


def opened(plain: bytes, path: str, kind: str, area: Path, keys: Keys) -> str:
    """Seal bytes under this name, and open them as the weekly look does."""
    area.mkdir(exist_ok=True)
    _, artifact = seal(Bytes(plain), area, keys, path=f"{path}.zst.age", kind=kind)
    files = [area / part.path for part in artifact.parts]
    try:
        return opening.open_artifact(artifact, files, keys["rehearsal"][1], area / "nowhere")
    finally:
        assert not (area / "nowhere").exists()
        for file in files:
            file.unlink()


def without(program: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a host that lacks a program: a PATH of links to all others."""
    folder.mkdir()
    for name in ("age", "setpriv", "tar"):
        found = next(Path(at) / name for at in os.environ["PATH"].split(":") if (Path(at) / name).exists())
        (folder / name).symlink_to(found)
    assert not (folder / program).exists()
    monkeypatch.setenv("PATH", str(folder))


def with_wrong_byte(plain: bytes, at: int) -> bytes:
    return plain[:at] + bytes([plain[at] ^ 0xFF]) + plain[at + 1 :]


def test_a_database_dump_is_read_whole_by_pg_restore(dump: bytes, tmp_path: Path, keys: Keys) -> None:
    path = "databases/postgres-mainnet/app.dump"

    assert opened(dump, path, "postgres", tmp_path, keys) == "read whole by pg_restore"
    # its head and its list of contents are whole: only what reads the data to the end sees it
    for damaged in (dump[:-400], with_wrong_byte(dump, dump.index(b"\x78\x9c") + 2)):
        with pytest.raises(IntegrityError, match=r"app\.dump.*pg_restore: expected exit status 0, seen 1: "):
            opened(damaged, path, "postgres", tmp_path, keys)


def test_a_saved_dataset_is_checked_by_rediss_own_tool(rdb: bytes, tmp_path: Path, keys: Keys) -> None:
    path = "databases/redis-mainnet/redis-mainnet.rdb"

    assert opened(rdb, path, "redis", tmp_path, keys) == "checked by redis-check-rdb"
    for damaged in (rdb[:-12], with_wrong_byte(rdb, len(rdb) // 2)):
        with pytest.raises(IntegrityError, match=r"redis-check-rdb: expected exit status 0, seen 1: .*ERROR"):
            opened(damaged, path, "redis", tmp_path, keys)


def test_an_etcd_snapshot_is_held_against_its_own_sum_and_read_by_etcd(
    etcd_snapshot: bytes, tmp_path: Path, keys: Keys
) -> None:
    path = "files/etcd-snapshots/etcd-snapshot.db"

    assert "own sha256; etcd reads " in opened(etcd_snapshot, path, "etcd", tmp_path, keys)
    with pytest.raises(IntegrityError, match="expected sha256"):
        opened(with_wrong_byte(etcd_snapshot, 9000), path, "etcd", tmp_path, keys)
    torn = bytes(8192) + etcd_snapshot[8192:-32]
    with pytest.raises(IntegrityError, match="etcdctl"):
        opened(torn + hashlib.sha256(torn).digest(), path, "etcd", tmp_path, keys)


def test_a_sqlite_datastore_is_checked_by_sqlite(sqlite: bytes, tmp_path: Path, keys: Keys) -> None:
    path = "files/etcd-snapshots/state.db"

    assert opened(sqlite, path, "etcd", tmp_path, keys).startswith("checked by SQLite: ")
    for damaged in (sqlite[: len(sqlite) // 2], with_wrong_byte(sqlite, 4096), b"no database at all" * 100):
        with pytest.raises(IntegrityError, match="SQLite"):
            opened(damaged, path, "etcd", tmp_path, keys)


def test_a_host_without_the_tool_checks_the_form_and_says_so(
    dump: bytes, rdb: bytes, etcd_snapshot: bytes, tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    without("pg_restore", tmp_path / "bin", monkeypatch)
    area = tmp_path / "area"

    assert opened(dump, "d/app.dump", "postgres", area, keys).endswith("; pg_restore is not installed here")
    assert opened(rdb, "d/r.rdb", "redis", area, keys).endswith("; redis-check-rdb is not installed here")
    assert opened(etcd_snapshot, "f/etcd-snapshot.db", "etcd", area, keys).endswith(
        "; etcd's own tool is not installed here"
    )
    with pytest.raises(IntegrityError, match="expected it to begin with b'PGDMP'"):
        opened(rdb, "d/app.dump", "postgres", area, keys)


def test_a_tool_that_this_host_ends_is_no_rot(
    dump: bytes, tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    program = bin_folder / "pg_restore"

    def standing_in(script: str) -> None:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    standing_in("cat >/dev/null; kill -9 $$")
    with pytest.raises(CommandError, match="pg_restore: ended by signal 9"):
        opened(dump, "d/app.dump", "postgres", tmp_path, keys)
    standing_in("echo 'Error: You must install at least one postgresql-client-<version> package' >&2; exit 1")
    assert opened(dump, "d/app.dump", "postgres", tmp_path, keys).endswith("; pg_restore is not installed here")


def test_a_tool_older_than_the_bytes_is_not_taken_for_rot(dump: bytes, rdb: bytes, tmp_path: Path, keys: Keys) -> None:
    newer_dump = dump[:6] + b"\x63" + dump[7:]

    assert opened(newer_dump, "d/app.dump", "postgres", tmp_path, keys) == (
        "read whole, begins as it should; pg_restore of this host is too old for it"
    )
    assert opened(b"REDIS0099" + rdb[9:], "d/r.rdb", "redis", tmp_path, keys).endswith("is too old for it")


def test_a_tar_that_reads_no_more_does_not_hide_that_the_bytes_are_others(
    tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, artifact = seal(Bytes(bytes(8_000_000)), tmp_path, keys, path="fabric/volume.tar.zst.age", kind="ledger")
    artifact = artifact.model_copy(update={"plain_sha256": "0" * 64})
    program = tmp_path / "bin" / "tar"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    files = [tmp_path / part.path for part in artifact.parts]

    with pytest.raises(IntegrityError, match="plain bytes with sha256 0000"):
        opening.open_artifact(artifact, files, keys["recovery"][1], tmp_path / "nowhere")
