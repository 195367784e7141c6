"""
What a CustomResourceDefinition says of its kinds: which they are, and in which version all their fields are seen. Pure.

Source: Kubernetes' manual, "Versions in CustomResourceDefinitions": an object is read and written without the fields
that the schema of the version asked for lacks; that of the version it is stored in lacks none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gxbackup.cluster_objects.naming import Kind, Object, label_of

API_VERSION, KIND = "apiextensions.k8s.io/v1", "CustomResourceDefinition"
Served = Mapping[tuple[str, str], Kind]


def is_definition(found: Object) -> bool:
    """Tell whether an object is a CustomResourceDefinition."""
    return label_of(found) == f"{API_VERSION} {KIND}"


def defined_kinds(definition: Object) -> set[tuple[str, str]]:
    """Return apiVersion and kind of what a CustomResourceDefinition defines."""
    return {_key(definition, version) for version in definition["spec"]["versions"] if version["served"]}


def stored_kind(definition: Object, served: Served) -> Kind | None:
    """Return the kind in the version that its objects are stored in; None where that version is not served."""
    stored = [version for version in definition["spec"]["versions"] if version.get("storage") and version["served"]]
    return served.get(_key(definition, stored[0])) if stored else None


def instead_of(definition: Object, served: Served) -> dict[tuple[str, str], Kind]:
    """
    Return, for each version that its objects are not stored in, the kind in the one that they are.

    Empty where a webhook converts them: one version's fields are not another's then, and it has to lose none.
    """
    stored = stored_kind(definition, served)
    if stored is None or _is_converted(definition):
        return {}
    return {key: stored for key in defined_kinds(definition) if key in served and key[0] != stored.api_version}


def hidden_fields(definition: Object, listed: Kind) -> list[str]:
    """
    Return the fields that other served versions have and the one that is listed lacks: `spec.legacy`.

    None where the version that the objects are stored in is served: what that one lacks is not stored.
    """
    versions = {_key(definition, one)[0]: one for one in definition["spec"]["versions"] if one["served"]}
    is_stored_shown = any(one.get("storage") for one in versions.values())
    if is_stored_shown or _is_converted(definition) or listed.api_version not in versions:
        return []
    fields = {version: {*_fields(_schema(one), "")} for version, one in versions.items()}
    return sorted(set().union(*fields.values()) - fields[listed.api_version])


def _key(definition: Object, version: Object) -> tuple[str, str]:
    spec = definition["spec"]
    return f"{spec['group']}/{version['name']}", spec["names"]["kind"]


def _is_converted(definition: Object) -> bool:
    return bool((definition["spec"].get("conversion") or {}).get("strategy", "None") != "None")


def _schema(version: Object) -> Object:
    return (version.get("schema") or {}).get("openAPIV3Schema") or {}


def _fields(schema: Object, path: str) -> Iterator[str]:
    """Yield the paths that a schema names; `*` where it takes whatever there is."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        yield f"{path}.*".lstrip(".")
    for name, below in (schema.get("properties") or {}).items():
        yield f"{path}.{name}".lstrip(".")
        yield from _fields(below, f"{path}.{name}")
    for inner in (schema.get("items"), schema.get("additionalProperties")):
        if isinstance(inner, dict):
            yield from _fields(inner, f"{path}[]")
