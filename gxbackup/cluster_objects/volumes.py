"""Volumes and their claims in a restore: one whose claim is gone is bound anew, and no undo costs a volume its data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from gxbackup.adapters.kubernetes_objects import ObjectApi
from gxbackup.cluster_objects.naming import Kind, Object, label_of, name_of
from gxbackup.errors import BackupError

BOUND_TIMEOUT_SECONDS = 60
POLL_SECONDS = 0.2
CLAIM_UID = "spec.claimRef.uid"
# Deleting one of these lets a provisioner delete what is in a volume, unless its reclaim policy is Retain.
HOLDING_DATA = ("PersistentVolume", "PersistentVolumeClaim", "Namespace")
_VOLUME = Kind(api_version="v1", kind="PersistentVolume", plural="persistentvolumes", namespaced=False, verbs=())
_CLAIM = Kind(
    api_version="v1", kind="PersistentVolumeClaim", plural="persistentvolumeclaims", namespaced=True, verbs=()
)


def waits_for_gone_claim(api: ObjectApi, live: Object) -> bool:
    """Tell whether an object is a volume whose claim, known by its uid, is gone: it is bound to no other then."""
    if label_of(live) != _VOLUME.label or not (kept_for := live["spec"].get("claimRef") or {}).get("uid"):
        return False
    claim = api.read(_CLAIM, kept_for["namespace"], kept_for["name"])
    return claim is None or claim["metadata"]["uid"] != kept_for["uid"]


def let_bind_anew(api: ObjectApi, live: Object) -> None:
    """Take the uid of a claim that is gone from a volume; any other object stays as it is."""
    if label_of(live) == _VOLUME.label:
        unnamed = {"spec": {"claimRef": {"uid": None, "resourceVersion": None}}}
        api.amend(_VOLUME, live["metadata"]["name"], lambda now: unnamed if waits_for_gone_claim(api, now) else None)


def volume_of(found: Object) -> str | None:
    """Return the name of the volume that an object is, or that it claims by name."""
    if label_of(found) == _VOLUME.label:
        return str(found["metadata"]["name"])
    return found["spec"].get("volumeName") if label_of(found) == _CLAIM.label else None


def is_named_claim(found: Object) -> bool:
    """Tell whether an object is a claim that names its volume."""
    return label_of(found) == _CLAIM.label and volume_of(found) is not None


def retain(api: ObjectApi, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """
    Give volumes the reclaim policy Retain, so that no provisioner deletes their data once their claims are deleted.

    Return the names of those that had another one, and why others could not be given it. Raises for none.
    """
    retained: list[str] = []
    failed: list[str] = []
    for name in names:
        try:
            if api.amend(_VOLUME, name, _to_retain):
                retained.append(name)
        except BackupError as error:
            failed.append(f"PersistentVolume {name}: cannot be given reclaim policy Retain: {error.message}")
    return retained, failed


def await_bound(api: ObjectApi, claims: Sequence[Object]) -> list[str]:
    """Wait until claims are bound; return those that are not after a minute, with the phase that each is in."""
    deadline = time.monotonic() + BOUND_TIMEOUT_SECONDS
    while True:
        phases = [(claim, _phase(api, claim)) for claim in claims]
        waiting = [(claim, phase) for claim, phase in phases if phase != "Bound"]
        if not waiting or time.monotonic() > deadline:
            return [f"{name_of(claim)} is {phase}, its volume is {volume_of(claim)}" for claim, phase in waiting]
        claims = [claim for claim, _ in waiting]
        time.sleep(POLL_SECONDS)


def _to_retain(volume: Object) -> Object | None:
    is_there = volume["spec"].get("persistentVolumeReclaimPolicy") == "Retain"
    return None if is_there else {"spec": {"persistentVolumeReclaimPolicy": "Retain"}}


def _phase(api: ObjectApi, claim: Object) -> str:
    live = api.read(_CLAIM, claim["metadata"]["namespace"], claim["metadata"]["name"])
    return "absent" if live is None else str((live.get("status") or {}).get("phase") or "Pending")
