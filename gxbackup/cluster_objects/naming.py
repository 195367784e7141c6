"""How Kubernetes objects and kinds are named, ordered and picked. Pure; knows no API server."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import Field, JsonValue

from gxbackup.errors import RestoreRefusedError
from gxbackup.model import Frozen

Object = dict[str, Any]

NAMES_SHOWN = 10
SYSTEM_NAMESPACES = ("kube-system", "kube-public", "kube-node-lease")
# What others need comes first. A kind that is not named here is somebody's custom resource.
_ORDER = (
    ("CustomResourceDefinition",),
    ("Namespace",),
    ("PriorityClass", "StorageClass", "CSIDriver", "RuntimeClass", "IngressClass", "PodSecurityPolicy"),
    ("PersistentVolume",),
    ("PersistentVolumeClaim",),
    ("ServiceAccount",),
    ("ClusterRole", "Role"),
    ("ClusterRoleBinding", "RoleBinding"),
    ("Secret", "ConfigMap", "LimitRange", "ResourceQuota", "NetworkPolicy"),
    (),
    ("Service",),
    ("Endpoints", "EndpointSlice"),
    ("PodTemplate", "ReplicationController", "ControllerRevision", "DaemonSet", "Deployment", "StatefulSet",
     "ReplicaSet", "Pod", "CronJob", "Job"),
    ("HorizontalPodAutoscaler", "PodDisruptionBudget"),
    ("Ingress",),
    ("APIService", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"),
)  # fmt: skip
_RANK = {kind: rank for rank, kinds in enumerate(_ORDER) for kind in kinds}
_CUSTOM = _ORDER.index(())


class Kind(Frozen):
    """One kind of object as an API server serves it."""

    api_version: str = Field(description="apps/v1; v1 for the core group")
    kind: str
    plural: str
    namespaced: bool
    verbs: tuple[str, ...]
    also_in: tuple[str, ...] = Field(default=(), description="the other versions in which the same objects are served")

    @property
    def label(self) -> str:
        """Name it for people and evidence: `apps/v1 Deployment`."""
        return f"{self.api_version} {self.kind}"

    @property
    def dotted(self) -> str:
        """Name it without its version, as settings do: `Deployment.apps`, `Secret`."""
        group, slash, _ = self.api_version.partition("/")
        return f"{self.kind}.{group}" if slash else self.kind

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """Spell the API path of all of them, of one namespace's, or of one."""
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        within = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return f"{root}{within}/{self.plural}" + (f"/{name}" if name else "")


def is_matched(dotted: str, patterns: Iterable[str]) -> bool:
    """Tell whether a kind, spelled Kind.group, is one of these; `*` stands for anything, case does not matter."""
    return any(fnmatch.fnmatchcase(dotted.lower(), pattern.lower()) for pattern in patterns)


def rank(kind: str) -> int:
    """Return the place of a kind in the order of a restore; a CRD is first."""
    return _RANK.get(kind, _CUSTOM)


def ordered(kinds: Iterable[Kind]) -> list[Kind]:
    """Return kinds in the order in which their objects can be put back."""
    return sorted(kinds, key=lambda kind: (rank(kind.kind), kind.kind, kind.api_version))


def label_of(found: Object) -> str:
    """Name an object's kind: `apps/v1 Deployment`."""
    return f"{found['apiVersion']} {found['kind']}"


def name_of(found: Object) -> str:
    """Name an object for people: `Secret fabric/ca-root`, `Namespace fabric`."""
    metadata = found["metadata"]
    within = f"{metadata['namespace']}/" if metadata.get("namespace") else ""
    return f"{found['kind']} {within}{metadata['name']}"


_TAKEN_BY = ("namespaces", "kinds", "names")


class Choice:
    """
    Which objects a restore is asked for: by namespace, kind and name, each empty for all; but for what it leaves out.

    System namespaces, and what the cluster brings itself, are taken only where they are named. `left_out` are the names
    of those that would have been taken.
    """

    def __init__(self, options: Mapping[str, JsonValue]) -> None:
        self.namespaces = _words(options.get("namespaces"))
        self.kinds = _words(options.get("kinds"))
        self.names = _words(options.get("names"))
        self.leave_out = _words(options.get("leave_out"))
        self.left_out: set[str] = set()
        self._matched: set[str] = set()

    def takes(self, found: Object, is_built_in: bool) -> bool:
        """Tell whether an object is asked for; remembers which words named something."""
        metadata = found["metadata"]
        namespace, name = _namespace_of(found), metadata["name"]
        group = found["apiVersion"].partition("/")[0] if "/" in found["apiVersion"] else ""
        kinds = {found["kind"], f"{found['kind']}.{group}"}
        spellings = {kind.lower() for kind in kinds}
        spelled_out = {*kinds, name, f"{namespace}/{name}", name_of(found).replace(" ", "/")}
        words = {
            "namespaces": [word for word in self.namespaces if word == namespace],
            "kinds": [word for word in self.kinds if word.lower() in spellings],
            "names": [word for word in self.names if word in (name, f"{namespace}/{name}")],
            "leave_out": [word for word in self.leave_out if word.replace(" ", "/") in spelled_out],
        }
        for option, matched in words.items():
            self._matched.update(f"{option}={word}" for word in matched)
        if any(getattr(self, option) and not words[option] for option in _TAKEN_BY):
            return False
        if namespace in SYSTEM_NAMESPACES and namespace not in self.namespaces:
            return False
        if is_built_in and not words["names"]:
            return False
        if words["leave_out"]:
            self.left_out.add(name_of(found))
        return not words["leave_out"]

    def require_all_matched(self) -> None:
        """Raise RestoreRefusedError where a word of the options named nothing: it may be misspelled."""
        asked = [f"{option}={word}" for option in (*_TAKEN_BY, "leave_out") for word in getattr(self, option)]
        if strangers := [word for word in asked if word not in self._matched]:
            raise RestoreRefusedError(
                f"kubernetes objects: the snapshot holds none for {', '.join(strangers)}",
                "kinds are spelled like Secret or Deployment.apps, names like postgres or backend-mainnet/postgres; "
                "leave_out takes both, and Secret/backend-mainnet/postgres",
            )

    def __str__(self) -> str:
        parts = [f"{option} {', '.join(getattr(self, option)) or 'all'}" for option in _TAKEN_BY]
        without = f"; without {', '.join(self.leave_out)}" if self.leave_out else ""
        return f"kubernetes objects: {'; '.join(parts)}{without}"


def _words(value: JsonValue) -> tuple[str, ...]:
    if not value:
        return ()
    return tuple(str(word) for word in value) if isinstance(value, list) else (str(value),)


def _namespace_of(found: Object) -> str | None:
    """Return the namespace that an object is in or speaks of: a Namespace itself, a volume of one of its claims."""
    metadata = found["metadata"]
    if found["kind"] == "Namespace":
        return str(metadata["name"])
    if found["kind"] == "PersistentVolume":
        metadata = (found.get("spec") or {}).get("claimRef") or {}
    namespace: str | None = metadata.get("namespace")
    return namespace


def spelled(counts: Mapping[str, int], most: int = 12) -> str:
    """Spell counts on one line: `3 v1 Secret, 1 apps/v1 Deployment`."""
    pairs: Sequence[tuple[str, int]] = [(name, count) for name, count in counts.items() if count]
    more = f" and {len(pairs) - most} more kinds" if len(pairs) > most else ""
    return ", ".join(f"{count} {name}" for name, count in pairs[:most]) + more


def listed(names: list[str]) -> str:
    """Spell the first few of many."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return "; ".join(names[:NAMES_SHOWN]) + more
