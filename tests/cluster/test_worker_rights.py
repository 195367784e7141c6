"""The worker's ServiceAccount: all that a backup needs, nothing more, and what a restore needs only while it is on."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gxbackup.adapters.secrets import list_secrets, put_secret
from gxbackup.errors import CollectError, RestoreRefusedError
from gxbackup.sources.kubernetes_objects import KubernetesObjects
from tests.cluster.objects_estate import captured, host, read, work
from tests.cluster.scratch_api import kubectl
from tests.cluster.worker_account import MANIFESTS, kubeconfig_of, lent
from tests.kubeconfigs import turn_to

pytestmark = pytest.mark.cluster
NAMESPACE = NARROW_ROLE = f"gxt-rights-{os.getpid()}"
NARROW = {"apiGroups": [""], "resources": ["configmaps", "namespaces"], "verbs": ["list"]}
SOURCE = KubernetesObjects()


@pytest.fixture(scope="module", autouse=True)
def narrow() -> Iterator[None]:
    """Give a second account, which may list two kinds."""
    account = {"kind": "ServiceAccount", "name": "narrow", "namespace": NAMESPACE}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": NARROW_ROLE}
    name = {"name": "narrow", "namespace": NAMESPACE}
    token = {**name, "annotations": {"kubernetes.io/service-account.name": "narrow"}}
    made: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": name},
        {"apiVersion": "v1", "kind": "Secret", "metadata": token, "type": "kubernetes.io/service-account-token"},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**name, "name": "mine"}, "data": {"a": "1"}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": NARROW_ROLE},
         "rules": [NARROW]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
         "metadata": {"name": NARROW_ROLE}, "roleRef": role, "subjects": [account]},
    ]  # fmt: skip
    everything = json.dumps({"apiVersion": "v1", "kind": "List", "items": made})
    try:
        kubectl("apply", "--filename=-", stdin=everything)
        yield
    finally:
        kubectl("delete", "--ignore-not-found", "--wait=false", "--filename=-", stdin=everything)


@pytest.fixture
def worker(worker_kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be the worker."""
    turn_to(worker_kubeconfig, monkeypatch)
    return worker_kubeconfig


def test_the_worker_captures_every_kind(worker: Path) -> None:
    raw, ready = SOURCE.collect(host(), "k8s-manifests")

    for capture in (raw, ready):
        plain, ending = read(capture)
        assert ending.shortfalls == ()
        assert b'"kind":"Secret"' in plain
        assert "listed_later_than_revision" not in ending.evidence


def test_the_worker_runs_commands_in_the_pods_of_its_namespaces_alone(worker: Path) -> None:
    pod = host().cluster.place("backend-testnet", "redis-0")

    assert pod.run(["echo", "here"], timeout_seconds=60).text() == "here"

    for verb in ("get", "create"):
        assert may(worker, verb, "pods", "exec", "fabric")
        assert not may(worker, verb, "pods", "exec", NAMESPACE)
        assert not may(worker, verb, "nodes", "proxy", NAMESPACE)


def test_the_worker_changes_nothing(worker: Path) -> None:
    said = kubectl("delete", "configmap", "mine", "-n", NAMESPACE, kubeconfig=worker, check=False)
    secret = kubectl("delete", "secret", "narrow", "-n", NAMESPACE, kubeconfig=worker, check=False)
    pod = kubectl("delete", "pod", "redis-0", "-n", "backend-testnet", kubeconfig=worker, check=False)

    assert said.count("Forbidden") == secret.count("Forbidden") == pod.count("Forbidden") == 1
    with pytest.raises(CollectError, match="statefulset backend-testnet/redis: expected to be allowed, seen 403"):
        host().cluster.scale("backend-testnet", "redis", 1)


def test_what_may_not_be_listed_is_named_and_the_rest_is_captured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn_to(kubeconfig_of(tmp_path, NAMESPACE, "narrow"), monkeypatch)

    plain, ending = captured()

    kinds = {json.loads(line)["kind"] for line in plain.splitlines()}
    assert kinds == {"ConfigMap", "Namespace"}
    assert "v1 Secret: cannot be listed: GET /api/v1/secrets: seen 403 Forbidden" in "\n".join(ending.shortfalls)
    assert any(shortfall.startswith("gx-test.example/v1alpha1 FabricChannel: ") for shortfall in ending.shortfalls)


@pytest.mark.usefixtures("worker")
def test_testnets_secrets_are_captured_always_and_put_back_only_while_the_worker_may(tmp_path: Path) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "gxt-rights", "namespace": "fabric-testnet"},
              "data": {"key_sk": base64.b64encode(b"kept").decode()}}  # fmt: skip
    kubectl("apply", "--filename=-", stdin=json.dumps(secret))
    try:
        held = list_secrets(host().cluster, "fabric-testnet")
        [kept] = [one for one in held if one["metadata"]["name"] == "gxt-rights"]
        kubectl("delete", "--filename=-", stdin=json.dumps(secret))

        with pytest.raises(CollectError, match="secret fabric-testnet/gxt-rights: expected to be allowed, seen 403"):
            put_secret(host().cluster, kept)
        with lent():
            put_secret(host().cluster, kept)

        assert kept in list_secrets(host().cluster, "fabric-testnet")
    finally:
        kubectl("delete", "--ignore-not-found", "--filename=-", stdin=json.dumps(secret))


@pytest.mark.usefixtures("worker")
def test_objects_are_restored_only_while_the_worker_may(tmp_path: Path) -> None:
    job = work(tmp_path / "work", *captured(), namespaces=[NAMESPACE], kinds=["ConfigMap"], names=["mine"])
    kubectl("delete", "configmap", "mine", "-n", NAMESPACE)

    with pytest.raises(RestoreRefusedError, match=f"ConfigMap {NAMESPACE}/mine: .*403 Forbidden"):
        SOURCE.preview(host(), job)

    with lent(MANIFESTS / "restore-objects-rbac.yaml"):
        done = SOURCE.apply(host(), job)

    assert done[0] == "1 objects added, 0 changed, 0 were the same already"


def may(kubeconfig: Path, verb: str, resource: str, subresource: str, namespace: str) -> bool:
    """Return the API server's own answer."""
    words = ["auth", "can-i", verb, resource, f"--subresource={subresource}", "-n", namespace]
    said = kubectl(*words, kubeconfig=kubeconfig, check=False).split()
    assert "yes" in said or "no" in said, said
    return "yes" in said
