"""What a person made, and what looks as if the cluster had: captured, lost with its namespace, and restored."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gxbackup.sources.kubernetes_objects import KubernetesObjects
from tests.cluster.objects_estate import captured, create, host, live, work
from tests.cluster.scratch_api import kubectl

pytestmark = pytest.mark.cluster
SOURCE = KubernetesObjects()
NAMESPACE = f"gxt-by-hand-{os.getpid()}"
NOWHERE = {"gx-test.example/no-node": "has-this"}  # what is not to be run waits for ever


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    create([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}])
    try:
        yield
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")


def made(kind: str, name: str, api: str = "v1", **fields: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE, **fields.pop("metadata", {})}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **fields}


def lose_and_restore(folder: Path) -> None:
    """Capture the cluster, delete the namespace, and restore it."""
    capture = captured()
    kubectl("delete", "namespace", NAMESPACE)
    SOURCE.apply(host(), work(folder / "work", *capture, namespaces=[NAMESPACE]))


def test_a_bare_pod_comes_back_with_its_own_volumes(tmp_path: Path) -> None:
    files = {"name": "api-token-files", "mountPath": "/files"}
    container = {"name": "c", "image": "gx-test/base:1", "volumeMounts": [files]}
    volumes = [{"name": "api-token-files", "configMap": {"name": "files"}}]
    create([made("Pod", "bare", spec={"nodeSelector": NOWHERE, "volumes": volumes, "containers": [container]})])
    given = [one["name"] for one in live("pod", "bare", NAMESPACE)["spec"]["volumes"]]

    lose_and_restore(tmp_path)

    spec = live("pod", "bare", NAMESPACE)["spec"]
    assert len(given) == len(spec["volumes"]) == 2
    assert "api-token-files" in [one["name"] for one in spec["volumes"]]
    assert files in spec["containers"][0]["volumeMounts"]
    assert not {one["name"] for one in spec["volumes"]} & {*given} - {"api-token-files"}


def test_what_bears_a_leaders_annotation_comes_back_without_it(tmp_path: Path) -> None:
    led = {"annotations": {"control-plane.alpha.kubernetes.io/leader": "{}"}}
    claim = {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}, "storageClassName": "none",
    }  # fmt: skip
    create([
        made("ConfigMap", "led", metadata={**led}, data={"kept": "yes"}),
        made("ConfigMap", "election", metadata={**led}),
        made("PersistentVolumeClaim", "led", metadata={**led}, spec=claim),
    ])  # fmt: skip

    lose_and_restore(tmp_path)

    restored = live("configmap", "led", NAMESPACE)
    assert restored["data"] == {"kept": "yes"}
    assert "annotations" not in restored["metadata"]
    assert live("pvc", "led", NAMESPACE)["spec"]["resources"] == claim["resources"]
    assert "NotFound" in kubectl("get", "configmap", "election", "-n", NAMESPACE, check=False)
