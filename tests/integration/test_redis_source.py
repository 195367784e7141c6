"""Redis, on real servers: what a save must have been, what an RDB tells of itself, and how it is put back."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from estate import await_condition

from gxbackup.adapters.cluster import Pod
from gxbackup.errors import (
    CollectError,
    CommandError,
    IntegrityError,
    RestoreError,
    RestoreRefusedError,
)
from gxbackup.inventory import DataType
from gxbackup.model import Artifact, Capture, Part
from gxbackup.ports import StreamEnd
from gxbackup.redis import restore, swap
from gxbackup.redis.swap import DataFiles
from gxbackup.sources.base import Opened, Work
from gxbackup.sources.redis import Redis
from tests.integration.redis_servers import LocalRedis, making_servers, source

SECRET = "hunter2 'with\"quotes$"
FILES = DataFiles("dump.rdb", False, "appendonlydir", "appendonly.aof")
APPENDING = DataFiles("dump.rdb", True, "appendonlydir", "appendonly.aof")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    redis = LocalRedis(tmp_path_factory.mktemp("redis"), "--enable-protected-configs", "yes", password=SECRET)
    redis.start()
    yield redis
    redis.stop()


@pytest.fixture
def redis(shared: LocalRedis) -> LocalRedis:
    """The shared server, filled anew."""
    shared.cli("FLUSHALL")
    shared.fill()
    return shared


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Any]:
    """Make servers that a test may stop, kill and starve."""
    with making_servers(tmp_path) as make:
        yield make


def taken(redis: LocalRedis, **settings: Any) -> tuple[Capture, bytes, StreamEnd]:
    """Collect and read."""
    kind = source(redis, **settings)
    [capture] = kind.collect(redis.host(), "redis-mainnet")
    out, buffer = bytearray(), memoryview(bytearray(700))
    with kind.open(redis.host(), capture) as stream:
        while count := stream.readinto(buffer):
            out += buffer[:count]
        return capture, bytes(out), stream.finish()


def work(folder: Path, capture: Capture, rdb: bytes, end: StreamEnd) -> Work:
    """What a restore is given of it."""
    folder.mkdir(exist_ok=True)
    file = folder / capture.name
    file.write_bytes(rdb)
    digest = hashlib.sha256(rdb).hexdigest()
    artifact = Artifact(
        data_type=capture.data_type, kind="redis", path=f"databases/{capture.name}.zst.age",
        parts=(Part(path="x", size_bytes=1, sha256=digest),), sealed_size_bytes=1, sealed_sha256=digest,
        plain_size_bytes=len(rdb), plain_sha256=digest, keep_days=7,
        settings=capture.settings, evidence={**capture.evidence, **end.evidence},
    )  # fmt: skip
    return Work(
        data_type=capture.data_type,
        opened=(Opened(artifact=artifact, file=file),),
        area=folder,
        safety_dir=folder,
    )


def test_a_save_is_taken_with_the_keys_of_each_database(redis: LocalRedis) -> None:
    capture, rdb, end = taken(redis)

    assert rdb == (redis.path / "dump.rdb").read_bytes()
    assert end.evidence["databases"] == {"0": {"keys": 1006, "expires": 1}, "7": {"keys": 2, "expires": 1}}
    assert (end.evidence["keys"], end.evidence["expires"]) == (1008, 2)
    assert capture.evidence["redis_version"] == redis.server().info()["redis_version"]
    assert capture.expected_size_bytes == len(rdb)


def test_a_run_with_nothing_changed_reads_the_same_bytes_without_another_save(redis: LocalRedis) -> None:
    _, first, _ = taken(redis)
    saves = redis.server().info()["rdb_saves"]

    _, again, _ = taken(redis)

    assert again == first
    assert redis.server().info()["rdb_saves"] == saves


def test_a_save_by_others_with_nothing_changed_has_the_same_content(redis: LocalRedis) -> None:
    _, first, before = taken(redis)
    while redis.server().call("TIME").split()[0] == str(before.evidence["rdb_created_at"]):
        time.sleep(0.1)
    redis.cli("SAVE")

    _, again, after = taken(redis)
    redis.cli("SET", "one", "more")
    _, _, changed = taken(redis)

    assert again != first
    assert after.content_sha256 == before.content_sha256
    assert changed.content_sha256 != before.content_sha256


def test_the_save_holds_what_was_written_just_before_it(redis: LocalRedis) -> None:
    for number in range(3):  # each within the same second: LASTSAVE alone would not tell them apart
        redis.cli("SET", f"marker-{number}", "here")
        _, rdb, _ = taken(redis)
        assert f"marker-{number}".encode() in rdb


def test_a_save_of_others_that_is_under_way_is_waited_for(own: Any) -> None:
    redis = own("--rdb-key-save-delay", "500", "--save", "")
    redis.fill()
    redis.cli("BGSAVE")  # takes half a second
    redis.cli("SET", "marker", "written-meanwhile")

    _, rdb, _ = taken(redis)

    assert b"written-meanwhile" in rdb


def test_the_password_is_used_where_it_lies_and_never_in_an_argv(redis: LocalRedis) -> None:
    seen: list[str] = []
    start = redis.place.start
    redis.place.start = lambda argv, **more: (seen.extend(argv), start(argv, **more))[1]  # type: ignore[method-assign, assignment]
    try:
        taken(redis)
    finally:
        del redis.place.start  # type: ignore[attr-defined]

    assert "redis-cli" in " ".join(seen)
    assert SECRET not in " ".join(seen)


def test_a_wrong_password_is_told_with_the_variable_that_held_it(redis: LocalRedis) -> None:
    with pytest.raises(CollectError, match="expected to be let in, seen NOAUTH") as raised:
        source(redis, password_variable="HOME").collect(redis.host(), "redis-mainnet")

    assert "variable HOME" in str(raised.value)
    assert not raised.value.retryable


def test_a_server_that_is_not_there_is_tried_again(redis: LocalRedis) -> None:
    kind = Redis(namespace="backend", pod="redis-0", port=1)

    with pytest.raises(CommandError, match="Could not connect") as raised:
        kind.collect(redis.host(), "redis-mainnet")

    assert raised.value.retryable


def test_a_server_that_is_still_loading_is_not_captured(own: Any) -> None:
    redis = own("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024", "--save", "")
    redis.fill()
    redis.cli("SAVE")
    redis.stop()
    redis.spawn()  # loads for a second

    deadline = time.monotonic() + 10
    while "LOADING" not in (said := subprocess.run(
        ["redis-cli", "-p", str(redis.port), "PING"], capture_output=True, text=True, check=False
    ).stdout):  # fmt: skip
        assert time.monotonic() < deadline, said
    with pytest.raises(CommandError, match="loading") as raised:
        source(redis).collect(redis.host(), "redis-mainnet")

    assert raised.value.retryable


def test_a_disk_without_room_fails_the_save_and_says_so(redis: LocalRedis, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "gx-test", disk], check=True)
    try:
        redis.cli("CONFIG", "SET", "dir", str(disk))
        with pytest.raises(CollectError, match="rdb_last_bgsave_status is 'err'; its disk: gx-test"):
            source(redis).collect(redis.host(), "redis-mainnet")
    finally:
        redis.cli("CONFIG", "SET", "dir", redis.folder)
        subprocess.run(["umount", disk], check=True)

    taken(redis)


def test_a_save_that_the_kernel_kills_for_want_of_memory_is_no_save(own: Any) -> None:
    redis = own("--rdb-key-save-delay", "20000", "--save", "")
    redis.fill()
    with ThreadPoolExecutor(1) as pool:
        collected = pool.submit(source(redis).collect, redis.host(), "redis-mainnet")
        redis.kill_its_save(collected)

        with pytest.raises(CollectError, match="rdb_last_bgsave_status is 'err'.*") as raised:
            collected.result(30)

    assert "no memory to fork" in str(raised.value)


def test_a_save_that_is_stuck_ends_at_its_limit(own: Any) -> None:
    redis = own("--rdb-key-save-delay", "60000", "--save", "")
    redis.fill()

    with pytest.raises(CollectError, match="source.save_timeout_seconds") as raised:
        source(redis, save_timeout_seconds=1).collect(redis.host(), "redis-mainnet")

    assert raised.value.retryable


def test_a_damaged_file_is_not_captured(redis: LocalRedis) -> None:
    kind = source(redis)
    [capture] = kind.collect(redis.host(), "redis-mainnet")
    file = redis.path / "dump.rdb"
    file.write_bytes(file.read_bytes()[:-500])

    with pytest.raises(CommandError, match="it is damaged"), kind.open(redis.host(), capture):
        pass


def test_an_old_file_under_the_right_name_is_not_the_save(redis: LocalRedis, tmp_path: Path) -> None:
    old = tmp_path / "old.rdb"
    old.write_bytes((redis.path / "dump.rdb").read_bytes())
    subprocess.run(["touch", "-d", "2020-01-01", old], check=True)

    with pytest.raises(CollectError, match="expected written after"):
        source(redis, file=str(old)).collect(redis.host(), "redis-mainnet")


def test_a_place_without_the_tool_still_gives_a_whole_file(redis: LocalRedis, tmp_path: Path, monkeypatch: Any) -> None:
    for program in ("sh", "cat", "stat", "redis-cli", "tee", "sha256sum", "b2sum", "setpriv", "head", "df"):
        (tmp_path / program).symlink_to(subprocess.run(["which", program], capture_output=True, text=True,
                                                       check=True).stdout.strip())  # fmt: skip
    monkeypatch.setenv("PATH", str(tmp_path))

    _, rdb, end = taken(redis)

    assert rdb.startswith(b"REDIS")
    assert "keys" not in end.evidence


def test_two_places_at_once_are_refused_by_the_inventory() -> None:
    with pytest.raises(ValueError, match="namespace and pod, or docker_container"):
        Redis(namespace="backend", pod="redis-0", docker_container="redis")
    assert isinstance(
        DataType.model_validate({"source": {"kind": "redis", "namespace": "a", "pod": "redis-0"}, "rpo_hours": 6,
                                 "keep_days": 7}).source, Redis
    )  # fmt: skip


def test_a_rehearsal_serves_the_file_and_compares_every_database(redis: LocalRedis, tmp_path: Path) -> None:
    redis.cli("SET", "gone-soon", "x", "PX", "1500")
    capture, rdb, end = taken(redis)
    # What expires between save and rehearsal is no loss.
    await_condition("the key to expire", lambda: redis.cli("EXISTS", "gone-soon").strip() == "0", 10)

    told = source(redis).rehearse(redis.host(), work(tmp_path / "area", capture, rdb, end))

    assert told == ["1008 keys in 2 databases equal what was saved; 1 more have expired since"]
    assert not (tmp_path / "area" / "scratch-redis" / "redis.sock").exists()


def test_a_rehearsal_that_is_killed_leaves_no_server_behind(redis: LocalRedis, tmp_path: Path) -> None:
    taken(redis)
    shutil.copy(redis.path / "dump.rdb", tmp_path / "dump.rdb")
    killed = (
        "import os, signal, sys\n"
        "from gxbackup.adapters.places import LocalPlace\n"
        "from gxbackup.scratch.redis import running_redis\n"
        "with running_redis(LocalPlace('scratch'), sys.argv[1], 'dump.rdb', {}) as server:\n"
        "    print(server.info()['process_id'], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    ended = subprocess.run([sys.executable, "-c", killed, tmp_path], capture_output=True, text=True, check=False)

    assert ended.returncode == -signal.SIGKILL, ended.stderr
    process, deadline = Path("/proc", ended.stdout.strip()), time.monotonic() + 10
    while process.exists() and process.joinpath("cmdline").read_bytes():
        assert time.monotonic() < deadline, "it serves on"
        time.sleep(0.02)


def test_a_rehearsal_sees_a_single_key_that_is_missing(redis: LocalRedis, tmp_path: Path) -> None:
    _, rdb, _ = taken(redis)
    redis.cli("SET", "one", "more")
    capture, _, end = taken(redis)

    with pytest.raises(IntegrityError, match="database 0: expected 1007 keys, 1 of them with an end, seen 1006 and 1"):
        source(redis).rehearse(redis.host(), work(tmp_path / "area", capture, rdb, end))


def test_a_restore_survives_the_old_dataset_that_a_stop_writes(own: Any, tmp_path: Path) -> None:
    redis = own("--save", "3600 1")
    redis.fill()
    capture, rdb, end = taken(redis)
    given = work(tmp_path / "area", capture, rdb, end).opened[0]
    redis.cli("FLUSHALL")
    redis.cli("SET", "only", "this")

    told = restore.put_in_place(redis, given.file, FILES, given.artifact.evidence)

    assert redis.cli("DBSIZE") == "1006"
    assert redis.cli("GET", "key:999") == "value-999"
    [kept] = redis.path.glob("before-restore-*")
    assert str(kept) in told[-1]
    other = LocalRedis(kept)
    other.start()
    assert other.cli("GET", "only") == "this"  # what was there is whole, as of its very last write
    other.stop()


def test_a_restore_survives_an_append_only_file(own: Any, tmp_path: Path) -> None:
    redis = own("--appendonly", "yes")
    redis.fill()
    capture, rdb, end = taken(redis)
    given = work(tmp_path / "area", capture, rdb, end).opened[0]
    redis.cli("FLUSHALL")
    redis.cli("SET", "only", "this")

    told = restore.put_in_place(redis, given.file, APPENDING, given.artifact.evidence)

    assert "its append-only file was written anew from them" in told
    assert redis.cli("DBSIZE") == "1006"
    redis.cli("SET", "after", "restore")
    redis.stop()
    redis.start()
    assert (redis.cli("DBSIZE"), redis.cli("GET", "after")) == ("1007", "restore")


def test_a_file_that_is_not_what_was_saved_leaves_the_old_data_running(own: Any, tmp_path: Path) -> None:
    redis = own()
    redis.fill()
    capture, rdb, end = taken(redis)
    given = work(tmp_path / "area", capture, rdb[:-20], end).opened[0]
    redis.cli("SET", "newer", "than-the-backup")

    with pytest.raises(RestoreError, match="what was there is back: .*does not load the RDB"):
        restore.put_in_place(redis, given.file, FILES, given.artifact.evidence)

    assert redis.cli("GET", "newer") == "than-the-backup"
    assert sorted(path.name for path in redis.path.iterdir()) == ["dump.rdb", "redis.log"]


def test_a_server_that_loads_something_else_gets_its_old_data_back(own: Any, tmp_path: Path) -> None:
    redis = own("--appendonly", "yes")
    redis.fill()
    capture, rdb, end = taken(redis)
    given = work(tmp_path / "area", capture, rdb, end).opened[0]
    redis.cli("SET", "newer", "than-the-backup")

    # It does append, and so it ignores the RDB and starts empty.
    with pytest.raises(RestoreError, match="back: .*database 0: expected 1005 keys without an end, seen 0"):
        restore.put_in_place(redis, given.file, FILES, given.artifact.evidence)

    assert redis.cli("GET", "newer") == "than-the-backup"


def test_a_server_that_loads_an_older_file_is_seen_by_its_counts(own: Any, tmp_path: Path) -> None:
    redis = own("--dbfilename", "other.rdb")
    redis.cli(text="SET key:1 old\nSET key:2 old\nSELECT 7\nSET other old\n")  # the databases are the same
    redis.cli("SAVE")
    elsewhere = LocalRedis(tmp_path / "elsewhere", "--save", "")
    elsewhere.start()
    elsewhere.fill()
    capture, rdb, end = taken(elsewhere)
    elsewhere.stop()
    given = work(tmp_path / "area", capture, rdb, end).opened[0]

    for evidence in (given.artifact.evidence, {}):  # also where the snapshot tells no counts
        with pytest.raises(RestoreError, match="database 0: expected 1005 keys without an end, seen 2 after the start"):
            restore.put_in_place(redis, given.file, FILES, evidence)

    assert redis.cli("GET", "key:1") == "old"


def test_what_clients_write_after_the_start_is_no_difference(
    own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = own()
    redis.fill()
    capture, rdb, end = taken(redis)
    given = work(tmp_path / "area", capture, rdb, end).opened[0]
    start = redis.start
    monkeypatch.setattr(
        redis, "start", lambda: (start(), redis.cli("DEL", "key:1", "key:2"), redis.cli("SET", "a", "b"))
    )

    told = restore.put_in_place(redis, given.file, FILES, given.artifact.evidence)

    assert "started with 1007 keys" in told


def test_a_snapshot_without_counts_is_compared_with_those_of_its_file(redis: LocalRedis, tmp_path: Path) -> None:
    capture, rdb, _ = taken(redis)
    bare = work(tmp_path / "area", capture, rdb, StreamEnd({}))

    told = source(redis).rehearse(redis.host(), bare)

    assert told == ["1008 keys in 2 databases equal what is counted in the file; the snapshot tells none"]


class Killed(BaseException):
    """The process ends here; nothing after this line of it runs."""


@pytest.mark.parametrize(
    ("moment", "appends"),
    [("prepared", True), ("moved away", True), ("moved in", True), ("moved in", False), ("exchanged", True),
     ("started", True)],
)  # fmt: skip
def test_a_restore_that_was_killed_ends_well_when_it_is_run_again(
    own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, appends: bool
) -> None:
    redis = own("--appendonly", "yes" if appends else "no")
    redis.fill()
    capture, rdb, end = taken(redis)
    given = work(tmp_path / "area", capture, rdb, end).opened[0]
    redis.cli("SET", "newer", "than-the-backup")
    files = APPENDING if appends else FILES

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(restore, "_undone", lambda _target, _files, error, *_: error)
        if moment == "prepared":
            patch.setattr(swap, "exchange", killed)
        elif moment == "started":
            patch.setattr(swap, "keep", killed)
        elif moment == "exchanged":
            patch.setattr(redis, "start", killed)
        else:  # the shell itself is cut between two renames
            cut = 'for item in "$@"; do\n    [ !' if moment == "moved away" else 'rm -rf ".gx-restore-new"; sync'
            patch.setattr(swap, "_SWAP", swap._SWAP.replace(cut, "exit 9; " + cut))
        with pytest.raises((Killed, CommandError)):
            restore.put_in_place(redis, given.file, files, given.artifact.evidence)

    restore.put_in_place(redis, given.file, files, given.artifact.evidence)

    assert redis.cli("DBSIZE") == "1006"
    [kept] = [path for path in redis.path.glob("before-restore-*") if holds(path, redis, "newer")]
    assert not list(redis.path.glob("*.unfinished"))
    redis.stop()
    other = LocalRedis(kept, *redis.settings)
    other.start()
    assert other.cli("GET", "newer") == "than-the-backup"
    other.stop()


def holds(folder: Path, redis: LocalRedis, key: str) -> bool:
    """Tell whether a Redis on a copy of this folder has the key."""
    copy = shutil.copytree(folder, folder.parent.parent / f"look-{folder.name}-{key}", dirs_exist_ok=True)
    other = LocalRedis(copy, *redis.settings)
    other.start()
    try:
        return other.cli("EXISTS", key) == "1"
    finally:
        other.stop()


def pod_host(redis: LocalRedis) -> Any:
    """Return a host whose cluster has this server as the only pod of a StatefulSet, its folder on a claim."""
    pod = Pod(namespace="backend", name="redis-0", uid="1", node="n", ready=True, state="Running",
              containers=("redis",), images=("image",), labels={}, claims={"data": redis.folder})  # fmt: skip
    host = redis.host()
    host.cluster.replicas = lambda *_: 1
    host.cluster.pods = lambda *_: (pod,)
    return host


def test_what_was_written_since_a_restore_that_was_not_finished_is_told_and_kept(
    own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = own("--save", "3600 1")
    redis.fill()
    capture, rdb, end = taken(redis)
    work_given = work(tmp_path / "area", capture, rdb, end)
    given = work_given.opened[0]

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(restore, "_undone", lambda _target, _files, error, *_: error)
        patch.setattr(swap, "keep", killed)
        with pytest.raises(Killed):
            restore.put_in_place(redis, given.file, FILES, given.artifact.evidence)
    redis.cli("SET", "days-later", "written")  # the restored data serves clients for days

    planned = source(redis).preview(pod_host(redis), work_given)
    told = restore.put_in_place(redis, given.file, FILES, given.artifact.evidence)

    assert [line for line in planned if line.startswith("a restore was cut short here")]
    assert (redis.cli("DBSIZE"), redis.cli("EXISTS", "days-later")) == ("1006", "0")
    aside = Path(told[0].rpartition(" ")[2])
    assert holds(aside, redis, "days-later")


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_last_step_that_fails_leaves_a_server_that_runs_and_says_with_what(
    own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    redis = own("--save", "3600 1")
    redis.fill()
    capture, rdb, end = taken(redis)
    given = work(tmp_path / "area", capture, rdb, end).opened[0]
    redis.cli("SET", "newer", "than-the-backup")
    rename = 'mv "$before" "$kept"'
    failing = f"exit 9; {rename}" if cut == "before" else f"{rename}; exit 9"
    monkeypatch.setattr(swap, "_KEEP", swap._KEEP.replace(rename, failing))

    with pytest.raises(RestoreError) as raised:
        restore.put_in_place(redis, given.file, FILES, given.artifact.evidence)

    expected = "what was there is back" if cut == "before" else "runs with the restored data"
    assert expected in raised.value.message
    assert redis.cli("EXISTS", "newer") == ("1" if cut == "before" else "0")


def test_a_safety_copy_without_its_list_is_never_removed(own: Any, tmp_path: Path) -> None:
    redis = own("--save", "3600 1")
    redis.fill()
    capture, rdb, end = taken(redis)
    given = work(tmp_path / "area", capture, rdb, end).opened[0]
    redis.cli("SET", "newer", "than-the-backup")
    restore.put_in_place(redis, given.file, FILES, given.artifact.evidence)
    [kept] = redis.path.glob("before-restore-*")
    kept.rename(f"{kept}.unfinished")  # as a keep that was killed left it
    (redis.path / "before-restore-20200101_000000.unfinished").mkdir()

    restore.put_in_place(redis, given.file, FILES, given.artifact.evidence)

    assert holds(kept, redis, "newer")
    assert not list(redis.path.glob("*.unfinished"))


def test_a_keep_that_is_killed_anywhere_leaves_the_safety_copy(own: Any, tmp_path: Path) -> None:
    redis = own()
    folder = redis.path / "before-restore-20200101_000000.unfinished"
    folder.mkdir()
    (folder / "dump.rdb").write_bytes(b"old")
    (folder / ".items").write_text("dump.rdb\n")
    redis.stop()
    lines = swap._KEEP.splitlines()
    at = next(number for number, line in enumerate(lines) if ".items" in line or line.strip().startswith("mv "))
    killed = "\n".join([*lines[: at + 1], "kill -9 $$", *lines[at + 1 :]])

    subprocess.run(["sh", "-c", killed, "sh", redis.folder], check=False)
    swap.put_back(redis.place, redis.folder, FILES)

    [copy] = [path for path in redis.path.rglob("dump.rdb") if path.read_bytes() == b"old"]
    assert copy.exists()


def test_an_append_only_file_that_nobody_names_is_refused_before_anything_is_stopped(own: Any, tmp_path: Path) -> None:
    redis = own("--appendonly", "yes", "--rename-command", "CONFIG", "hidden")
    redis.fill()
    kind_file = {"file": str(redis.path / "dump.rdb")}
    capture, rdb, end = taken(redis, **kind_file)
    given = work(tmp_path / "area", capture, rdb, end)
    kind, host = source(redis, **kind_file), pod_host(redis)

    for refused in (kind.preview, kind.apply):
        with pytest.raises(RestoreRefusedError, match="expected CONFIG GET appendfilename to tell"):
            refused(host, given)
    assert redis.cli("DBSIZE") == "1006"
    redis.stop()  # the evidence alone tells it
    with pytest.raises(RestoreRefusedError, match="expected CONFIG GET appendfilename to tell"):
        kind.preview(host, given)


def test_a_replica_is_no_target_since_its_primarys_data_would_take_the_place_of_what_is_put_in(
    own: Any, tmp_path: Path
) -> None:
    primary = own(name="primary")
    primary.fill()
    replica = own("--replicaof", f"127.0.0.1 {primary.port}", name="replica")
    await_condition("the replica follows", lambda: replica.server().info()["master_link_status"] == "up", 30)
    given = work(tmp_path / "area", *taken(replica))

    for refused in (source(replica).preview, source(replica).apply):
        with pytest.raises(RestoreRefusedError, match=f"seen a replica of 127.0.0.1:{primary.port}"):
            refused(pod_host(replica), given)


def test_no_room_beside_the_old_data_is_seen_before_anything_is_exchanged(own: Any, tmp_path: Path) -> None:
    redis = own(name="full")
    redis.fill()
    capture, rdb, end = taken(redis)
    given = work(tmp_path / "area", capture, rdb, end).opened[0]
    with given.file.open("ab") as file:
        file.truncate(2**42)  # a hole

    with pytest.raises(RestoreError, match="expected room for"):
        restore.put_in_place(redis, given.file, FILES, given.artifact.evidence)

    assert redis.cli("DBSIZE") == "1006"


def test_a_container_is_not_restored_in_place(tmp_path: Path, redis: LocalRedis) -> None:
    capture, rdb, end = taken(redis)
    kind = Redis(docker_container="redis")

    with pytest.raises(RestoreRefusedError, match="needs a pod"):
        kind.preview(redis.host(), work(tmp_path / "area", capture, rdb, end))
