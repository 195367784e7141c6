"""Where two forms of one object differ: field paths, never values, since they may be secret. Pure."""

from __future__ import annotations

from typing import Any

from gxbackup.cluster_objects.naming import Object

# What the API server keeps about an object; who owns a field is no difference in it.
_BOOKKEEPING = ("resourceVersion", "managedFields", "generation", "uid", "creationTimestamp", "selfLink")


def changed_paths(live: Object, wanted: Object) -> list[str]:
    """Return the paths at which an object as it is and as it would be differ: `spec.replicas`, `data.password`."""
    return _differing(_substance(live), _substance(wanted), "")


def _substance(found: Object) -> Object:
    kept = {key: value for key, value in found.items() if key != "status"}
    kept["metadata"] = {key: value for key, value in found["metadata"].items() if key not in _BOOKKEEPING}
    return kept


def _differing(before: Any, after: Any, path: str) -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        found: list[str] = []
        for key in sorted({*before, *after}):
            found += _differing(before.get(key), after.get(key), f"{path}.{key}" if path else str(key))
        return found
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        found = []
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            found += _differing(one, other, f"{path}[{number}]")
        return found
    return [] if before == after else [path]
