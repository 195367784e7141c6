"""Where two forms of one object differ: field paths, never values, since they may be secret. Pure."""

from __future__ import annotations

from typing import Any

from gxbackup.cluster_objects.naming import Object

# What the API server keeps about an object; who owns a field is no difference in it.
_BOOKKEEPING = ("resourceVersion", "managedFields", "generation", "uid", "creationTimestamp", "selfLink")


def changed_paths(live: Object, wanted: Object) -> list[str]:
    """Return the paths at which an object as it is and as it would be differ: `spec.replicas`, `data.password`."""
    return _differing(_substance(live), _substance(wanted), "")


def added_paths(live: Object, captured: Object) -> list[str]:
    """Return the paths that an object has and its captured form has not; both cleaned. Applying leaves them there."""
    return _added(live, captured, "")


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


def _added(live: Any, captured: Any, path: str) -> list[str]:
    if isinstance(live, dict) and isinstance(captured, dict):
        found: list[str] = []
        for key in sorted(live):
            below = f"{path}.{key}" if path else str(key)
            if key in captured or isinstance(live[key], dict):
                found += _added(live[key], captured.get(key, {}), below)
            elif live[key] not in (None, "", []):  # what is empty is as good as absent
                found.append(below)
        return found
    if isinstance(live, list) and isinstance(captured, list):
        return _added_items(live, captured, path)
    return []


def _added_items(live: list[Any], captured: list[Any], path: str) -> list[str]:
    """Compare items by their names, else by their places, else as a whole."""
    if all(isinstance(one, dict) and "name" in one for one in (*live, *captured)):
        named = {one["name"]: one for one in captured}
        found: list[str] = []
        for number, one in enumerate(live):
            below = f"{path}[{number}]"
            found += _added(one, named[one["name"]], below) if one["name"] in named else [below]
        return found
    if len(live) == len(captured):
        return [
            below
            for number, (one, other) in enumerate(zip(live, captured, strict=True))
            for below in _added(one, other, f"{path}[{number}]")
        ]
    return [path] if any(one not in captured for one in live) else []
