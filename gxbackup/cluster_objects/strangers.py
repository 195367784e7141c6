"""What a namespace holds that one run has not made: where that is anything, undoing the run must not delete it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gxbackup.adapters.kubernetes_answers import ApiRefusalError
from gxbackup.adapters.kubernetes_objects import ObjectApi
from gxbackup.cluster_objects import cleaning
from gxbackup.cluster_objects.capturing import left_standing
from gxbackup.cluster_objects.naming import Kind, Object, is_matched, name_of, ordered
from gxbackup.errors import BackupError

# They tell of the moment, and of other objects.
_OF_THE_MOMENT = ("Event", "Event.events.k8s.io", "Lease.coordination.k8s.io", "*.*metrics.k8s.io")


def strangers(api: ObjectApi, namespace: str, own: Sequence[Object]) -> list[str]:
    """
    Name what is in a namespace beside one's own objects, as far as the first kind that has any.

    Not what every namespace gets, what a controller makes from another object there, or what is being deleted.
    Raises: BackupError where it cannot be told.
    """
    discovery = api.discover()
    if unseen := left_standing(discovery, _OF_THE_MOMENT):
        raise BackupError(f"what namespace {namespace} holds cannot be told: {unseen[0]}")
    uids = {one["metadata"]["uid"] for one in own}
    # Their Endpoints outlive them for a moment.
    selecting = {(namespace, one["metadata"]["name"]) for one in own if one["kind"] == "Service"}
    for kind in ordered(kind for kind in discovery.kinds if kind.namespaced):
        if is_matched(kind.dotted, _OF_THE_MOMENT):
            continue
        found = [name_of(one) for one in _there(api, kind, namespace, selecting) if one["metadata"]["uid"] not in uids]
        if found:
            return found
    return []


def _there(api: ObjectApi, kind: Kind, namespace: str, selecting: set[tuple[str, str]]) -> Iterator[Object]:
    try:
        for found in api.listing(kind, namespace=namespace):
            if kind.kind == "Service" and (found.get("spec") or {}).get("selector"):
                selecting.add((namespace, found["metadata"]["name"]))
            if not _is_of_every_namespace(found, selecting):
                yield found
    except ApiRefusalError as error:
        if error.status != 404:  # a kind whose definition was undone
            raise


def _is_of_every_namespace(found: Object, selecting: set[tuple[str, str]]) -> bool:
    metadata = found["metadata"]
    return (
        bool(metadata.get("deletionTimestamp"))
        or (found["kind"], metadata["name"]) == ("ServiceAccount", "default")
        or cleaning.is_controlled(found)
        or cleaning.is_left_out(found, selecting)
        or cleaning.is_made_by_cluster(found)
    )
