"""
A throwaway CouchDB: the one that GX_SCRATCH_COUCHDB_URL names, which must be empty, else a pouchdb-server of our own.

What a rehearsal makes in it is dropped with the block.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from gxbackup.adapters import process
from gxbackup.couchdb.client import CouchClient
from gxbackup.couchdb.loading import drop
from gxbackup.errors import CollectError, RestoreError, RestoreRefusedError, SetupError

VARIABLE = "GX_SCRATCH_COUCHDB_URL"
PROGRAM = "pouchdb-server"
START_TIMEOUT_SECONDS = 60


@contextmanager
def scratch_couchdb(folder: Path) -> Iterator[CouchClient]:
    """
    Give an empty CouchDB; `folder` is private and is the server's own.

    Raises: RestoreRefusedError where the named server holds databases; SetupError where there is none to use.
    """
    if url := os.environ.get(VARIABLE):
        with closing(CouchClient(url)) as client:
            if held := _databases(client):
                raise RestoreRefusedError(
                    f"{client.name}: expected a scratch server without databases, seen {', '.join(held[:5])}",
                    f"{VARIABLE} must never name a server that is in use",
                )
            try:
                yield client
            finally:
                for database in _databases(client):
                    drop(client, database)
        return
    with _pouchdb_server(folder) as client:
        yield client


@contextmanager
def _pouchdb_server(folder: Path) -> Iterator[CouchClient]:
    if shutil.which(PROGRAM) is None:
        raise SetupError(
            f"a scratch CouchDB: expected {VARIABLE} or the program {PROGRAM}, seen neither",
            f"run an empty CouchDB on this host and name it: {VARIABLE}=http://user:password@127.0.0.1:5985",
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
