"""The state of Docker, read from a real Engine; and the restart that follows a restored website."""

from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gxbackup.adapters.containers import Containers
from gxbackup.adapters.host import Host
from gxbackup.errors import CollectError, EmptyArtifactError, RestoreError, SourceMissingError
from gxbackup.model import Capture
from gxbackup.ports import StreamEnd
from gxbackup.sources.docker_state import DockerState
from tests.integration.docker_engine import IMAGE, Engine, running_engine

SECRET = "hunter2-never-to-be-seen"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with running_engine(tmp_path_factory.mktemp("d")) as started:
        with started.client() as client:
            client.volumes.create("gx-data", labels={"role": "data"})
        started.run("gx-idle", environment={"PASSWORD": SECRET})
        started.run("gx-stopped", ["/bin/true"])
        yield started


@pytest.fixture
def host(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    return Host(Containers())


def read(host: Host, capture: Capture, buffer_bytes: int = 1024**2) -> tuple[bytes, StreamEnd]:
    buffer = memoryview(bytearray(buffer_bytes))
    plain = bytearray()
    with DockerState().open(host, capture) as stream:
        while count := stream.readinto(buffer):
            plain += buffer[:count]
        return bytes(plain), stream.finish()


def lines(plain: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in plain.decode().splitlines()]


def test_every_object_of_the_engine_is_one_line_with_its_full_inspect(host: Host, engine: Engine) -> None:
    (capture,) = DockerState().collect(host, "docker-state")

    plain, ending = read(host, capture)

    found = {(each["type"], each["name"]): each for each in lines(plain)}
    assert capture.name == "docker-state.jsonl"
    assert {("container", "gx-idle"), ("container", "gx-stopped"), ("image", IMAGE), ("volume", "gx-data")} <= set(
        found
    )
    with engine.client() as client:
        for kind, name in (("image", IMAGE), ("volume", "gx-data"), ("network", "none")):
            assert found[kind, name]["inspect"] == getattr(client.api, f"inspect_{kind}")(name)
        seen, now = found["container", "gx-idle"], client.api.inspect_container("gx-idle")
    assert seen["id"] == now["Id"]
    assert seen["inspect"]["Config"] == now["Config"]
    assert seen["inspect"]["HostConfig"] == now["HostConfig"]
    assert ending.evidence == {"containers": 2, "images": 1, "volumes": 1, "networks": 2}
    assert 0 < len(plain) <= capture.expected_size_bytes


def test_the_size_of_the_buffer_changes_nothing(host: Host) -> None:
    (capture,) = DockerState().collect(host, "docker-state")

    assert lines(read(host, capture, 7)[0]) == lines(read(host, capture)[0])


def test_environment_secrets_are_in_the_stream_and_nowhere_else(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    (capture,) = DockerState().collect(host, "docker-state")
    plain, ending = read(host, capture)

    assert SECRET.encode() in plain
    assert SECRET not in capture.model_dump_json()
    assert SECRET not in json.dumps(ending.evidence)
    assert SECRET not in caplog.text


def test_an_object_that_is_removed_meanwhile_is_noted_and_no_failure(host: Host, engine: Engine) -> None:
    engine.run("gx-zz-leaving", ["/bin/true"])
    (capture,) = DockerState().collect(host, "docker-state")
    buffer = memoryview(bytearray(100))
    plain = bytearray()

    with DockerState().open(host, capture) as stream:
        plain += buffer[: stream.readinto(buffer)]
        with engine.container("gx-zz-leaving") as container:
            container.remove(force=True)
        while count := stream.readinto(buffer):
            plain += buffer[:count]
        ending = stream.finish()

    assert ending.evidence["removed_meanwhile_names"] == ["container gx-zz-leaving"]
    assert ending.evidence["containers"] == 2
    assert b"gx-zz-leaving" not in bytes(plain)


def test_an_engine_that_cannot_be_reached_is_a_missing_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")

    with pytest.raises(SourceMissingError, match="cannot be reached") as caught:
        DockerState().collect(Host(Containers()), "docker-state")

    assert "DOCKER_HOST" in caught.value.hints[0]
    assert caught.value.retryable


def test_an_engine_without_containers_and_images_is_no_backup(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = Engine(tmp_path_factory.mktemp("e"))
    monkeypatch.setenv("DOCKER_HOST", empty.url)
    try:
        empty.start()

        with pytest.raises(EmptyArtifactError, match="without any"):
            DockerState().collect(Host(Containers()), "docker-state")
    finally:
        empty.stop()


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # the SDK drops a socket that cannot connect
def test_an_engine_that_dies_half_way_is_a_failure(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_engine(tmp_path_factory.mktemp("k")) as dying:
        monkeypatch.setenv("DOCKER_HOST", dying.url)
        host = Host(Containers())
        (capture,) = DockerState().collect(host, "docker-state")

        with DockerState().open(host, capture) as stream:
            stream.readinto(memoryview(bytearray(10)))
            dying.stop()

            with pytest.raises(CollectError, match="docker engine: stopped answering"):
                stream.readinto(memoryview(bytearray(1024**2)))
    gc.collect()


def test_a_restart_returns_once_the_container_runs_again(host: Host, engine: Engine) -> None:
    with engine.container("gx-idle") as before:
        started = before.attrs["State"]["StartedAt"]

    host.containers.restart("gx-idle", timeout_seconds=60)

    with engine.container("gx-idle") as after:
        assert after.attrs["State"]["Running"]
        assert after.attrs["State"]["StartedAt"] > started


def test_a_restart_waits_until_the_health_check_passes(host: Host, engine: Engine) -> None:
    check = {"test": ["CMD", "/bin/true"], "interval": 1_500_000_000, "timeout": 10**9, "retries": 1}
    engine.run("gx-healthy", healthcheck=check)

    host.containers.restart("gx-healthy", timeout_seconds=60)

    with engine.container("gx-healthy") as after:
        assert after.attrs["State"]["Health"]["Status"] == "healthy"
        after.remove(force=True)


def test_a_container_that_does_not_get_well_in_time_is_named(host: Host, engine: Engine) -> None:
    check = {"test": ["CMD", "/bin/false"], "interval": 500_000_000, "timeout": 10**9, "retries": 1}
    engine.run("gx-sick", healthcheck=check)
    engine.run("gx-looping", ["/bin/false"], restart_policy={"Name": "always"})

    for name, seen in (("gx-sick", "unhealthy"), ("gx-stopped", "exited with exit status 0"), ("gx-looping", "")):
        with pytest.raises(RestoreError, match=rf"container {name}: expected it running.*{seen}"):
            host.containers.restart(name, timeout_seconds=4)

    for name in ("gx-sick", "gx-looping"):
        with engine.container(name) as container:
            container.remove(force=True)


def test_a_container_that_is_not_there_is_named(host: Host) -> None:
    with pytest.raises(RestoreError, match="container gx-nobody: expected, seen none of that name"):
        host.containers.restart("gx-nobody", timeout_seconds=5)


def test_the_sdk_is_loaded_only_once_an_engine_is_asked() -> None:
    words = "import sys; import gxbackup.inventory, gxbackup.adapters.containers; print('docker' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
