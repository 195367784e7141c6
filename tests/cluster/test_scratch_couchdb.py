"""A throwaway CouchDB in a container of the real Engine; pouchdb-server plays the image, and heeds its variables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import docker
import pytest

from gxbackup.adapters.containers import THROWAWAY
from gxbackup.couchdb.client import CouchClient
from gxbackup.errors import CollectError, SetupError
from gxbackup.scratch.couchdb import CONTAINER_USER, IMAGE_VARIABLE, scratch_couchdb
from tests.integration.couchdb_dumps import HOST, source, taken, work
from tests.integration.couchdb_servers import PROGRAMS, GoldenCouch, golden
from tests.integration.docker_engine import root_filesystem

pytestmark = pytest.mark.cluster
IMAGE = f"gxt-couchdb-{os.getpid()}:1"
# What CouchDB's own image does with these two variables: they are its administrator, and nobody else is let in.
ENTRY = """
printf '{"admins": {"%s": "%s"}}' "$COUCHDB_USER" "$COUCHDB_PASSWORD" >config.json
exec node /srv/node_modules/pouchdb-server/bin/pouchdb-server --in-memory --no-stdout-logs --host 0.0.0.0 --port 5984
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Give a client of the Engine, which has the image."""
    entry = tmp_path_factory.mktemp("entry")
    (entry / "run").write_text(ENTRY)
    files = root_filesystem(("sh", "node", "cat"), {PROGRAMS.parent: "srv/node_modules", entry: "work"})
    client = docker.from_env()
    repository, tag = IMAGE.split(":")
    changes = ["WORKDIR /work", "ENV PATH=/bin", 'ENTRYPOINT ["sh", "/work/run"]']
    try:
        client.api.import_image_from_data(files, repository=repository, tag=tag, changes=changes)
        yield client
    finally:
        client.images.remove(IMAGE, force=True)
        client.close()


@pytest.fixture(autouse=True)
def image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GX_SCRATCH_COUCHDB_URL", raising=False)
    monkeypatch.setenv(IMAGE_VARIABLE, IMAGE)


def ours(engine: Any) -> list[Any]:
    return list(engine.containers.list(all=True, filters={"label": THROWAWAY, "ancestor": IMAGE}))


def test_a_rehearsal_runs_in_a_container_that_is_gone_afterwards(engine: Any, tmp_path: Path) -> None:
    couch = GoldenCouch(golden())
    try:
        capture, dump, end = taken(couch)
        done = source(couch).rehearse(HOST, work(tmp_path / "area", capture, dump, end))
    finally:
        couch.stop()

    assert "equal what was captured" in done[0]
    assert ours(engine) == []


def test_it_listens_on_loopback_alone_and_lets_nobody_else_in(engine: Any, tmp_path: Path) -> None:
    with scratch_couchdb(tmp_path, None) as scratch:
        [container] = ours(engine)
        [address] = container.ports["5984/tcp"]
        stranger = CouchClient(scratch.client.name.removeprefix("CouchDB "), CONTAINER_USER, "another password")
        with closing(stranger), pytest.raises(CollectError, match="401"):
            stranger.get("/_all_dbs")

    assert address["HostIp"] == "127.0.0.1"
    assert ours(engine) == []


def test_the_container_of_a_killed_rehearsal_is_removed_by_the_next(engine: Any, tmp_path: Path) -> None:
    left = engine.containers.create(IMAGE, labels={THROWAWAY: str(tmp_path / "gone")})
    other = engine.containers.create(IMAGE, labels={THROWAWAY: str(tmp_path)})
    try:
        with scratch_couchdb(tmp_path, None):
            found = {container.id for container in ours(engine)}
    finally:
        other.remove(v=True, force=True)

    assert left.id not in found
    assert other.id in found


@pytest.mark.usefixtures("engine")
def test_an_image_that_is_not_there_is_named_with_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(IMAGE_VARIABLE, "gxt-no-such-image:1")

    with pytest.raises(SetupError, match="image gxt-no-such-image:1: expected on this host") as raised, \
            scratch_couchdb(tmp_path, None):  # fmt: skip
        pass

    assert raised.value.hints == ("docker pull gxt-no-such-image:1",)
