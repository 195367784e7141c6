"""
What an API server serves, told from its groups and from the resource list of each of their versions.

Discovery is asked each time: groups and versions differ between servers, and a cached answer outlives an upgrade.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pydantic import Field

from gxbackup.adapters.kubernetes_answers import ApiRefusalError
from gxbackup.cluster_objects import definitions
from gxbackup.cluster_objects.naming import Kind, Object
from gxbackup.model import Frozen

FIELDS_TOLD = 5


class Discovery(Frozen):
    """What an API server serves."""

    kinds: tuple[Kind, ...] = Field(
        description="each listable kind once: a custom one as it is stored, others as their group prefers"
    )
    served: dict[tuple[str, str], Kind] = Field(description="apiVersion and kind, in every version → how it is reached")
    stored: dict[tuple[str, str], Kind] = Field(
        default={}, description="apiVersion and kind of custom resources → the kind that shows all their fields instead"
    )
    hidden: dict[str, str] = Field(default={}, description="kinds of which fields are not shown: Kind.group → why")
    failures: tuple[str, ...] = Field(default=(), description="groups whose kinds it would not tell, and why")


def discovered(
    groups: Sequence[Object], resources: Callable[[str], list[Object]], objects: Callable[[Kind], Iterable[Object]]
) -> Discovery:
    """
    Return every kind of these groups; `resources` asks for the list of one version, `objects` for all of one kind.

    Both may raise ApiRefusalError.
    Where two groups serve the same stored objects (Ingress), the one that is not deprecated is taken.
    """
    served: dict[tuple[str, str], Kind] = {}
    chosen: dict[tuple[str, str], Kind] = {}
    stored: dict[tuple[str, str], tuple[str, str]] = {}
    failures: list[str] = []
    for group, version in _versions(groups):
        try:
            found = resources(version)
        except ApiRefusalError as error:
            failures.append(f"{version}: its kinds cannot be told: {error.message}")
            continue
        for resource in found:
            kind = kind_of(version, resource)
            served[version, kind.kind] = kind
            if "list" in kind.verbs:
                key = (group, kind.plural)
                storage = (kind.plural, resource.get("storageVersionHash") or f"{group}")
                first = stored.setdefault(storage, key) if key not in chosen else key
                if first in chosen:
                    earlier = chosen[first]
                    chosen[first] = earlier.model_copy(update={"also_in": (*earlier.also_in, version)})
                else:
                    chosen[key] = kind
    instead: dict[tuple[str, str], Kind] = {}
    hidden: dict[str, str] = {}
    try:
        for definition in _definitions(served, objects):
            key = (definition["spec"]["group"], definition["spec"]["names"]["plural"])
            if key in chosen:
                chosen[key] = _as_stored(chosen[key], definitions.stored_kind(definition, served))
                instead |= definitions.instead_of(definition, served)
                if fields := definitions.hidden_fields(definition, chosen[key]):
                    hidden[chosen[key].dotted] = _hidden(chosen[key], fields)
    except ApiRefusalError as error:
        failures.append(f"{definitions.API_VERSION}: how custom resources are stored cannot be told: {error.message}")
    return Discovery(
        kinds=tuple(chosen.values()), served=served, stored=instead, hidden=hidden, failures=tuple(failures)
    )


def kind_of(version: str, resource: Object) -> Kind:
    """Return the kind that an entry of a version's resource list tells of."""
    return Kind(
        api_version=version,
        kind=resource["kind"],
        plural=resource["name"],
        namespaced=resource["namespaced"],
        verbs=tuple(resource.get("verbs") or ()),
    )


def _definitions(served: dict[tuple[str, str], Kind], objects: Callable[[Kind], Iterable[Object]]) -> Iterable[Object]:
    kind = served.get((definitions.API_VERSION, definitions.KIND))
    return objects(kind) if kind else ()


def _as_stored(chosen: Kind, stored: Kind | None) -> Kind:
    if stored is None or stored.api_version == chosen.api_version:
        return chosen
    others = [version for version in (chosen.api_version, *chosen.also_in) if version != stored.api_version]
    return stored.model_copy(update={"also_in": tuple(others)})


def _hidden(kind: Kind, fields: list[str]) -> str:
    more = f" and {len(fields) - FIELDS_TOLD} more" if len(fields) > FIELDS_TOLD else ""
    return (
        f"{kind.label}: expected all fields, seen without {', '.join(fields[:FIELDS_TOLD])}{more}: it is stored in a "
        "version that is not served, and another one that is has them; serve the stored version in its definition"
    )


def _versions(groups: Sequence[Object]) -> list[tuple[str, str]]:
    """Return group and version of each, the preferred version first, the deprecated group last."""
    found = [("", "v1")]
    for group in sorted(groups, key=lambda group: bool(group["name"] == "extensions")):
        preferred = group["preferredVersion"]["groupVersion"]
        versions = sorted((one["groupVersion"] for one in group["versions"]), key=lambda one: bool(one != preferred))
        found += [(group["name"], version) for version in versions]
    return found
