"""
A throwaway Kubernetes API server: the one that GX_SCRATCH_KUBECONFIG names, proven to be scratch before its first byte.

It must be empty and have no nodes, so that nothing of what is put there runs: a workload with production's keys and
addresses would act on production. What a rehearsal has made is removed again, and nothing else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from gxbackup.adapters.kubernetes_api import connect
from gxbackup.adapters.kubernetes_objects import ObjectApi
from gxbackup.cluster_objects import cleaning
from gxbackup.cluster_objects.choosing import ChosenObjects
from gxbackup.cluster_objects.definitions import is_definition
from gxbackup.cluster_objects.journal import Journal
from gxbackup.cluster_objects.naming import SYSTEM_NAMESPACES, Kind, Object, listed, name_of
from gxbackup.cluster_objects.putting import Putting
from gxbackup.cluster_objects.trying import survey
from gxbackup.errors import BackupError, CollectError, RestoreError, RestoreRefusedError, SetupError
from gxbackup.scratch.addresses import addresses

VARIABLE = "GX_SCRATCH_KUBECONFIG"
EMPTY_TIMEOUT_SECONDS = 60
POLL_SECONDS = 0.2
_HINT = f"{VARIABLE} must never name a server that is in use: docs/how-to/set-up-a-host.md"
_NAMESPACES = ("default", *SYSTEM_NAMESPACES)
_NAMESPACE = Kind(api_version="v1", kind="Namespace", plural="namespaces", namespaced=False, verbs=("list",))
_NODE = Kind(api_version="v1", kind="Node", plural="nodes", namespaced=False, verbs=("list",))


def is_named() -> bool:
    """Tell whether there is a scratch API server to rehearse on."""
    return bool(os.environ.get(VARIABLE))


@contextmanager
def scratch_api(protected: Callable[[], AbstractContextManager[Any]]) -> Iterator[ObjectApi]:
    """
    Give the named server; `protected` opens a client of the one that it must not be, as far as that one answers.

    Raises: RestoreRefusedError where both are one; SetupError without a usable kubeconfig; CollectError where nobody
    answers.
    """
    with connect(os.environ[VARIABLE]) as client:
        url, api = client.configuration.host, ObjectApi(client)
        api.version()
        # Without a kubeconfig, or with its server lost as in a disaster, that it is empty has to do.
        with suppress(SetupError, CollectError), protected() as other:
            seen = other.configuration.host
            if addresses(url) & addresses(seen):
                raise _refused(f"another server than the protected one, seen {seen}")
            ObjectApi(other).version()
            if _uid(api) == _uid(ObjectApi(other)):
                raise _refused(f"another cluster than the protected one, seen the same behind {url} and {seen}")
        yield api


def put_and_remove(chosen: ChosenObjects, area: Path) -> str:
    """
    Put the objects on a scratch server as a restore does, compare each, remove them again; say what was done.

    Raises: RestoreRefusedError before anything is made, where the server is not empty or has nodes; RestoreError that
    names the object that failed, and what could not be removed.
    """
    kinds = _kinds(chosen)
    if held := [*_standing(chosen.api, kinds)]:
        raise _refused(f"an empty one without nodes, seen {listed(held)}")
    survey(chosen).require_applicable()
    folder = area / "scratch"
    folder.mkdir(mode=0o700)
    journal = Journal.begin(folder)
    work = Putting(chosen, journal)
    failure = left = ""
    try:
        work.apply_all()
        if differing := work.compare_all():
            failure = f"differ from the snapshot: {listed(differing)}"
    except BackupError as error:
        failure = f"{work.at}: {error.message}"
    finally:
        left = _removed(chosen.api, journal, kinds)
    if failure or left:
        raise RestoreError("scratch API server: " + "; ".join(part for part in (failure, left) if part))
    return f"{work.counts.total()} objects put on the scratch API server, equal to the snapshot, and removed again"


def _removed(api: ObjectApi, journal: Journal, kinds: Iterable[Kind]) -> str:
    """Remove what a rehearsal has made, the last first; say what is left, nothing: empty. Raises for no object."""
    undone = journal.put_back(api, is_patient=False)  # nobody there takes finalizers but we, below
    deadline = time.monotonic() + EMPTY_TIMEOUT_SECONDS
    try:
        for kind, made in reversed(journal.made):
            _release(api, kind, made)
        while left := [*_standing(api, kinds)]:
            if time.monotonic() > deadline:
                return f"left on it: {listed(left)} ({undone})"
            time.sleep(POLL_SECONDS)
    except BackupError as error:
        return f"what is left on it cannot be told: {error.message} ({undone})"
    return ""


def _release(api: ObjectApi, kind: Kind, made: Object) -> None:
    """Let an object go that waits for a controller; the server itself does that for a CustomResourceDefinition."""
    live = api.read(kind, made["metadata"].get("namespace"), made["metadata"]["name"])
    if live is not None and live["metadata"]["uid"] == made["metadata"]["uid"] and not is_definition(made):
        api.release(kind, live)


def _kinds(chosen: ChosenObjects) -> list[Kind]:
    """Return the kinds of what would be made, as far as the server serves them yet; namespaces and nodes always."""
    found = {(wanted["apiVersion"], wanted["kind"]): chosen.served(wanted) for wanted in chosen}
    found |= {("v1", "Namespace"): _NAMESPACE, ("v1", "Node"): _NODE}
    return [kind for kind in found.values() if kind is not None]


def _standing(api: ObjectApi, kinds: Iterable[Kind]) -> Iterator[str]:
    """Yield what is on a server that no empty one has."""
    for kind in kinds:
        for found in api.listing(kind):
            if not _is_of_every_cluster(found):
                yield name_of(found)


def _is_of_every_cluster(found: Object) -> bool:
    metadata = found["metadata"]
    if found["kind"] in ("Namespace", "Node"):
        return metadata["name"] in _NAMESPACES and found["kind"] == "Namespace"
    if metadata.get("namespace") in SYSTEM_NAMESPACES or cleaning.is_built_in(found):
        return True
    is_account = (found["kind"], metadata.get("namespace"), metadata["name"]) == (
        "ServiceAccount",
        "default",
        "default",
    )
    return is_account or (not metadata.get("deletionTimestamp") and cleaning.clean(found) is None)


def _uid(api: ObjectApi) -> str:
    """Return the uid of namespace kube-system, by which a cluster is known; from a list: a worker may not get it."""
    found = [str(one["metadata"]["uid"]) for one in api.listing(_NAMESPACE) if one["metadata"]["name"] == "kube-system"]
    if not found:
        raise RestoreRefusedError("expected a namespace kube-system, seen none: is it a Kubernetes API server?")
    return found[0]


def _refused(said: str) -> RestoreRefusedError:
    return RestoreRefusedError(f"scratch API server: expected {said}", _HINT)
