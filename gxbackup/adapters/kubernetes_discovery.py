"""
What an API server serves, told from its groups and from the resource list of each of their versions.

Discovery is asked each time: groups and versions differ between servers, and a cached answer outlives an upgrade.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import Field

from gxbackup.adapters.kubernetes_answers import ApiRefusalError
from gxbackup.cluster_objects.naming import Kind, Object
from gxbackup.model import Frozen


class Discovery(Frozen):
    """What an API server serves."""

    kinds: tuple[Kind, ...] = Field(description="each listable kind once, in its group's preferred version")
    served: dict[tuple[str, str], Kind] = Field(description="apiVersion and kind, in every version → how it is reached")
    failures: tuple[str, ...] = Field(default=(), description="groups whose kinds it would not tell, and why")


def discovered(groups: Sequence[Object], resources: Callable[[str], list[Object]]) -> Discovery:
    """
    Return every kind of these groups; `resources` asks for the list of one version, and may raise ApiRefusalError.

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
    return Discovery(kinds=tuple(chosen.values()), served=served, failures=tuple(failures))


def kind_of(version: str, resource: Object) -> Kind:
    """Return the kind that an entry of a version's resource list tells of."""
    return Kind(
        api_version=version,
        kind=resource["kind"],
        plural=resource["name"],
        namespaced=resource["namespaced"],
        verbs=tuple(resource.get("verbs") or ()),
    )


def _versions(groups: Sequence[Object]) -> list[tuple[str, str]]:
    """Return group and version of each, the preferred version first, the deprecated group last."""
    found = [("", "v1")]
    for group in sorted(groups, key=lambda group: bool(group["name"] == "extensions")):
        preferred = group["preferredVersion"]["groupVersion"]
        versions = sorted((one["groupVersion"] for one in group["versions"]), key=lambda one: bool(one != preferred))
        found += [(group["name"], version) for version in versions]
    return found
