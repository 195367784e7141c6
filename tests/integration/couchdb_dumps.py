"""A CouchDB's databases taken as a backup takes them, and opened again as a restore gets them."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gxbackup.couchdb import client as clients
from gxbackup.couchdb.client import CouchClient, path_of
from gxbackup.model import Artifact, Capture, Part
from gxbackup.ports import StreamEnd
from gxbackup.sources.base import Opened, Work
from gxbackup.sources.couchdb import CouchDB, SecretRef
from tests.integration.couchdb_servers import PASSWORD, USER, GoldenCouch

SECRET = SecretRef(name="couchdb", user_key="user", password_key="password")


HOST: Any = SimpleNamespace(
    cluster=SimpleNamespace(secret=lambda *_: {"user": USER.encode(), "password": PASSWORD.encode()})
)


def source(server: GoldenCouch | CouchClient, **settings: Any) -> CouchDB:
    """The golden server wants a password; pouchdb-server has none."""
    if isinstance(server, GoldenCouch):
        return CouchDB(url=server.url, namespace="fabric", secret=SECRET, **settings)
    return CouchDB(url=url_of(server), namespace="fabric", leave_out=("_users", "_replicator"), **settings)


def url_of(client: CouchClient) -> str:
    return client.name.removeprefix("CouchDB ")


def taken(server: GoldenCouch | CouchClient, **settings: Any) -> tuple[Capture, bytes, StreamEnd]:
    """Collect and read."""
    kind = source(server, **settings)
    [capture] = kind.collect(HOST, "couchdb-fabric")
    out, buffer = bytearray(), memoryview(bytearray(5000))
    with kind.open(HOST, capture) as stream:
        while count := stream.readinto(buffer):
            out += buffer[:count]
        return capture, bytes(out), stream.finish()


def work(folder: Path, capture: Capture, dump: bytes, end: StreamEnd, **options: Any) -> Work:
    folder.mkdir(exist_ok=True)
    file = folder / capture.name
    file.write_bytes(dump)
    digest = hashlib.sha256(dump).hexdigest()
    artifact = Artifact(
        data_type=capture.data_type, kind="couchdb", path=f"databases/{capture.name}.zst.age",
        parts=(Part(path="x", size_bytes=1, sha256=digest),), sealed_size_bytes=1, sealed_sha256=digest,
        plain_size_bytes=len(dump), plain_sha256=digest, keep_days=30,
        settings=capture.settings, evidence={**capture.evidence, **end.evidence},
    )  # fmt: skip
    opened = Opened(artifact=artifact, file=file)
    options = {"peers_stopped": True, **options}
    return Work(
        data_type="couchdb-fabric", opened=(opened,), area=folder, safety_dir=folder / "safety", options=options
    )


def lines(dump: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in dump.splitlines()]


def put(client: CouchClient, database: str, *documents: dict[str, Any]) -> None:
    client.request("PUT", path_of(database), also=(412,))
    body = json.dumps({"new_edits": False, "docs": documents}).encode()
    answer = clients.parsed(client.request("POST", path_of(database, "_bulk_docs"), body=body), database)
    assert answer == [], answer


def revision(name: str, *ids: str, **more: Any) -> dict[str, Any]:
    history = {"start": len(ids), "ids": list(ids)}
    return {"_id": name, "_rev": f"{len(ids)}-{ids[0]}", "_revisions": history, **more}


class Killed(BaseException):
    """The process ends here; nothing after this line of it runs."""


def with_state(couch: GoldenCouch, target: CouchClient) -> None:
    """Fill the target as a later state of the same Fabric, and with a database that is none of its."""
    later = copy.deepcopy(couch.databases)
    for document in later["gxchannel_"]["docs"]:
        if document["_id"] == "statedb_savepoint":
            document["BlockNum"] = 90
    for name, held in later.items():
        put(target, name, *held["docs"])
    put(target, "explorer", revision("mine", "aa"))
