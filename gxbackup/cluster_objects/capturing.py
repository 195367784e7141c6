"""
Every object of a cluster as a stream of lines, in the order of a restore, kind by kind and page by page.

A kind that cannot be listed is a shortfall that names it; the others go on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence

from gxbackup.adapters.kubernetes_answers import ApiRefusalError
from gxbackup.adapters.kubernetes_discovery import Discovery
from gxbackup.adapters.kubernetes_objects import Listing, ObjectApi
from gxbackup.cluster_objects import cleaning
from gxbackup.cluster_objects.naming import SYSTEM_NAMESPACES, Kind, Object, is_matched, ordered
from gxbackup.errors import EmptyArtifactError
from gxbackup.lines import LineStream
from gxbackup.model import Evidence
from gxbackup.ports import StreamEnd

RAW, APPLY = "raw", "apply"


class ObjectStream(LineStream):
    """
    One form of all objects: `raw`, one JSON object a line; `apply`, cleaned, as YAML documents that kubectl applies.

    What `apply` leaves out (what the cluster makes itself, system namespaces) is counted in its evidence.
    """

    def __init__(self, api: ObjectApi, form: str, skip_kinds: Sequence[str], revision: str | None) -> None:
        super().__init__(self._written())
        self._api = api
        self._form = form
        self._skip_kinds = skip_kinds
        self._revision = revision
        self._counts: dict[str, int] = {}
        self._left_out: Counter[str] = Counter()
        self._listed_later: list[str] = []
        self._shortfalls: list[str] = []
        self._selecting: set[tuple[str, str]] = set()
        self._cleaner = cleaning.Cleaner()

    def finish(self) -> StreamEnd:
        """See `PlainStream`."""
        if not any(self._counts.values()):
            reasons = f": {self._shortfalls[0]}" if self._shortfalls else ""
            raise EmptyArtifactError(f"kubernetes objects ({self._form}): expected some, seen none{reasons}")
        evidence: Evidence = {"objects": {**self._counts}, "objects_total": sum(self._counts.values())}
        if self._left_out:
            evidence["objects_left_out"] = dict(sorted(self._left_out.items()))
        if self._listed_later:
            evidence["listed_later_than_revision"] = [*self._listed_later]
        return StreamEnd(evidence, tuple(self._shortfalls))

    def _written(self) -> Iterator[bytes]:
        discovery = self._api.discover()
        self._shortfalls += left_standing(discovery, self._skip_kinds)
        for kind in captured_kinds(discovery, self._skip_kinds):
            listing = self._api.listing(kind, self._revision)
            self._counts[kind.label] = 0
            try:
                for found in self._wanted(kind, listing):
                    self._counts[kind.label] += 1
                    yield _spelled(found, self._form)
            except ApiRefusalError as error:
                self._shortfalls.append(f"{kind.label}: cannot be listed: {error.message}")
            if self._revision and not listing.is_at_revision:
                self._listed_later.append(kind.label)

    def _wanted(self, kind: Kind, listing: Listing) -> Iterator[Object]:
        for found in listing:
            if kind.kind == "Service" and (found.get("spec") or {}).get("selector"):
                self._selecting.add((found["metadata"]["namespace"], found["metadata"]["name"]))
            if cleaning.is_left_out(found, self._selecting):
                self._left_out[f"{kind.label}: made from its owner"] += 1
            elif self._form == RAW:
                yield found
            elif cleaning.is_built_in(found) or found["metadata"].get("namespace") in SYSTEM_NAMESPACES:
                self._left_out[f"{kind.label}: built in or of a system namespace"] += 1
            elif (cleaned := self._cleaner.clean(found)) is not None:
                yield cleaned
            else:
                self._left_out[f"{kind.label}: made by the cluster itself, or ended"] += 1


def captured_kinds(discovery: Discovery, skip_kinds: Sequence[str]) -> list[Kind]:
    """Return the kinds to list, in the order of a restore."""
    return ordered(kind for kind in discovery.kinds if not is_matched(kind.dotted, skip_kinds))


def left_standing(discovery: Discovery, skip_kinds: Sequence[str]) -> list[str]:
    """Return why groups cannot be captured, and kinds not with all their fields, except what is skipped."""
    return [
        *(
            failure
            for failure in discovery.failures
            if not is_matched(f"*.{failure.partition('/')[0].partition(':')[0]}", skip_kinds)
        ),
        *(reason for dotted, reason in discovery.hidden.items() if not is_matched(dotted, skip_kinds)),
    ]


def _spelled(found: Object, form: str) -> bytes:
    line = json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"{line}\n".encode() if form == RAW else f"---\n{line}\n".encode()
