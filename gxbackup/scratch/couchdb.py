"""
A throwaway CouchDB: the one that GX_SCRATCH_COUCHDB_URL names, which must be empty; else one of our own.

Ours is a container of the image that GX_SCRATCH_COUCHDB_IMAGE names, else a pouchdb-server. In a server that is not
ours what a rehearsal has made is dropped with the block, and nothing else.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gxbackup.adapters import process
from gxbackup.adapters.containers import Containers
from gxbackup.couchdb.client import CouchClient, path_of
from gxbackup.couchdb.loading import drop
from gxbackup.errors import CollectError, RestoreError, RestoreRefusedError, SetupError
from gxbackup.scratch.addresses import addresses

VARIABLE = "GX_SCRATCH_COUCHDB_URL"
IMAGE_VARIABLE = "GX_SCRATCH_COUCHDB_IMAGE"
PROGRAM = "pouchdb-server"
CONTAINER_PORT = 5984
CONTAINER_USER = "gx-scratch"
START_TIMEOUT_SECONDS = 60


@dataclass
class Scratch:
    """A throwaway server, and the databases that a rehearsal makes in it."""

    client: CouchClient
    made: set[str] = field(default_factory=set)

    def owned(self, database: str) -> str:
        """
        Return the name that a database of the dump gets here, from now on the rehearsal's own.

        One under which a server does nothing with its documents: `_replicator` would begin to replicate. Raises:
        RestoreRefusedError where somebody else has made one of that name meanwhile.
        """
        name = f"system{database}" if database.startswith("_") else database
        if name not in self.made and self.client.request("GET", path_of(name), also=(404,)).status != 404:
            raise RestoreRefusedError(f"{self.client.name}: expected no database {name} yet, seen one")
        self.made.add(name)
        return name


@contextmanager
def scratch_couchdb(folder: Path, protected_url: str | None) -> Iterator[Scratch]:
    """
    Give an empty CouchDB; `folder` is private and is the server's own.

    Raises: RestoreRefusedError where the named server is the protected one, or holds databases; SetupError where
    there is none to use.
    """
    if url := os.environ.get(VARIABLE):
        with closing(CouchClient(url)) as client:
            if protected_url and addresses(url) & addresses(protected_url):
                raise RestoreRefusedError(
                    f"{client.name}: expected another server than the protected one, seen {protected_url}",
                    f"{VARIABLE} must never name a server that is in use",
                )
            if held := _databases(client):
                raise RestoreRefusedError(
                    f"{client.name}: expected a scratch server without databases, seen {', '.join(held[:5])}",
                    f"{VARIABLE} must never name a server that is in use",
                )
            scratch = Scratch(client)
            try:
                yield scratch
            finally:
                for database in sorted(scratch.made):
                    drop(client, database)
        return
    image = os.environ.get(IMAGE_VARIABLE)
    with _container(image, folder) if image else _pouchdb_server(folder) as client:
        yield Scratch(client)


@contextmanager
def _container(image: str, folder: Path) -> Iterator[CouchClient]:
    """Run the image, as CouchDB's own takes its administrator, with a password that nobody else is told."""
    password = secrets.token_urlsafe(24)
    environment = {"COUCHDB_USER": CONTAINER_USER, "COUCHDB_PASSWORD": password}
    with (
        Containers().throwaway(image, environment, CONTAINER_PORT, folder) as port,
        closing(CouchClient(f"http://127.0.0.1:{port}", CONTAINER_USER, password)) as client,
    ):
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while True:
            try:
                _databases(client)
            except CollectError as error:
                if not error.retryable or time.monotonic() > deadline:
                    raise RestoreError(f"image {image}: expected CouchDB to answer, seen {error.message}") from None
            else:
                break
        yield client


@contextmanager
def _pouchdb_server(folder: Path) -> Iterator[CouchClient]:
    if shutil.which(PROGRAM) is None:
        raise SetupError(
            f"a scratch CouchDB: expected {IMAGE_VARIABLE}, {VARIABLE} or the program {PROGRAM}, seen none",
            f"where Docker runs: docker pull couchdb:3.4.3, and {IMAGE_VARIABLE}=couchdb:3.4.3",
            f"or run an empty CouchDB and name it: {VARIABLE}=http://user:password@127.0.0.1:5985",
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [PROGRAM, "--in-memory", "--no-stdout-logs", "--host", "127.0.0.1", "--port", str(port)]
    (folder / "config.json").write_text("{}")
    with process.start(argv, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not _listens(port):
            if child.poll() is not None or time.monotonic() > deadline:
                raise RestoreError(f"{PROGRAM}: expected it to answer on port {port}, seen exit status {child.poll()}")
            time.sleep(0.05)
        with closing(CouchClient(f"http://127.0.0.1:{port}")) as client:
            yield client


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _databases(client: CouchClient) -> list[str]:
    """Return the databases that are not the server's own."""
    found = client.get("/_all_dbs")
    if not isinstance(found, list):
        raise CollectError(f"{client.name}: /_all_dbs: expected a list, seen {found!r}")
    return [name for name in found if not name.startswith("_")]
