"""What a Kubernetes object is to a backup: its form for a restore, its place in the order, whether it is asked for."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from gxbackup.cluster_objects.cleaning import Cleaner, address_of, clean, is_built_in, is_left_out, without_node_ports
from gxbackup.cluster_objects.differences import added_paths, changed_paths
from gxbackup.cluster_objects.naming import Choice, Kind, is_matched, ordered
from gxbackup.errors import RestoreRefusedError


def made(
    kind: str, name: str = "one", namespace: str | None = "fabric", api: str = "v1", **fields: Any
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, **({"namespace": namespace} if namespace else {})}
    metadata.update(fields.pop("metadata", {}))
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **fields}


def token_secret(name: str, data: dict[str, str] | None = None, **metadata: Any) -> dict[str, Any]:
    """Return a token of account backend, as its cluster has filled it."""
    annotations = {"kubernetes.io/service-account.name": "backend", "kubernetes.io/service-account.uid": "u"}
    filled = {"ca.crt": "AAAA", "namespace": "AAAA", "token": "AAAA", **(data or {})}
    return made("Secret", name, type="kubernetes.io/service-account-token", data=filled,
                metadata={"annotations": annotations, **metadata})  # fmt: skip


def test_what_belongs_to_one_life_of_an_object_is_not_applied_again() -> None:
    lived = made(
        "ConfigMap",
        metadata={
            "uid": "u", "resourceVersion": "7", "managedFields": [{}], "creationTimestamp": "t", "selfLink": "/x",
            "generation": 3, "ownerReferences": [{"uid": "gone"}], "labels": {"app": "x"}, "finalizers": ["mine"],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "mine": "kept"},
        },
        data={"a": "b"}, status={"x": 1},
    )  # fmt: skip
    before = copy.deepcopy(lived)

    cleaned = clean(lived)

    assert cleaned == made(
        "ConfigMap", data={"a": "b"},
        metadata={"labels": {"app": "x"}, "finalizers": ["mine"], "annotations": {"mine": "kept"}},
    )  # fmt: skip
    assert lived == before


def test_an_annotation_that_was_the_only_one_leaves_no_empty_map() -> None:
    cleaned = clean(made("ConfigMap", metadata={"annotations": {"deployment.kubernetes.io/revision": "2"}}))

    assert cleaned == made("ConfigMap")


def test_a_service_gets_a_new_address_unless_it_is_headless() -> None:
    cluster = clean(made("Service", spec={"clusterIP": "10.1.2.3", "clusterIPs": ["10.1.2.3"], "ports": [1]}))
    headless = clean(made("Service", spec={"clusterIP": "None", "clusterIPs": ["None"]}))

    assert cluster == made("Service", spec={"ports": [1]})
    assert headless == made("Service", spec={"clusterIP": "None", "clusterIPs": ["None"]})


@pytest.mark.parametrize(
    ("spec", "address"),
    [
        ({"clusterIP": "10.1.2.3", "clusterIPs": ["10.1.2.3"]}, {"clusterIP": "10.1.2.3", "clusterIPs": ["10.1.2.3"]}),
        ({"clusterIP": "10.1.2.3", "ports": []}, {"clusterIP": "10.1.2.3"}),
        ({"clusterIP": "None", "clusterIPs": ["None"]}, {}),
        ({"type": "ExternalName", "externalName": "gx.example"}, {}),
    ],
    ids=["both fields", "an old server", "headless", "outside"],
)
def test_the_address_of_a_service_is_known_where_it_has_one(spec: dict[str, Any], address: dict[str, Any]) -> None:
    assert address_of(made("Service", spec=spec)) == address


def test_a_service_is_tried_without_the_ports_that_it_has_already() -> None:
    taken = made("Service", spec={"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}, {"port": 81}]})
    outside = made("Service", spec={"type": "ExternalName", "externalName": "gx.example"})

    assert without_node_ports(taken)["spec"] == {"type": "NodePort", "ports": [{"port": 80}, {"port": 81}]}
    assert taken["spec"]["ports"][0]["nodePort"] == 30080
    assert without_node_ports(outside) == outside


def test_a_volume_names_its_claim_without_the_claims_former_uid() -> None:
    claim = {"namespace": "fabric", "name": "data", "uid": "u", "resourceVersion": "1"}
    cleaned = clean(made("PersistentVolume", namespace=None, spec={"claimRef": claim, "hostPath": {"path": "/x"}}))

    assert cleaned is not None
    assert cleaned["spec"] == {"claimRef": {"namespace": "fabric", "name": "data"}, "hostPath": {"path": "/x"}}


@pytest.mark.parametrize(
    "theirs",
    [
        token_secret("backend-token-x4k2p"),
        token_secret("backend-token-x4k2p", labels={"kubernetes.io/legacy-token-last-used": "2026-11-22"}),
        made("ConfigMap", "kube-root-ca.crt"),
        made("Node", namespace=None),
        made("ConfigMap", metadata={"deletionTimestamp": "2026-11-22T02:00:00Z"}),
        made("Endpoints", metadata={"annotations": {"control-plane.alpha.kubernetes.io/leader": "{}"}}),
        made("Pod", status={"phase": "Succeeded"}),
        made("Job", api="batch/v1", status={"conditions": [{"type": "Complete", "status": "True"}]}),
    ],
    ids=["token", "used token", "root-ca", "node", "being-deleted", "leader-election", "ended-pod", "ended-job"],
)
def test_what_the_cluster_makes_itself_or_what_has_ended_has_no_form_for_a_restore(theirs: dict[str, Any]) -> None:
    assert clean(theirs) is None


@pytest.mark.parametrize(
    "held",
    [
        made("ConfigMap", data={"a": "b"}),
        made("ConfigMap", binaryData={"a": "AAAA"}),
        made("PersistentVolumeClaim", spec={"volumeName": "disk"}),
        made("Endpoints", subsets=[{"addresses": [{"ip": "192.0.2.7"}]}]),
    ],
    ids=["data", "binary data", "claim", "addresses"],
)
def test_what_holds_more_than_a_leaders_name_is_restored_without_it(held: dict[str, Any]) -> None:
    led = copy.deepcopy(held)
    led["metadata"]["annotations"] = {"control-plane.alpha.kubernetes.io/leader": "{}"}

    assert clean(led) == held


@pytest.mark.parametrize("kind", ["Endpoints", "Lease", "ConfigMap"])
def test_what_holds_a_leaders_name_alone_is_not_restored(kind: str) -> None:
    annotations = {"control-plane.alpha.kubernetes.io/leader": "{}"}

    assert clean(made(kind, metadata={"annotations": annotations})) is None


def test_what_is_in_a_namespace_that_was_being_deleted_goes_with_it() -> None:
    cleaner = Cleaner()

    assert (
        cleaner.clean(made("Namespace", "fabric", None, metadata={"deletionTimestamp": "2026-11-22T02:00:00Z"})) is None
    )
    assert cleaner.clean(made("ServiceAccount")) is None
    assert cleaner.clean(made("ServiceAccount", namespace="backend")) == made("ServiceAccount", namespace="backend")


def test_a_token_secret_made_by_hand_is_filled_by_its_new_cluster() -> None:
    cleaned = clean(made("Secret", "deployer", type="kubernetes.io/service-account-token", data={"token": "old"},
                         metadata={"annotations": {"kubernetes.io/service-account.name": "deployer",
                                                   "kubernetes.io/service-account.uid": "old"}}))  # fmt: skip

    assert cleaned == made("Secret", "deployer", type="kubernetes.io/service-account-token",
                           metadata={"annotations": {"kubernetes.io/service-account.name": "deployer"}})  # fmt: skip


@pytest.mark.parametrize(
    ("theirs", "kept"),
    [
        (token_secret("backend-token-admin"), {}),
        (token_secret("other-token-x4k2p"), {}),
        (token_secret("backend-token-x4k2p", {"extra": "AAAA"}), {"data": {"extra": "AAAA"}}),
        (token_secret("backend-token-x4k2p", labels={"app": "x"}), {"labels": {"app": "x"}}),
    ],
    ids=["spelled by a person", "of another account", "with data", "with labels"],
)
def test_a_token_secret_that_was_not_generated_is_restored(theirs: dict[str, Any], kept: dict[str, Any]) -> None:
    cleaned = clean(theirs)

    assert cleaned is not None
    assert cleaned["metadata"].get("labels") == kept.get("labels")
    assert cleaned.get("data") == kept.get("data")


def test_a_token_that_was_refused_in_its_former_cluster_is_not_in_its_new_one() -> None:
    cleaned = clean(token_secret("ci", labels={"kubernetes.io/legacy-token-invalid-since": "2026-11-22", "app": "x"}))

    assert cleaned is not None
    assert cleaned["metadata"]["labels"] == {"app": "x"}


def test_a_service_account_forgets_its_generated_tokens_only() -> None:
    kept = [{"name": "pull"}, {"name": "one-token-admin"}, {"name": "other-token-x4k2p"}]
    cleaned = clean(made("ServiceAccount", secrets=[{"name": "one-token-x4k2p"}, *kept]))

    assert cleaned == made("ServiceAccount", secrets=kept)


def test_a_bare_pod_is_bound_to_no_node_and_no_token() -> None:
    token = {"name": "default-token-x4k2p", "secret": {"secretName": "default-token-x4k2p"}}
    access = {"name": "kube-api-access-x4k2p", "projected": {"sources": []}}
    pod = made("Pod", spec={
        "nodeName": "n1", "serviceAccountName": "default", "serviceAccount": "default",
        "volumes": [token, access, {"name": "d"}],
        "containers": [{"name": "c", "volumeMounts": [{"name": "default-token-x4k2p", "mountPath": "/var/run"}]}],
    })  # fmt: skip

    cleaned = clean(pod)

    assert cleaned is not None
    assert cleaned["spec"] == {
        "serviceAccountName": "default", "volumes": [{"name": "d"}], "containers": [{"name": "c"}],
    }  # fmt: skip


@pytest.mark.parametrize(
    "volume",
    [
        {"name": "api-token-files", "emptyDir": {}},
        {"name": "api-token-files", "secret": {"secretName": "api-token-files"}},
        {"name": "ci-token-admin", "secret": {"secretName": "ci-token-admin"}},
        {"name": "other-token-x4k2p", "secret": {"secretName": "other-token-x4k2p"}},
        {"name": "files", "secret": {"secretName": "ci-token-x4k2p"}},
        {"name": "kube-api-access-files", "configMap": {"name": "files"}},
    ],
    ids=["no secret", "another name", "spelled by a person", "of another account", "named by a person", "no token"],
)
def test_a_bare_pod_keeps_each_volume_that_its_cluster_did_not_give_it(volume: dict[str, Any]) -> None:
    mounted = {"name": "c", "volumeMounts": [{"name": volume["name"], "mountPath": "/files"}]}
    pod = made("Pod", spec={"serviceAccountName": "ci", "volumes": [volume], "containers": [mounted]})

    assert clean(pod) == pod


def test_a_token_volume_of_an_account_with_dots_in_its_name_is_known() -> None:
    token = {"name": "ci-gx-token-x4k2p", "secret": {"secretName": "ci.gx-token-x4k2p"}}

    cleaned = clean(made("Pod", spec={"serviceAccountName": "ci.gx", "volumes": [token], "containers": []}))

    assert cleaned == made("Pod", spec={"serviceAccountName": "ci.gx", "containers": []})


def test_a_job_gets_a_selector_of_its_own() -> None:
    labels = {"controller-uid": "u", "job-name": "one", "app": "x"}
    job = made("Job", api="batch/v1", metadata={"labels": dict(labels)},
               spec={"selector": {"matchLabels": labels},
                     "template": {"metadata": {"labels": dict(labels)}}})  # fmt: skip

    cleaned = clean(job)

    assert cleaned == made("Job", api="batch/v1", metadata={"labels": {"app": "x"}},
                           spec={"template": {"metadata": {"labels": {"app": "x"}}}})  # fmt: skip


def test_only_what_a_controller_makes_from_another_object_is_left_out_of_a_backup() -> None:
    owned = {"ownerReferences": [{"kind": "Y"}, {"kind": "X", "controller": True}]}
    selecting = {("fabric", "peer")}

    assert is_left_out(made("Pod", metadata=owned), set())
    assert not is_left_out(made("Pod"), set())
    assert is_left_out(made("Pod", metadata={"labels": {"app.kubernetes.io/managed-by": "gx-backup"}}), set())
    assert is_left_out(made("Endpoints", "peer"), selecting)
    assert not is_left_out(made("Endpoints", "outside-database"), selecting)
    assert not is_left_out(made("EndpointSlice"), set())
    assert not is_left_out(made("Secret", metadata=owned), set())


@pytest.mark.parametrize("kind", ["Job", "Pod", "ReplicaSet", "ControllerRevision"])
def test_an_owner_that_is_no_controller_leaves_nothing_out_of_a_backup(kind: str) -> None:
    """`kubectl create job --from=cronjob/…` names such an owner."""
    owned = made(kind, metadata={"ownerReferences": [{"kind": "X", "controller": False}, {"kind": "Y"}]})

    assert not is_left_out(owned, set())


@pytest.mark.parametrize(
    ("manager", "is_made_by_the_cluster"),
    [
        ("endpointslice-controller.k8s.io", True),
        ("endpointslicemirroring-controller.k8s.io", True),
        ("somebody.example", False),
    ],
)
def test_a_slice_is_left_out_only_where_the_clusters_own_controllers_manage_it(
    manager: str, is_made_by_the_cluster: bool
) -> None:
    labels = {"endpointslice.kubernetes.io/managed-by": manager}

    assert is_left_out(made("EndpointSlice", metadata={"labels": labels}), set()) is is_made_by_the_cluster


def test_what_a_fresh_cluster_brings_itself_is_known() -> None:
    rbac = {"labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}}
    by_server = {"managedFields": [{"manager": "api-priority-and-fairness-config-producer-v1"}]}

    assert is_built_in(made("ClusterRole", "admin", None, metadata=rbac))
    assert is_built_in(made("FlowSchema", "exempt", None, metadata=by_server))
    assert is_built_in(made("Service", "kubernetes", "default"))
    assert is_built_in(made("Namespace", "kube-system", None))
    assert not is_built_in(made("FlowSchema", "ours", None, metadata={"managedFields": [{"manager": "kubectl"}]}))
    assert not is_built_in(made("ServiceAccount", "default", "fabric"))


def test_every_kind_comes_after_what_it_needs() -> None:
    def kind(name: str, api: str = "v1") -> Kind:
        return Kind(api_version=api, kind=name, plural=name.lower(), namespaced=True, verbs=("list",))

    names = ["ValidatingWebhookConfiguration", "Ingress", "StatefulSet", "Service", "FabricChannel", "Secret",
             "RoleBinding", "Role", "ServiceAccount", "PersistentVolumeClaim", "PersistentVolume", "StorageClass",
             "Namespace", "CustomResourceDefinition"]  # fmt: skip

    assert [one.kind for one in ordered(kind(name) for name in names)] == names[::-1]


def test_a_kind_is_skipped_by_its_group_too() -> None:
    patterns = ["Event", "*.*metrics.k8s.io", "lease.coordination.k8s.io"]

    assert is_matched("Event", patterns)
    assert not is_matched("Event.gx.example", patterns)
    assert is_matched("PodMetrics.metrics.k8s.io", patterns)
    assert is_matched("Lease.coordination.k8s.io", patterns)


def test_a_choice_takes_namespaces_kinds_and_names_together() -> None:
    choice = Choice({"namespaces": ["fabric"], "kinds": ["secret", "Deployment.apps"], "names": []})

    assert choice.takes(made("Secret"), False)
    assert choice.takes(made("Deployment", api="apps/v1"), False)
    assert not choice.takes(made("Secret", namespace="backend"), False)
    assert not choice.takes(made("ConfigMap"), False)
    choice.require_all_matched()


def test_a_namespace_brings_itself_and_the_volumes_of_its_claims() -> None:
    choice = Choice({"namespaces": ["fabric"]})
    volume = {"claimRef": {"namespace": "fabric", "name": "data"}}

    assert choice.takes(made("Namespace", "fabric", None), False)
    assert choice.takes(made("PersistentVolume", namespace=None, spec=volume), False)
    assert not choice.takes(made("PersistentVolume", namespace=None, spec={}), False)


def test_system_namespaces_and_built_in_objects_are_taken_only_where_they_are_named() -> None:
    assert not Choice({}).takes(made("Secret", namespace="kube-system"), False)
    assert Choice({"namespaces": ["kube-system"]}).takes(made("Secret", namespace="kube-system"), False)
    assert not Choice({"kinds": ["ClusterRole"]}).takes(made("ClusterRole", "admin", None), True)
    assert Choice({"names": ["admin"]}).takes(made("ClusterRole", "admin", None), True)


@pytest.mark.parametrize("word", ["Secret", "Secret/fabric/one", "Secret fabric/one", "fabric/one", "one"])
def test_what_is_left_out_is_told(word: str) -> None:
    choice = Choice({"namespaces": ["fabric"], "leave_out": [word]})

    assert not choice.takes(made("Secret"), False)
    assert choice.takes(made("ConfigMap", "two"), False)
    assert not choice.takes(made("ConfigMap", "two", "backend"), False)
    assert choice.left_out == {"Secret fabric/one"}
    assert str(choice) == f"kubernetes objects: namespaces fabric; kinds all; names all; without {word}"
    choice.require_all_matched()


def test_a_word_that_leaves_nothing_out_is_refused() -> None:
    choice = Choice({"leave_out": ["Secret/fabric/twoo", "ConfigMap"]})
    choice.takes(made("Secret"), False)

    with pytest.raises(RestoreRefusedError, match="holds none for leave_out=Secret/fabric/twoo, leave_out=ConfigMap"):
        choice.require_all_matched()


def test_a_word_that_names_nothing_is_refused() -> None:
    choice = Choice({"kinds": ["Secret"], "names": ["fabric/one", "twoo"]})
    choice.takes(made("Secret"), False)

    with pytest.raises(RestoreRefusedError, match="holds none for names=twoo"):
        choice.require_all_matched()


def test_a_difference_is_told_by_its_path_and_never_by_its_value() -> None:
    live = made("Secret", data={"password": "b2xk", "user": "YQ=="}, metadata={"resourceVersion": "1"}, status={"x": 1})
    wanted = made("Secret", data={"password": "bmV3", "user": "YQ=="}, metadata={"resourceVersion": "2"})

    assert changed_paths(live, wanted) == ["data.password"]
    assert changed_paths({**live, "items": [1, {"a": 1}]}, {**live, "items": [1, {"a": 2}]}) == ["items[1].a"]
    assert changed_paths({**live, "items": [1]}, {**live, "items": [1, 2]}) == ["items"]


def test_what_others_added_since_is_told_by_its_path_and_never_by_its_value() -> None:
    container = {"name": "peer", "env": [{"name": "A", "value": "1"}], "args": ["x"]}
    captured = made("Pod", metadata={"labels": {"app": "x"}}, spec={"containers": [container]})
    since = copy.deepcopy(captured)
    since["metadata"]["annotations"] = {"example.org/token": "s3cret"}
    since["metadata"]["labels"]["tier"] = "front"
    since["spec"]["hostAliases"] = []
    [peer] = since["spec"]["containers"]
    peer["env"] = [{"name": "LD_PRELOAD", "value": "s3cret"}, {"name": "A", "value": "2", "valueFrom": {"x": "s3cret"}}]
    peer["args"] = ["x", "s3cret"]
    since["spec"]["containers"] = [{"name": "sidecar"}, peer]

    assert added_paths(since, captured) == [
        "metadata.annotations.example.org/token", "metadata.labels.tier", "spec.containers[0]",
        "spec.containers[1].args", "spec.containers[1].env[0]", "spec.containers[1].env[1].valueFrom.x",
    ]  # fmt: skip
    assert added_paths(captured, since) == []
