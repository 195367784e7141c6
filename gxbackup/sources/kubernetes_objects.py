"""
Every object of a Kubernetes cluster, Secrets and custom resources included, as raw and as ready-to-apply form.

Both forms are read at one revision of the cluster, so that they agree with each other, and each kind with the others.
Source: strategy row K8s Manifests; design, "What is protected".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal

from pydantic import Field

from gxbackup.adapters.host import Host
from gxbackup.adapters.kubernetes_objects import ObjectApi
from gxbackup.cluster_objects.capturing import APPLY, RAW, ObjectStream, captured_kinds
from gxbackup.cluster_objects.naming import is_matched
from gxbackup.model import Capture, Evidence
from gxbackup.ports import PlainStream
from gxbackup.sources.base import Source

OBJECT_BYTES = 8 * 1024


class KubernetesObjects(Source):
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
