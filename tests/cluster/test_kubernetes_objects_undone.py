"""A restore of objects that fails: what others have put into its namespace stays, and what is not gone yet is told."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from estate import await_condition

from gxbackup.cluster_objects import journal
from gxbackup.cluster_objects.putting import Putting
from gxbackup.errors import RestoreError
from gxbackup.ports import StreamEnd
from gxbackup.sources.kubernetes_objects import KubernetesObjects
from tests.cluster.objects_estate import create, host, live, work
from tests.cluster.scratch_api import kubectl

pytestmark = pytest.mark.cluster
SOURCE = KubernetesObjects()
NAMESPACE = f"gxt-undone-{os.getpid()}"


def made(kind: str, name: str, api: str = "v1", **fields: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE, **fields.pop("metadata", {})}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **fields}


def held(*more: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a namespace with what controllers make more of: slices, Endpoints, a token, ReplicaSets and Pods."""
    container = {"name": "c", "image": "gx-test/base:1", "command": ["sleep", "9"]}
    spec = {"nodeSelector": {"gx-test.example/no-node": "has-this"}, "containers": [container]}
    template = {"metadata": {"labels": {"app": "one"}}, "spec": spec}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        made("ServiceAccount", "one"),
        made("ConfigMap", "one"),
        *more,
        made("Service", "one", spec={"selector": {"app": "one"}, "ports": [{"port": 80, "protocol": "TCP"}]}),
        made("Deployment", "one", "apps/v1", spec={"selector": {"matchLabels": {"app": "one"}}, "template": template}),
    ]


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    yield
    patch = '{"metadata":{"finalizers":null}}'
    kubectl("patch", "configmap", "held", "-n", NAMESPACE, "--type=merge", "-p", patch, check=False)
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")


def fail(folder: Path, monkeypatch: pytest.MonkeyPatch, snapshot: list[dict[str, Any]], *others: dict[str, Any]) -> str:
    """Restore a snapshot, have others put something there, fail, and return what was said."""

    def failing(_: Putting) -> list[str]:
        await_condition("its pods are made", lambda: bool(kubectl("get", "pod", "-n", NAMESPACE, "-o", "name")), 30)
        if others:
            create([*others])
        raise RestoreError("told to fail")

    monkeypatch.setattr(Putting, "compare_all", failing)
    plain = "".join(f"{json.dumps(one)}\n" for one in snapshot).encode()
    with pytest.raises(RestoreError, match="told to fail") as caught:
        SOURCE.apply(host(), work(folder / "work", plain, StreamEnd({})))
    return str(caught.value)


def test_a_namespace_in_which_somebody_has_put_something_since_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = fail(tmp_path, monkeypatch, held(), made("ConfigMap", "theirs", data={"a": "b"}))

    reason = f"Namespace {NAMESPACE}: stays, since it holds what this run has not made: ConfigMap {NAMESPACE}/theirs"
    assert f"1 objects could not be put back: {reason}; copies lie in" in said
    assert "all was put back" not in said
    assert live("configmap", "theirs", NAMESPACE)["data"] == {"a": "b"}
    assert live("namespace", NAMESPACE)["status"]["phase"] == "Active"
    gone = kubectl("get", "configmap/one", "service/one", "deployment/one", "-n", NAMESPACE, check=False)
    assert gone.count("NotFound") == 3


def test_what_hangs_in_its_finalizers_when_a_restore_is_undone_is_named_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim has a finalizer too, which its controller takes in a moment: that one is waited for."""
    monkeypatch.setattr(journal, "FINALIZERS_TIMEOUT_SECONDS", 5)
    kept = made("ConfigMap", "held", metadata={"finalizers": ["gx-test.example/kept"]})
    claim = {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}, "storageClassName": "none",
    }  # fmt: skip

    said = fail(tmp_path, monkeypatch, held(kept, made("PersistentVolumeClaim", "data", spec=claim)))

    told = f"1 objects are being deleted, and still have finalizers: ConfigMap {NAMESPACE}/held (gx-test.example/kept)"
    assert told in said
    assert "all was put back" not in said
    assert live("configmap", "held", NAMESPACE)["metadata"]["deletionTimestamp"]


def test_a_namespace_that_holds_only_what_the_run_made_and_what_follows_from_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = fail(tmp_path, monkeypatch, held())

    assert "all was put back as it was" in said
    kubectl("wait", "--for=delete", f"namespace/{NAMESPACE}", "--timeout=90s", check=False)
    assert "NotFound" in kubectl("get", "namespace", NAMESPACE, check=False)
