"""Commands in real pods: fast, whole, and never short when the connection, the pod or the disk gives out."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from estate import await_condition

from gxbackup.adapters.cluster import CLAIM_FOLDER, Cluster
from gxbackup.adapters.pods import PodPlace
from gxbackup.errors import CollectError, CommandError, RestoreError, SetupError, SourceMissingError
from gxbackup.ports import PlainStream
from tests.cluster.api_server import mortal_api_server
from tests.cluster.conftest import IMAGE, CuttableApi
from tests.cluster.scratch_api import kubectl

pytestmark = pytest.mark.cluster
IDLE = "trap 'exit 0' TERM; while :; do sleep 0.2; done"
ENDLESS = ["cat", "/dev/zero"]


def all_of(stream: PlainStream) -> int:
    buffer = memoryview(bytearray(256 * 1024))
    size_bytes = 0
    while count := stream.readinto(buffer):
        size_bytes += count
    return size_bytes


def until_cut(stream: PlainStream) -> None:
    all_of(stream)
    stream.finish()


def test_output_and_input_arrive_whole(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    place = cluster.place(namespace, "one-0")
    content = os.urandom(3_000_000)
    (tmp_path / "input").write_bytes(content)

    with place.read(["sh", "-c", "echo beside it >&2; head -c 20000000 /dev/zero"]) as stream:
        assert all_of(stream) == 20_000_000
        assert stream.finish().shortfalls == ()
    assert place.write(["cat"], tmp_path / "input", timeout_seconds=60).stdout == content
    assert place.run(["wc", "-c"], timeout_seconds=30, stdin=b"x" * 200_000).text() == "200000"


def test_a_command_that_fails_says_why(cluster: Cluster, namespace: str) -> None:
    place = cluster.place(namespace, "one-0")

    with pytest.raises(CommandError, match="expected exit status 0, seen 3: no such table"):
        place.run(["sh", "-c", "echo no such table >&2; exit 3"], timeout_seconds=30)
    with pytest.raises(CommandError, match="seen 126|cannot run it"):
        place.run(["there-is-no-such-program"], timeout_seconds=30)
    with pytest.raises(CommandError, match="not finished after 1 s"):
        place.run(["sleep", "60"], timeout_seconds=1)


def test_a_connection_cut_in_mid_stream_is_an_error(cuttable: CuttableApi, cluster: Cluster, namespace: str) -> None:
    with cluster.place(namespace, "one-0").read(ENDLESS) as stream:
        assert stream.readinto(memoryview(bytearray(1000)))
        cuttable.cut()
        with pytest.raises(CommandError, match="cut off"):
            until_cut(stream)


def test_an_api_server_that_dies_in_mid_stream_is_an_error_and_the_next_try_is_whole(
    cluster: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mortal_api_server(tmp_path) as api_server:
        monkeypatch.setenv("KUBECONFIG", str(api_server.kubeconfig))
        api_server.start()
        place = cluster.place(namespace, "one-0")
        with place.read(ENDLESS) as stream:
            assert stream.readinto(memoryview(bytearray(1000)))
            api_server.kill()
            with pytest.raises(CommandError, match="cut off") as failure:
                until_cut(stream)
        api_server.start()

        with place.read(["head", "-c", "20000000", "/dev/zero"]) as stream:
            assert all_of(stream) == 20_000_000
            stream.finish()

    assert failure.value.retryable


def test_a_step_of_a_restore_may_say_nothing_for_as_long_as_it_may_take(
    cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    waits = "silence_seconds"
    monkeypatch.setitem(PodPlace.start.__wrapped__.__kwdefaults__, waits, 0.5)  # type: ignore[attr-defined]
    place = cluster.place(namespace, pod="one-0")
    (tmp_path / "input").write_bytes(b"rows")

    place.run(["sh", "-c", "sleep 2"], timeout_seconds=60)
    place.write(["sh", "-c", "cat >/dev/null; sleep 2"], tmp_path / "input", timeout_seconds=60)

    with place.read(["sleep", "2"]) as stream, pytest.raises(CommandError, match="cut off"):
        stream.readinto(memoryview(bytearray(10)))


def test_a_pod_restarted_in_mid_stream_is_an_error(cluster: Cluster, namespace: str) -> None:
    with cluster.place(namespace, "one-0").read(ENDLESS) as stream:
        assert stream.readinto(memoryview(bytearray(1000)))
        killer = threading.Thread(target=cluster.delete_pod, args=(namespace, "one-0"))
        killer.start()
        try:
            with pytest.raises((CommandError, CollectError)):
                until_cut(stream)
        finally:
            killer.join()
    kubectl("rollout", "status", "-n", namespace, "statefulset/one", "--timeout=120s")


def test_a_disk_that_is_full_is_an_error_in_its_own_words(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(bytes(1_000_000))

    with pytest.raises(CommandError, match="No space left on device"):
        cluster.place(namespace, "one-0").write(["sh", "-c", "cat > /dev/full"], tmp_path / "input", timeout_seconds=60)


def test_a_pod_that_is_missing_or_one_of_two_is_named(cluster: Cluster, namespace: str) -> None:
    with pytest.raises(SourceMissingError, match=f"pod {namespace}/absent-0: expected, seen none"):
        cluster.place(namespace, "absent-0")
    kubectl("run", "-n", namespace, "two", f"--image={IMAGE}", "--labels=app=one", "--command", "--", "sh", "-c", IDLE)
    try:
        with pytest.raises(SourceMissingError, match=r"\(app=one\): expected one, seen 2: one-0, two"):
            cluster.place(namespace, selector="app=one")
    finally:
        cluster.delete_pod(namespace, "two")


def test_a_pod_that_is_not_ready_is_said_with_its_state(cluster: Cluster, namespace: str) -> None:
    kubectl("run", "-n", namespace, "ended", f"--image={IMAGE}", "--restart=Never", "--command", "--", "false")
    try:
        with pytest.raises(SourceMissingError, match="expected ready, seen (Pending|Running|Failed|ContainerCreating)"):
            cluster.place(namespace, "ended")
    finally:
        cluster.delete_pod(namespace, "ended")


def test_a_container_that_fails_beside_the_servers_own_costs_nothing(cluster: Cluster, namespace: str) -> None:
    one = {"image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", IDLE]}
    never = {"exec": {"command": ["false"]}}
    containers = [{"name": "server", **one}, {"name": "exporter", "readinessProbe": never, **one}]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "both"}, "spec": {"containers": containers}}
    kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(pod))
    try:
        await_condition("its server is ready", lambda: _ready(cluster, namespace) == ("server",), 60)

        assert (
            cluster.place(namespace, "both", container="server").run(["echo", "on"], timeout_seconds=30).text() == "on"
        )
        with pytest.raises(SourceMissingError, match="both: expected ready, seen"):
            cluster.place(namespace, "both", container="exporter")
    finally:
        cluster.delete_pod(namespace, "both")


def _ready(cluster: Cluster, namespace: str) -> tuple[str, ...]:
    return next((pod.ready_containers for pod in cluster.pods(namespace) if pod.name == "both"), ())


def test_a_stopped_servers_claim_is_looked_into_and_changed(cluster: Cluster, namespace: str) -> None:
    cluster.place(namespace, "one-0").run(["sh", "-c", "echo old > /data/file"], timeout_seconds=30)
    (pod,) = cluster.pods(namespace, "app=one")

    cluster.scale(namespace, "one", 0)
    with cluster.claim_place(namespace, "data-one-0", pod.images[0]) as place:
        assert place.run(["cat", f"{CLAIM_FOLDER}/file"], timeout_seconds=30).text() == "old"
        place.run(["sh", "-c", f"echo new > {CLAIM_FOLDER}/file"], timeout_seconds=30)
    cluster.scale(namespace, "one", 1)

    assert pod.claims == {"data-one-0": "/data"}
    assert cluster.place(namespace, "one-0").run(["cat", "/data/file"], timeout_seconds=30).text() == "new"
    assert [one.name for one in cluster.pods(namespace)] == ["one-0"]


def test_what_never_gets_ready_is_given_up(cluster: Cluster, namespace: str) -> None:
    with (
        pytest.raises(RestoreError, match="expected within 1 s"),
        cluster.claim_place(namespace, "no-such-claim", IMAGE, timeout_seconds=1),
    ):
        pass

    assert [one.name for one in cluster.pods(namespace)] == ["one-0"]


def test_no_kubeconfig_and_no_api_server_are_two_clear_errors(
    cluster: Cluster, cuttable: CuttableApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuttable.close()
    with pytest.raises(CollectError, match="the API server cannot be reached") as failure:
        cluster.pods("default")
    assert failure.value.retryable

    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    with pytest.raises(SetupError, match="kubeconfig: cannot be used"):
        cluster.pods("default")
