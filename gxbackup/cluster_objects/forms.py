"""
What the two forms of a snapshot prove by themselves: that they read whole, and that a server could take them.

Asks no API server: on a blank machine there may be none.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gxbackup.cluster_objects.capturing import RAW
from gxbackup.cluster_objects.naming import Object, label_of, name_of
from gxbackup.errors import IntegrityError
from gxbackup.model import Artifact

# Of one life of an object: a server refuses to apply what names them.
_OF_ONE_LIFE = ("uid", "resourceVersion", "managedFields")
_DEFINITION = "apiextensions.k8s.io/v1 CustomResourceDefinition"


def read_form(artifact: Artifact, file: Path) -> Counter[str]:
    """
    Read every object of one form and return how many there are of each kind.

    Raises: IntegrityError where one is no object, where they are not as many as the evidence says, and, for the
    ready-to-apply form, where one lacks what applying it needs.
    """
    form = str(artifact.settings.get("form"))
    needs = _Needs()
    counts: Counter[str] = Counter()
    for found in _objects(form, file):
        counts[label_of(found)] += 1
        if form != RAW:
            needs.look_at(found)
    _require_equal(form, counts, artifact)
    needs.require_met()
    return counts


class _Needs:
    """What objects need of each other: their namespaces, and the definitions of their kinds."""

    def __init__(self) -> None:
        self._namespaces = {"default"}
        self._groups: set[str] = set()
        self._namespaces_needed: dict[str, str] = {}
        self._groups_needed: dict[str, str] = {}

    def look_at(self, found: Object) -> None:
        """Note one object; IntegrityError where a server would refuse it for what it holds."""
        metadata = found["metadata"]
        if held := [field for field in _OF_ONE_LIFE if field in metadata] + [
            field for field in ("status",) if field in found
        ]:
            raise IntegrityError(f"{name_of(found)}: expected ready to apply, seen with {', '.join(held)}")
        if found["kind"] == "Namespace":
            self._namespaces.add(metadata["name"])
        elif label_of(found) == _DEFINITION or found["kind"] == "APIService":
            self._groups.add(found["spec"]["group"])
        if namespace := metadata.get("namespace"):
            self._namespaces_needed.setdefault(namespace, name_of(found))
        group = found["apiVersion"].rpartition("/")[0]
        if "." in group and not group.endswith(".k8s.io"):
            self._groups_needed.setdefault(group, name_of(found))

    def require_met(self) -> None:
        """Raise IntegrityError naming the first object whose namespace or definition is not there."""
        for namespace in sorted(self._namespaces_needed.keys() - self._namespaces):
            raise IntegrityError(f"{self._namespaces_needed[namespace]}: expected its Namespace too, seen none")
        for group in sorted(self._groups_needed.keys() - self._groups):
            raise IntegrityError(
                f"{self._groups_needed[group]}: expected a CustomResourceDefinition of {group} too, seen none"
            )


def _objects(form: str, file: Path) -> Iterator[Object]:
    """Yield the objects of a form; each document of the ready-to-apply form is one line of JSON, which is YAML too."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if form != RAW and line == b"---\n":
                continue
            try:
                found = json.loads(line)
                if not (found["apiVersion"] and found["kind"] and found["metadata"]["name"]):
                    raise ValueError("a name is empty")
            except (ValueError, KeyError, TypeError) as error:
                raise IntegrityError(f"{file.name} line {number}: expected an object, seen none: {error!r}") from None
            yield found


def _require_equal(form: str, counts: Counter[str], artifact: Artifact) -> None:
    told = artifact.evidence.get("objects")
    expected = {str(kind): count for kind, count in told.items() if count} if isinstance(told, dict) else {}
    for kind in sorted({*counts, *expected}):
        if counts[kind] != expected.get(kind, 0):
            where = "" if form == RAW else " ready to apply"
            raise IntegrityError(f"{kind}: expected {expected.get(kind, 0)} objects{where}, seen {counts[kind]}")
