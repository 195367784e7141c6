"""What a person made, and what looks as if the cluster had: captured, lost with its namespace, and restored."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from estate import await_condition

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


def lose_and_restore(folder: Path, meanwhile: list[dict[str, Any]] | None = None) -> list[str]:
    """Capture the cluster, delete the namespace, restore it, and return what was said."""
    capture = captured()
    kubectl("delete", "namespace", NAMESPACE)
    if meanwhile:
        create(meanwhile)
    return SOURCE.apply(host(), work(folder / "work", *capture, namespaces=[NAMESPACE]))


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


def test_a_slice_that_somebody_manages_comes_back_and_the_clusters_own_are_made_anew(tmp_path: Path) -> None:
    labels = {"kubernetes.io/service-name": "outside", "endpointslice.kubernetes.io/managed-by": "somebody.example"}
    port = {"name": "sql", "port": 5432, "protocol": "TCP"}
    addresses = [{"addresses": ["192.0.2.7"]}]
    create([
        made("Service", "outside", spec={"ports": [{"name": "sql", "port": 5432}]}),
        made("EndpointSlice", "by-hand", "discovery.k8s.io/v1beta1", metadata={"labels": labels},
             addressType="IPv4", endpoints=addresses, ports=[port]),
        made("Service", "mirrored", spec={"ports": [{"port": 80}]}),
        made("Endpoints", "mirrored", subsets=[{"addresses": [{"ip": "192.0.2.8"}], "ports": [{"port": 80}]}]),
    ])  # fmt: skip
    await_condition("the Endpoints are mirrored", lambda: len(slices()) == 2, 30)
    before = slices()

    lose_and_restore(tmp_path)

    restored = live("endpointslice", "by-hand", NAMESPACE)
    assert restored["metadata"]["labels"] == labels
    assert [one["addresses"] for one in restored["endpoints"]] == [["192.0.2.7"]]
    await_condition("the Endpoints are mirrored again", lambda: len(slices()) == 2, 30)
    assert slices() & before == {"endpointslice.discovery.k8s.io/by-hand"}


def slices() -> set[str]:
    return set(kubectl("get", "endpointslice", "-n", NAMESPACE, "--output=name").split())


def test_a_running_job_that_its_owner_does_not_control_comes_back(tmp_path: Path) -> None:
    create([made("ConfigMap", "owner")])
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner",
             "uid": live("configmap", "owner", NAMESPACE)["metadata"]["uid"]}  # fmt: skip
    container = {"name": "c", "image": "gx-test/base:1", "command": ["sleep", "9"]}
    template = {"spec": {"restartPolicy": "Never", "nodeSelector": NOWHERE, "containers": [container]}}
    create([made("Job", "owned", "batch/v1", metadata={"ownerReferences": [owner]}, spec={"template": template})])
    await_condition("the job runs", lambda: bool(kubectl("get", "pod", "-n", NAMESPACE, "--output=name")), 30)

    lose_and_restore(tmp_path)

    restored = live("job", "owned", NAMESPACE)
    assert restored["spec"]["template"]["spec"]["containers"][0]["command"] == ["sleep", "9"]
    assert "ownerReferences" not in restored["metadata"]


def test_a_token_secret_made_by_hand_comes_back_with_its_account_and_is_filled(tmp_path: Path) -> None:
    metadata = {"labels": {"for": "ci"}, "annotations": {"kubernetes.io/service-account.name": "ci"}}
    create([
        made("ServiceAccount", "ci", secrets=[{"name": "ci-token-admin"}]),
        made("Secret", "ci-token-admin", metadata=metadata, type="kubernetes.io/service-account-token",
             data={"extra": "AAAA"}),
    ])  # fmt: skip

    lose_and_restore(tmp_path)

    assert {"name": "ci-token-admin"} in live("serviceaccount", "ci", NAMESPACE)["secrets"]
    await_condition("it is filled", lambda: "token" in live("secret", "ci-token-admin", NAMESPACE)["data"], 30)
    restored = live("secret", "ci-token-admin", NAMESPACE)
    assert restored["data"]["extra"] == "AAAA"
    assert restored["metadata"]["labels"] == {"for": "ci"}


def test_services_keep_their_addresses_as_far_as_nobody_else_has_them(tmp_path: Path) -> None:
    port = {"port": 80, "protocol": "TCP"}
    fixed = made("Service", "fixed", spec={"clusterIP": "10.96.0.77", "ports": [port]})
    taken = made("Service", "taken", spec={"clusterIP": "10.96.0.78", "ports": [port]})
    headless = made("Service", "headless", spec={"clusterIP": "None", "ports": [port]})
    outside = made("Service", "outside", spec={"type": "ExternalName", "externalName": "gx.example"})
    create([fixed, taken, headless, outside])
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    taker = {**taken, "metadata": {"namespace": NAMESPACE, "name": "taker"}}

    done = lose_and_restore(tmp_path, [space, taker])

    addresses = {name: live("service", name, NAMESPACE)["spec"].get("clusterIP")
                 for name in ("fixed", "headless", "outside", "taken")}  # fmt: skip
    elsewhere = addresses.pop("taken")
    assert addresses == {"fixed": "10.96.0.77", "headless": "None", "outside": None}
    assert elsewhere not in (None, "10.96.0.78")
    assert f"did not give: Service {NAMESPACE}/taken had 10.96.0.78, has {elsewhere}" in str(done)
    assert "changed by the cluster since" not in str(done)
