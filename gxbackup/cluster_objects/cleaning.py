"""
The form of an object in which it can be applied again; and which objects the cluster makes itself. Pure.

Source: Kubernetes' API conventions: status, uid, resourceVersion and the like belong to one life of an object.
"""

from __future__ import annotations

import copy
import re

from gxbackup.cluster_objects.naming import Object, label_of

# An owner is named by its uid, which a restored owner has not: the garbage collector would delete what names it.
_METADATA = ("uid", "resourceVersion", "managedFields", "creationTimestamp", "selfLink", "generation",
             "ownerReferences", "deletionTimestamp", "deletionGracePeriodSeconds", "generateName")  # fmt: skip
_LEADER = "control-plane.alpha.kubernetes.io/leader"
_ANNOTATIONS = (
    "kubectl.kubernetes.io/last-applied-configuration",
    "deployment.kubernetes.io/revision",
    "deprecated.daemonset.template.generation",
    _LEADER,
    "kubernetes.io/service-account.uid",
    "endpoints.kubernetes.io/last-change-trigger-time",
    # A claim that says it is bound, beside a volume that is not there, is lost for good.
    "pv.kubernetes.io/bind-completed",
    "pv.kubernetes.io/bound-by-controller",
)
_OWNED = ("Pod", "ReplicaSet", "Job", "ControllerRevision")
_OF_NODES = (
    "Node",
    "CSINode",
    "CSIStorageCapacity",
    "VolumeAttachment",
    "CertificateSigningRequest",
    "ETCDSnapshotFile",
)
_FAIRNESS = "api-priority-and-fairness-config-producer"
_TOKEN_SECRET = "kubernetes.io/service-account-token"  # noqa: S105 - the type of a Secret, no secret
# Pods of our own, while another restore looks into a volume.
_OURS = {"app.kubernetes.io/managed-by": "gx-backup"}
_TOKEN_FIELDS = ("ca.crt", "namespace", "token")
# The cluster itself notes there when a token was last used, and from when on it is refused.
_TOKEN_LABELS = ("kubernetes.io/legacy-token-last-used", "kubernetes.io/legacy-token-invalid-since")
# The letters and digits of names that Kubernetes generates: without vowels, so that they spell nothing.
_GENERATED = "[bcdfghjklmnpqrstvwxz2456789]{5}"
# They make the slices of each Service, and mirror Endpoints; a slice that names another manager is somebody's own.
_SLICING = ("endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io")
_JOB_LABELS = ("controller-uid", "job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name")


def is_left_out(found: Object, selecting_services: set[tuple[str, str]]) -> bool:
    """
    Tell whether a backup leaves an object out, since a controller makes it from another one that is in the backup.

    `selecting_services`: namespace and name of each Service with a selector; their Endpoints follow from it.
    """
    metadata = found["metadata"]
    labels = metadata.get("labels") or {}
    if found["kind"] in _OWNED:
        return is_controlled(found) or _OURS.items() <= labels.items()
    if found["kind"] == "Endpoints":
        return (metadata["namespace"], metadata["name"]) in selecting_services
    if found["kind"] == "EndpointSlice":
        return labels.get("endpointslice.kubernetes.io/managed-by") in _SLICING
    return False


def is_controlled(found: Object) -> bool:
    """Tell whether a controller makes an object from its owner; any other owner only takes it along when it goes."""
    return any(owner.get("controller") for owner in found["metadata"].get("ownerReferences") or ())


def is_built_in(found: Object) -> bool:
    """Tell whether a fresh cluster brings this object itself, in its own version of it."""
    metadata, kind = found["metadata"], found["kind"]
    labels = metadata.get("labels") or {}
    name, namespace = metadata["name"], metadata.get("namespace")
    return (
        labels.get("kubernetes.io/bootstrapping") == "rbac-defaults"
        or "kube-aggregator.kubernetes.io/automanaged" in labels
        or (kind in ("FlowSchema", "PriorityLevelConfiguration") and _is_made_by(metadata, _FAIRNESS))
        or (kind == "PriorityClass" and name.startswith("system-"))
        or (kind == "Namespace" and name in ("default", "kube-system", "kube-public", "kube-node-lease"))
        or (kind in ("Service", "Endpoints", "EndpointSlice") and (namespace, name) == ("default", "kubernetes"))
    )


class Cleaner:
    """Cleans the objects of one snapshot in their order: those of a namespace that was being deleted go with it."""

    def __init__(self) -> None:
        self._ending: set[str] = set()

    def clean(self, found: Object) -> Object | None:
        """See `clean`; None too where the object's namespace was being deleted."""
        metadata = found["metadata"]
        if found["kind"] == "Namespace" and metadata.get("deletionTimestamp"):
            self._ending.add(metadata["name"])
        return None if metadata.get("namespace") in self._ending else clean(found)


def clean(found: Object) -> Object | None:
    """
    Return the form of an object that can be applied to this or another cluster, or None where it must not be.

    None: the cluster makes it itself (tokens, the root CA's ConfigMap, what belongs to one node), it was being deleted,
    or it is a Job or Pod that has ended: applied again, it would run again. The object given is not changed.
    """
    if is_made_by_cluster(found) or found["metadata"].get("deletionTimestamp") or _has_ended(found):
        return None
    cleaned = {key: copy.deepcopy(value) for key, value in found.items() if key != "status"}
    metadata = cleaned["metadata"]
    for key in _METADATA:
        metadata.pop(key, None)
    _drop(metadata, "annotations", _ANNOTATIONS)
    if special := _SPECIAL.get(found["kind"]):
        special(cleaned)
    return cleaned


def is_made_by_cluster(found: Object) -> bool:
    """Tell whether the cluster makes an object by itself: tokens, what belongs to a node, who leads an election."""
    metadata, kind = found["metadata"], found["kind"]
    return (
        kind in _OF_NODES
        or (kind == "Secret" and _is_generated_token(found))
        or (kind == "Secret" and found.get("type") == "bootstrap.kubernetes.io/token")
        or (kind == "ConfigMap" and metadata["name"] == "kube-root-ca.crt")
        or (_LEADER in (metadata.get("annotations") or {}) and _holds_nothing_but_a_leader(found))
    )


def _holds_nothing_but_a_leader(found: Object) -> bool:
    """Tell whether an object is there for its annotation: a claim or a ConfigMap of somebody's may bear it too."""
    held = {"Lease": (), "Endpoints": ("subsets",), "ConfigMap": ("data", "binaryData")}.get(found["kind"])
    return held is not None and not any(found.get(field) for field in held)


def _is_generated_token(secret: Object) -> bool:
    """Tell whether a Secret is the token that the cluster makes for each account; one made by hand holds more."""
    metadata = secret["metadata"]
    account = (metadata.get("annotations") or {}).get("kubernetes.io/service-account.name") or ""
    return (
        secret.get("type") == _TOKEN_SECRET
        and _is_token_of(account, metadata["name"])
        and not {*(metadata.get("labels") or ())} - {*_TOKEN_LABELS}
        and not {*(secret.get("data") or ())} - {*_TOKEN_FIELDS}
    )


def _is_made_by(metadata: Object, manager: str) -> bool:
    return any(str(field.get("manager", "")).startswith(manager) for field in metadata.get("managedFields") or ())


def _has_ended(found: Object) -> bool:
    status = found.get("status") or {}
    ended = [one for one in status.get("conditions") or () if one.get("type") in ("Complete", "Failed")]
    return (found["kind"] == "Pod" and status.get("phase") in ("Succeeded", "Failed")) or (
        found["kind"] == "Job" and any(one.get("status") == "True" for one in ended)
    )


def _drop(parent: Object, field: str, keys: tuple[str, ...]) -> None:
    """Drop keys of a map, and the map itself once it is empty."""
    if field in parent:
        parent[field] = {key: value for key, value in (parent[field] or {}).items() if key not in keys}
        if not parent[field]:
            del parent[field]


def _secret(cleaned: Object) -> None:
    if cleaned.get("type") == _TOKEN_SECRET:  # made by hand: its new cluster fills it
        _drop(cleaned, "data", _TOKEN_FIELDS)
        _drop(cleaned["metadata"], "labels", _TOKEN_LABELS)


def _service_account(cleaned: Object) -> None:
    account = cleaned["metadata"]["name"]
    kept = [one for one in cleaned.pop("secrets", None) or () if not _is_token_of(account, one.get("name", ""))]
    if kept:
        cleaned["secrets"] = kept


def _service(cleaned: Object) -> None:
    spec = cleaned["spec"]
    if spec.get("clusterIP") != "None":
        spec.pop("clusterIP", None)
        spec.pop("clusterIPs", None)
    spec.pop("healthCheckNodePort", None)


def address_of(found: Object) -> Object:
    """Return the fields of a Service that hold its address within the cluster; empty for what has none."""
    spec = found.get("spec") or {}
    if label_of(found) != "v1 Service" or spec.get("clusterIP") in (None, "", "None"):
        return {}
    return {field: spec[field] for field in ("clusterIP", "clusterIPs") if spec.get(field)}


def without_node_ports(cleaned: Object) -> Object:
    """Return a Service without the ports that only one Service of a cluster can have; any other object as it is."""
    if label_of(cleaned) != "v1 Service" or "ports" not in cleaned["spec"]:
        return cleaned
    ports = [{key: value for key, value in port.items() if key != "nodePort"} for port in cleaned["spec"]["ports"]]
    return {**cleaned, "spec": {**cleaned["spec"], "ports": ports}}


def _volume(cleaned: Object) -> None:
    # With the old claim's uid the volume counts as released, and its reclaim policy may delete the data.
    for key in ("uid", "resourceVersion"):
        (cleaned["spec"].get("claimRef") or {}).pop(key, None)


def _namespace(cleaned: Object) -> None:
    cleaned.pop("spec", None)


def _pod_spec(spec: Object) -> None:
    spec.pop("nodeName", None)
    spec.pop("serviceAccount", None)
    account = spec.get("serviceAccountName") or "default"
    tokens = {volume["name"] for volume in spec.get("volumes") or () if _is_token_volume(volume, account)}
    for holder, field in [(spec, "volumes"), *((one, "volumeMounts") for one in _containers(spec))]:
        if field in holder:
            holder[field] = [one for one in holder[field] or () if one["name"] not in tokens]
            if not holder[field]:
                del holder[field]


def _is_token_volume(volume: Object, account: str) -> bool:
    """Tell whether the cluster itself gave a Pod this volume, with the token of the Pod's account."""
    name, secret = volume["name"], (volume.get("secret") or {}).get("secretName") or ""
    if "projected" in volume:
        return bool(name.startswith("kube-api-access-"))
    # A volume's name has no dots: the cluster spells those of its Secret as hyphens.
    return bool(secret) and name == secret.replace(".", "-") and _is_token_of(account, secret)


def _is_token_of(account: str, secret: str) -> bool:
    """Tell whether a Secret's name is one that the cluster generates for the token of this account."""
    return re.fullmatch(rf"{re.escape(account)}-token-{_GENERATED}", secret) is not None


def _containers(spec: Object) -> list[Object]:
    return [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]


def _pod(cleaned: Object) -> None:
    _pod_spec(cleaned["spec"])


def _job(cleaned: Object) -> None:
    spec = cleaned["spec"]
    if not spec.get("manualSelector"):
        spec.pop("selector", None)
        _drop(spec["template"].get("metadata") or {}, "labels", _JOB_LABELS)
        _drop(cleaned["metadata"], "labels", _JOB_LABELS)


def _templated(cleaned: Object) -> None:
    for template in (cleaned["spec"].get("template"), *cleaned["spec"].get("volumeClaimTemplates", ())):
        if template and template.get("metadata"):
            template["metadata"].pop("creationTimestamp", None)
    for claim in cleaned["spec"].get("volumeClaimTemplates", ()):
        claim.pop("status", None)


_SPECIAL = {
    "Secret": _secret,
    "ServiceAccount": _service_account,
    "Service": _service,
    "PersistentVolume": _volume,
    "Namespace": _namespace,
    "Pod": _pod,
    "Job": _job,
    "StatefulSet": _templated,
    "Deployment": _templated,
    "DaemonSet": _templated,
    "ReplicaSet": _templated,
    "ReplicationController": _templated,
}
