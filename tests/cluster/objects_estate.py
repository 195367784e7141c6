"""A namespace full of objects of every sort, a capture of the cluster they are in, and what a restore of it needs."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from gxbackup.adapters.containers import Containers
from gxbackup.adapters.host import Host
from gxbackup.model import Artifact, Capture, Part
from gxbackup.ports import StreamEnd
from gxbackup.sources.base import Opened, Work
from gxbackup.sources.kubernetes_objects import KubernetesObjects
from tests.cluster.scratch_api import kubectl

NAMESPACE = f"gxt-objects-{os.getpid()}"
BINARY = bytes(range(256))
SECRET = base64.b64encode(BINARY).decode()
SHA = "0" * 64
CONFIG_MAPS = 40


def host() -> Host:
    return Host(containers=Containers())


def objects(namespace: str = NAMESPACE) -> list[dict[str, Any]]:
    """Return one object of each sort that is restored in its own way; the StatefulSet asks for no pod."""

    def made(kind: str, name: str, api: str = "v1", **fields: Any) -> dict[str, Any]:
        metadata = {"name": name, "namespace": namespace, **fields.pop("metadata", {})}
        return {"apiVersion": api, "kind": kind, "metadata": metadata, **fields}

    template = {
        "metadata": {"labels": {"app": "one"}},
        "spec": {"containers": [{"name": "c", "image": "gx-test/base:1", "command": ["sleep", "9"]}]},
    }
    claim = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Mi"}},
        "storageClassName": "none",
    }
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "one"}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": {"gx-test/net": "x"}}},
        made("ServiceAccount", "one"),
        made("Role", "one", "rbac.authorization.k8s.io/v1",
             rules=[{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]),
        made("RoleBinding", "one", "rbac.authorization.k8s.io/v1", roleRef=role,
             subjects=[{"kind": "ServiceAccount", "name": "one", "namespace": namespace}]),
        made("Secret", "binary", data={"key": SECRET}, type="Opaque"),
        made("ConfigMap", "text", data={"text": "Zürich\n", "number": "5"}, binaryData={"bytes": SECRET}),
        *(made("ConfigMap", f"many-{number:03d}", data={"n": str(number)}) for number in range(CONFIG_MAPS)),
        made("PersistentVolumeClaim", "data", spec=claim),
        made("Service", "one", spec={"selector": {"app": "one"}, "ports": [{"port": 80}]}),
        made("Service", "outside", spec={"ports": [{"port": 5432}]}),
        made("Endpoints", "outside", subsets=[{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"port": 5432}]}]),
        made("StatefulSet", "one", "apps/v1",
             spec={"replicas": 0, "serviceName": "one", "selector": {"matchLabels": {"app": "one"}},
                   "template": template, "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}]}),
        made("CronJob", "one", "batch/v1", spec={"schedule": "0 0 1 1 *", "suspend": True, "jobTemplate": {
            "spec": {"template": {"spec": {**template["spec"], "restartPolicy": "Never"}}}}}),
        made("Ingress", "one", "networking.k8s.io/v1",
             spec={"defaultBackend": {"service": {"name": "one", "port": {"number": 80}}}}),
        made("FabricChannel", "one", "gx-test.example/v1alpha1", spec={"channel": "channel1", "peers": ["p0"]}),
    ]  # fmt: skip


def create(wanted: list[dict[str, Any]]) -> None:
    """Create objects as a person would."""
    kubectl("apply", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": wanted}))


def live(kind: str, name: str, namespace: str = NAMESPACE) -> dict[str, Any]:
    """Return one object as it is now."""
    found: dict[str, Any] = json.loads(kubectl("get", kind, name, f"--namespace={namespace}", "--output=json"))
    return found


def read(capture: Capture, source: KubernetesObjects | None = None) -> tuple[bytes, StreamEnd]:
    """Read a capture to its end."""
    buffer = memoryview(bytearray(256 * 1024))
    plain = bytearray()
    with (source or KubernetesObjects()).open(host(), capture) as stream:
        while count := stream.readinto(buffer):
            plain += buffer[:count]
        return bytes(plain), stream.finish()


def captured() -> tuple[bytes, StreamEnd]:
    """Return the raw form of the cluster."""
    return read(KubernetesObjects().collect(host(), "k8s-manifests")[0])


def in_both_forms() -> tuple[tuple[bytes, StreamEnd], tuple[bytes, StreamEnd]]:
    """Return the raw and the ready form of the cluster, both of one moment."""
    raw, ready = KubernetesObjects().collect(host(), "k8s-manifests")
    return read(raw), read(ready)


def lines(plain: bytes | bytearray) -> list[dict[str, Any]]:
    return [json.loads(line) for line in plain.decode().splitlines()]


def find(found: list[dict[str, Any]], kind: str, name: str, namespace: str | None = NAMESPACE) -> dict[str, Any]:
    (one,) = [
        each
        for each in found
        if (each["kind"], each["metadata"]["name"], each["metadata"].get("namespace")) == (kind, name, namespace)
    ]
    return one


def work(folder: Path, plain: bytes, ending: StreamEnd, **options: JsonValue) -> Work:
    """Return what a restore of these bytes works with."""
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / "objects.jsonl"
    file.write_bytes(plain)
    artifact = Artifact(
        data_type="k8s-manifests", kind="kubernetes_objects", path="kubernetes/k8s-manifests/objects.jsonl.zst.age",
        parts=(Part(path="p", size_bytes=1, sha256=SHA),), sealed_size_bytes=1, sealed_sha256=SHA,
        plain_size_bytes=len(plain), plain_sha256=SHA, keep_days=90, settings={"form": "raw"},
        evidence=ending.evidence,
    )  # fmt: skip
    return Work(
        data_type="k8s-manifests",
        opened=(Opened(artifact=artifact, file=file),),
        area=folder,
        safety_dir=folder / "safety",
        options=options,
    )


def with_ready_form(job: Work, plain: bytes, ending: StreamEnd) -> Work:
    """Return the same work with the ready-to-apply form beside the raw one, as a snapshot holds both."""
    file = job.area / "apply.yaml"
    file.write_bytes(plain)
    raw = job.opened[0].artifact
    changed = {"path": "kubernetes/k8s-manifests/apply.yaml.zst.age", "settings": {"form": "apply"}}
    artifact = raw.model_copy(update={**changed, "plain_size_bytes": len(plain), "evidence": ending.evidence})
    return job.model_copy(update={"opened": (*job.opened, Opened(artifact=artifact, file=file))})


def delete_namespace(*, wait: bool = True) -> None:
    """Delete the namespace with all that is in it, and return once it is gone."""
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", f"--wait={'true' if wait else 'false'}")


@contextmanager
def estate() -> Iterator[None]:
    """Give the namespace with its objects; it is gone after the block."""
    delete_namespace()
    create(objects())
    try:
        yield
    finally:
        delete_namespace(wait=False)
