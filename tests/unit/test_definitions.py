"""In which version custom resources are listed and applied, so that none of their fields is lost."""

from __future__ import annotations

from typing import Any

from gxbackup.adapters.kubernetes_discovery import Discovery, discovered
from gxbackup.cluster_objects.capturing import left_standing
from gxbackup.cluster_objects.naming import Kind

GROUP = "gx.example"
DEFINITIONS = "apiextensions.k8s.io/v1"


def version(name: str, *fields: str, served: bool = True, storage: bool = False) -> dict[str, Any]:
    spec = {"type": "object", "properties": {field: {"type": "string"} for field in fields}}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}
    return {"name": name, "served": served, "storage": storage, "schema": schema}


def served(*versions: dict[str, Any], **spec: Any) -> Discovery:
    """Return what a server tells with Peers defined in these versions; the first served one is preferred."""
    names = {"plural": "peers", "kind": "Peer"}
    definition = {"spec": {"group": GROUP, "names": names, "versions": [*versions], **spec}}
    peer = {"name": "peers", "kind": "Peer", "namespaced": True, "verbs": ["list"]}
    defining = {"name": "definitions", "kind": "CustomResourceDefinition", "namespaced": False, "verbs": ["list"]}
    shown = [{"groupVersion": f"{GROUP}/{one['name']}"} for one in versions if one["served"]]
    groups = [
        {"name": DEFINITIONS.partition("/")[0], "versions": [{"groupVersion": DEFINITIONS}],
         "preferredVersion": {"groupVersion": DEFINITIONS}},
        {"name": GROUP, "versions": shown, "preferredVersion": shown[0]},
    ]  # fmt: skip

    def resources(asked: str) -> list[dict[str, Any]]:
        return {"v1": [], DEFINITIONS: [defining]}.get(asked, [peer])

    def objects(kind: Kind) -> list[dict[str, Any]]:
        assert kind.kind == "CustomResourceDefinition"
        return [definition]

    return discovered(groups, resources, objects)


def peers(discovery: Discovery) -> Kind:
    (kind,) = [kind for kind in discovery.kinds if kind.kind == "Peer"]
    return kind


def test_custom_resources_are_listed_and_applied_as_they_are_stored() -> None:
    discovery = served(version("v1", "new"), version("v1beta1", "legacy", storage=True), version("v1alpha1"))

    assert peers(discovery).api_version == f"{GROUP}/v1beta1"
    assert peers(discovery).also_in == (f"{GROUP}/v1", f"{GROUP}/v1alpha1")
    assert {key: kind.api_version for key, kind in discovery.stored.items()} == {
        (f"{GROUP}/v1", "Peer"): f"{GROUP}/v1beta1",
        (f"{GROUP}/v1alpha1", "Peer"): f"{GROUP}/v1beta1",
    }
    assert left_standing(discovery, []) == []


def test_what_a_webhook_converts_is_applied_as_it_was_captured() -> None:
    webhook = {"strategy": "Webhook"}
    discovery = served(version("v1"), version("v1beta1", "legacy", storage=True), conversion=webhook)

    assert peers(discovery).api_version == f"{GROUP}/v1beta1"
    assert discovery.stored == {}


def test_fields_that_only_another_version_shows_are_a_shortfall_where_the_stored_one_is_not_served() -> None:
    discovery = served(version("v2", "new"), version("v1", "old"), version("v0", storage=True, served=False))

    (shortfall,) = left_standing(discovery, [])
    assert shortfall.startswith(f"{GROUP}/v2 Peer: expected all fields, seen without spec.old: ")
    assert left_standing(discovery, ["Peer.gx.example"]) == []
    assert peers(discovery).api_version == f"{GROUP}/v2"


def test_versions_of_the_same_fields_are_none() -> None:
    discovery = served(version("v2", "a"), version("v1", "a"), version("v0", "b", storage=True, served=False))

    assert left_standing(discovery, []) == []


def test_a_schema_that_takes_whatever_there_is_shows_more_than_one_that_does_not() -> None:
    anything = version("v1")
    anything["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-preserve-unknown-fields"] = True
    discovery = served(version("v2"), anything, version("v0", storage=True, served=False))

    assert "seen without spec.*: " in left_standing(discovery, [])[0]


def test_fields_of_items_are_seen() -> None:
    deep = version("v1")
    properties = {
        "one": {"items": {"properties": {"a": {}}}},
        "two": {"additionalProperties": {"properties": {"b": {}}}},
    }
    deep["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"] = properties
    discovery = served(version("v2", "one", "two"), deep, version("v0", storage=True, served=False))

    assert "seen without spec.one[].a, spec.two[].b: " in left_standing(discovery, [])[0]
