"""
Every object of a Kubernetes cluster, Secrets and custom resources included, as raw and as ready-to-apply form.

Both forms are read at one revision of the cluster, so that they agree with each other, and each kind with the others.
Source: strategy row K8s Manifests; design, "What is protected".
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, JsonValue

from gxbackup.adapters.host import Host
from gxbackup.adapters.kubernetes_objects import ObjectApi
from gxbackup.cluster_objects.capturing import APPLY, RAW, ObjectStream, captured_kinds
from gxbackup.cluster_objects.choosing import ChosenObjects
from gxbackup.cluster_objects.naming import Choice, is_matched, label_of, spelled
from gxbackup.cluster_objects.putting import put
from gxbackup.cluster_objects.trying import listed, rehearse, survey
from gxbackup.errors import IntegrityError
from gxbackup.model import Artifact, Capture, Evidence
from gxbackup.ports import PlainStream
from gxbackup.sources.base import Restorable, Work

OBJECT_BYTES = 8 * 1024


class KubernetesObjects(Restorable):
    """All objects of the cluster that KUBECONFIG names."""

    default_folder: ClassVar[str] = "kubernetes"

    kind: Literal["kubernetes_objects"] = "kubernetes_objects"
    skip_kinds: tuple[str, ...] = Field(
        default=("Event", "Event.events.k8s.io", "Lease.coordination.k8s.io", "ComponentStatus", "*.*metrics.k8s.io"),
        description="kinds that are not captured, as Kind or Kind.group with `*`; what tells only of the moment",
    )

    def collect(self, host: Host, data_type: str) -> list[Capture]:
        """
        Ask what there is, and for the cluster's revision of now; one capture for each form.

        Raises: SourceMissingError (retryable) where no API server answers; SetupError without a kubeconfig.
        """
        with host.cluster.api() as client:
            api = ObjectApi(client)
            version = api.version()
            discovery = api.discover()
            revision = api.revision()
            counts = {kind.label: api.count(kind) for kind in discovery.kinds}
        evidence: Evidence = {"kubernetes_version": version, "revision": revision}
        if skipped := [kind for kind in discovery.kinds if is_matched(kind.dotted, self.skip_kinds)]:
            evidence["kinds_skipped"] = {kind.label: counts[kind.label] for kind in skipped}
        if several := [kind for kind in discovery.kinds if kind.also_in]:
            evidence["served_also_in"] = {kind.label: [*kind.also_in] for kind in several}
        total = sum(counts[kind.label] or 0 for kind in captured_kinds(discovery, self.skip_kinds))
        return [
            Capture(
                data_type=data_type,
                name=name,
                settings={"form": form, "revision": revision},
                evidence=evidence,
                expected_size_bytes=OBJECT_BYTES * total,
            )
            for form, name in ((RAW, "objects.jsonl"), (APPLY, "apply.yaml"))
        ]

    @contextmanager
    def open(self, host: Host, capture: Capture) -> Iterator[PlainStream]:
        """List kind after kind as it is read; a kind that cannot be listed is a shortfall."""
        revision = capture.settings["revision"]
        with host.cluster.api() as client:
            yield ObjectStream(
                ObjectApi(client),
                str(capture.settings["form"]),
                self.skip_kinds,
                None if revision is None else str(revision),
            )

    def select(self, artifacts: Sequence[Artifact], options: dict[str, JsonValue]) -> tuple[Artifact, ...]:
        """See `Restorable`: the raw form, from which any object can be restored."""
        del options
        return tuple(artifact for artifact in artifacts if artifact.settings.get("form") == RAW)

    def target(self, work: Work) -> str:
        """See `Restorable`."""
        return str(Choice(work.options))

    def preview(self, host: Host, work: Work) -> list[str]:
        """See `Restorable`: a difference to the live cluster, as its API server tells it; values are never shown."""
        with self._chosen(host, work) as chosen:
            seen = survey(chosen)
            seen.require_applicable()
            return seen.in_words()

    def rehearse(self, host: Host, work: Work) -> list[str]:
        """
        See `Restorable`: every object read, counted against the evidence, and judged by the live API server as new.

        The server keeps nothing of it. That objects really come back is what an empty server shows, in a drill.
        """
        counts = _counted(work)
        with self._chosen(host, work) as chosen:
            accepted, unchecked = rehearse(chosen)
            chosen.choice.require_all_matched()
        words = [
            f"{counts.total()} objects, as many of each kind as were captured: {spelled(counts)}",
            f"{accepted} of them accepted by the API server (dry run)",
        ]
        return [*words, *([f"not checked: {listed(unchecked)}"] if unchecked else [])]

    def apply(self, host: Host, work: Work) -> list[str]:
        """See `Restorable`."""
        with self._chosen(host, work) as chosen:
            return put(chosen, work.safety_dir)

    @contextmanager
    def _chosen(self, host: Host, work: Work) -> Iterator[ChosenObjects]:
        with host.cluster.api() as client:
            yield ChosenObjects(ObjectApi(client), _raw(work), Choice(work.options))


def _raw(work: Work) -> Path:
    return work.opened[0].file


def _counted(work: Work) -> Counter[str]:
    """Count the objects of each kind; IntegrityError where they are not as many as the evidence says."""
    counts: Counter[str] = Counter()
    with _raw(work).open("rb") as lines:
        for line in lines:
            counts[label_of(json.loads(line))] += 1
    told = work.opened[0].artifact.evidence.get("objects")
    expected = {str(kind): count for kind, count in told.items() if count} if isinstance(told, dict) else {}
    for kind in sorted({*counts, *expected}):
        if counts[kind] != expected.get(kind, 0):
            raise IntegrityError(f"{kind}: expected {expected.get(kind, 0)} objects, seen {counts[kind]}")
    return counts
