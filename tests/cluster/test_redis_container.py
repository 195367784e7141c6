"""Redis in a Docker container of a real Engine: its password and its files are found where it runs."""

from __future__ import annotations

import os
from collections.abc import Iterator

import docker
import pytest

from gxbackup.adapters.cluster import Cluster
from gxbackup.adapters.containers import Containers
from gxbackup.adapters.host import Host
from gxbackup.sources.redis import Redis
from tests.cluster.conftest import IMAGE

pytestmark = pytest.mark.cluster
CONTAINER = f"gxt-redis-{os.getpid()}"
PASSWORD = "hunter2 in 'the container' alone"
# The password in a file, as Docker's own secrets have it.
SERVE = (
    'printf %s "$PASSWORD_TO_BE" >/run/password; mkdir -p /data; '
    'exec redis-server --dir /data --dbfilename kept.rdb --requirepass "$PASSWORD_TO_BE"'
)


@pytest.fixture(scope="module")
def container() -> Iterator[Host]:
    client = docker.from_env()
    try:
        client.containers.run(
            IMAGE, ["sh", "-c", SERVE], name=CONTAINER, detach=True, network_mode="none",
            environment={"PASSWORD_TO_BE": PASSWORD, "REDIS_PASSWORD_FILE": "/run/password"},
        )  # fmt: skip
        yield Host(Containers(), Cluster())
    finally:
        client.containers.get(CONTAINER).remove(force=True)
        client.close()


def test_its_save_is_read_through_exec(container: Host) -> None:
    source = Redis(docker_container=CONTAINER)
    place = container.containers.place(CONTAINER)
    line = 'until REDISCLI_AUTH="$PASSWORD_TO_BE" redis-cli -e SET key value; do sleep 0.1; done'
    place.run(["sh", "-c", line], timeout_seconds=60)

    [capture] = source.collect(container, "redis-mainnet")
    out, buffer = bytearray(), memoryview(bytearray(65536))
    with source.open(container, capture) as stream:
        while count := stream.readinto(buffer):
            out += buffer[:count]
        end = stream.finish()

    assert capture.settings["file"] == "/data/kept.rdb"
    assert end.evidence["databases"] == {"0": {"keys": 1, "expires": 0}}
    assert out.startswith(b"REDIS")
    assert PASSWORD not in capture.model_dump_json()
