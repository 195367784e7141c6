"""
Every object of a Kubernetes cluster, Secrets and custom resources included, as raw and as ready-to-apply form.

Both forms are read at one revision of the cluster, so that they agree with each other, and each kind with the others.
Source: strategy row K8s Manifests; design, "What is protected".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Literal

from pydantic import Field, JsonValue

from gxbackup.adapters.host import Host
from gxbackup.adapters.kubernetes_objects import ObjectApi
from gxbackup.cluster_objects.capturing import APPLY, RAW, ObjectStream, captured_kinds
from gxbackup.cluster_objects.choosing import ChosenObjects
from gxbackup.cluster_objects.forms import read_form
from gxbackup.cluster_objects.naming import Choice, is_matched, spelled
from gxbackup.cluster_objects.putting import put
from gxbackup.cluster_objects.trying import rehearse, survey
from gxbackup.errors import CollectError, SetupError
from gxbackup.model import Artifact, Capture, Evidence
from gxbackup.ports import PlainStream
from gxbackup.scratch import kubernetes as scratch
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
        """See `Restorable`: the raw form, from which any object can be restored; then the other, to be proven too."""
        del options
        return tuple(sorted(artifacts, key=lambda artifact: artifact.settings.get("form") != RAW))

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
        See `Restorable`: both forms are read and counted against the evidence, which needs no server at all.

        Then, where GX_SCRATCH_KUBECONFIG names a scratch server, every object is put there and removed again. Without
        it the server at KUBECONFIG, where it answers, judges each object as if it were new, and keeps nothing of it;
        where none answers, as on a blank machine, that is told and is no failure.
        """
        words = _by_form(work)
        if scratch.is_named():
            with scratch.scratch_api(host.cluster.api) as api:
                return [*words, scratch.put_and_remove(_chosen(api, work), work.area)]
        try:
            with host.cluster.api() as client:
                ObjectApi(client).version()  # asked once: one that is gone is not waited for
            with self._chosen(host, work) as chosen:
                judged = rehearse(chosen)
                chosen.choice.require_all_matched()
        except (SetupError, CollectError) as error:
            return [*words, f"no API server judged them, {scratch.VARIABLE} names none: {error.message}"]
        return [*words, *judged]

    def apply(self, host: Host, work: Work) -> list[str]:
        """See `Restorable`."""
        with self._chosen(host, work) as chosen:
            return put(chosen, work.safety_dir)

    @contextmanager
    def _chosen(self, host: Host, work: Work) -> Iterator[ChosenObjects]:
        with host.cluster.api() as client:
            yield _chosen(ObjectApi(client), work)


def _chosen(api: ObjectApi, work: Work) -> ChosenObjects:
    return ChosenObjects(api, work.opened[0].file, Choice(work.options))


def _by_form(work: Work) -> list[str]:
    """Read both forms and say how much they hold. Raises: IntegrityError."""
    counts, *ready = [read_form(one.artifact, one.file) for one in work.opened]
    return [
        f"{counts.total()} objects, as many of each kind as were captured: {spelled(counts)}",
        *(f"{found.total()} of them ready to apply, each with its Namespace and definition" for found in ready),
        *([] if ready else ["the ready-to-apply form is not there, and not proven"]),
    ]
