"""A CouchDB and a peer that uses it, as pods of the test cluster: stand-ins that keep, and rebuild, a real state."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gxbackup.adapters.cluster import Cluster
from gxbackup.couchdb.client import CouchClient, path_of
from tests.cluster.scratch_api import kubectl
from tests.integration.couchdb_servers import PASSWORD, PROGRAMS, USER, golden

IMAGE = "gx-test/base:1"
PORT = 5984
PEER = "peer0-org1"
# What CouchDB's own image does with these two variables: they are its administrator, and nobody else is let in.
_COUCHDB = """
mkdir -p /work && cd /work
printf '{"admins": {"%s": "%s"}}' "$COUCHDB_USER" "$COUCHDB_PASSWORD" >config.json
exec node /srv/node_modules/pouchdb-server/bin/pouchdb-server --in-memory --no-stdout-logs --host 0.0.0.0 --port 5984
"""
# What a peer does when it starts: without a savepoint it makes its state anew from its blocks, and the savepoint last.
# As Fabric's, it opens nothing where databases are there and its own one, with the version of their form, is not.
_PEER = r"""
set -euo pipefail
ask() { curl -sS -o /dev/null -w '%{http_code}' -u "$COUCHDB_USER:$COUCHDB_PASSWORD" \
    -H 'Content-Type: application/json' "${@:2}" "http://$COUCHDB_SERVICE_HOST:$COUCHDB_SERVICE_PORT/$1"; }
all=$(curl -sS -u "$COUCHDB_USER:$COUCHDB_PASSWORD" "http://$COUCHDB_SERVICE_HOST:$COUCHDB_SERVICE_PORT/_all_dbs")
if [[ $all =~ \"[a-z] && $all != *'"fabric__internal"'* ]]; then
    echo 'unexpected format: expected data format = 2.0, data format = (empty)' >&2
    exit 1
fi
if [ "$(ask gxchannel_/statedb_savepoint)" != 200 ]; then
    while read -r number name; do
        made=$(ask "$name" -X PUT)
        [ "$made" = 412 ] && [ "$name" = fabric__internal ] && continue
        [ "$made" = 201 ]
        [ "$(ask "$name/_security" -X PUT -d "@/blocks/security")" = 200 ]
        [ "$(ask "$name/_bulk_docs" -d "@/blocks/$number")" = 201 ]
    done </blocks/databases
fi
touch /run/gx-ready
trap 'exit 0' TERM
while :; do sleep 0.2; done
"""


def _blocks() -> dict[str, str]:
    """Return what a real Fabric's state was, without the revisions that its CouchDB had made, savepoint last."""
    held = golden()
    names = sorted(held, key=lambda name: name.endswith("_"))
    files = {"databases": "".join(f"{number} {quote(name, safe='')}\n" for number, name in enumerate(names))}
    files["security"] = json.dumps(held[names[0]]["security"])
    for number, name in enumerate(names):
        documents = [dict(one) for one in held[name]["docs"]]
        for document in documents:
            del document["_rev"], document["_revisions"]
        files[str(number)] = json.dumps({"docs": documents})
    return files


def _pod(name: str, words: list[str], ready: dict[str, Any], volumes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return a StatefulSet of one pod; `volumes`: folder in the pod → what lies there."""
    secret = "couchdb-credentials"
    keys = {"COUCHDB_USER": "user", "COUCHDB_PASSWORD": "password"}
    container = {
        "name": name, "image": IMAGE, "command": words, "readinessProbe": {**ready, "periodSeconds": 1},
        "env": [{"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}
                for variable, key in keys.items()],
        "volumeMounts": [{"name": f"v{n}", "mountPath": folder} for n, folder in enumerate(volumes)],
    }  # fmt: skip
    given = [{"name": f"v{n}", **volume} for n, volume in enumerate(volumes.values())]
    spec = {"terminationGracePeriodSeconds": 1, "containers": [container], "volumes": given}
    template = {"metadata": {"labels": {"app": name}}, "spec": spec}
    return {
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name},
        "spec": {"serviceName": name, "replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": template},
    }  # fmt: skip


@contextmanager
def fabric_state() -> Iterator[tuple[str, CouchClient]]:
    """Give a namespace with a peer and the CouchDB that it has filled, and a client of the latter."""
    namespace = f"gxt-couchdb-flows-{os.getpid()}"
    node = str(Path(shutil.which("node") or "").resolve())
    programs = {
        "/srv/node_modules": {"hostPath": {"path": str(PROGRAMS.parent.resolve())}},
        "/usr/local/bin/node": {"hostPath": {"path": node, "type": "File"}},
    }
    objects = [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "couchdb-credentials"},
         "stringData": {"user": USER, "password": PASSWORD}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "blocks"}, "data": _blocks()},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "couchdb"},
         "spec": {"selector": {"app": "couchdb"}, "ports": [{"port": PORT}]}},
        _pod("couchdb", ["sh", "-c", _COUCHDB], {"tcpSocket": {"port": PORT}}, programs),
        _pod(PEER, ["bash", "-c", _PEER], {"exec": {"command": ["test", "-e", "/run/gx-ready"]}},
             {"/blocks": {"configMap": {"name": "blocks"}}}),
    ]  # fmt: skip
    kubectl("create", "namespace", namespace)
    try:
        everything = {"apiVersion": "v1", "kind": "List", "items": objects}
        kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(everything))
        for name in ("couchdb", PEER):
            kubectl("rollout", "status", "-n", namespace, f"statefulset/{name}", "--timeout=240s")
        with closing(CouchClient(Cluster().endpoint(namespace, "couchdb", PORT), USER, PASSWORD)) as client:
            yield namespace, client
    finally:
        kubectl("delete", "namespace", namespace, "--wait=false")


def state(client: CouchClient) -> dict[str, dict[str, Any]]:
    """Return all that each database holds: its rights, its documents, and every leaf of their revisions."""
    told = {}
    for name in client.get("/_all_dbs"):
        if name.startswith("_"):
            continue
        rows = client.get(path_of(name, "_all_docs"), include_docs="true", attachments="true")["rows"]
        leaves = client.get(path_of(name, "_changes"), style="all_docs")["results"]
        told[name] = {
            "security": client.get(path_of(name, "_security")),
            "documents": {row["id"]: row["doc"] for row in rows},
            "leaves": {row["id"]: sorted(change["rev"] for change in row["changes"]) for row in leaves},
        }
    return told


def without_revisions(held: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what the documents say, whoever wrote them: a peer's rebuild makes revisions of its own."""
    return {
        name: {
            id_: {key: value for key, value in document.items() if key not in ("_rev", "_attachments")}
            | {"attachments": {key: one["data"] for key, one in document.get("_attachments", {}).items()}}
            for id_, document in one["documents"].items()
        }
        for name, one in held.items()
    }
