"""The objects of a snapshot that one restore is about, in their order, and how the live cluster serves them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from gxbackup.adapters.kubernetes_answers import ApiRefusalError
from gxbackup.adapters.kubernetes_objects import ObjectApi
from gxbackup.cluster_objects import cleaning, volumes
from gxbackup.cluster_objects.definitions import defined_kinds, instead_of, is_definition
from gxbackup.cluster_objects.differences import added_paths, changed_paths
from gxbackup.cluster_objects.naming import Choice, Kind, Object, label_of, name_of

_DEFINED_BY = "restore its CustomResourceDefinition too, or what its APIService points to"
# Their names follow from what is in them: they cannot be tried under another one.
_NAMED_BY_CONTENT = ("CustomResourceDefinition", "APIService", "Namespace")


class Verdict(StrEnum):
    """What a server says of an object that it does not refuse."""

    ACCEPTED = "accepted"
    FORBIDDEN = "forbidden: the account lacks a right, or the object something that may come with the restore"
    UNTRIED = "untried: it cannot be, without being made"


class ChosenObjects:
    """
    What is asked for of the raw form of a snapshot, cleaned; read line by line each time.

    `coming` are the namespaces among those yielded so far; `not_for_restore` counts what the cluster makes itself.
    """

    def __init__(self, api: ObjectApi, file: Path, choice: Choice) -> None:
        self.api = api
        self.choice = choice
        self.coming: set[str] = set()
        self.not_for_restore = 0
        self._file = file
        self._defined: set[tuple[str, str]] = set()
        self._addresses: dict[str, Object] = {}
        discovery = api.discover()
        self._served: dict[tuple[str, str], Kind] = {**discovery.served}
        self._stored: dict[tuple[str, str], Kind] = {**discovery.stored}

    def __iter__(self) -> Iterator[Object]:
        """Yield each object in the order of the snapshot, which is that of a restore."""
        self.coming, self.not_for_restore, self._defined = set(), 0, set()
        cleaner = cleaning.Cleaner()
        with self._file.open("rb") as lines:
            for line in lines:
                found = json.loads(line)
                cleaned = cleaner.clean(found)
                if not self.choice.takes(found, cleaning.is_built_in(found)):
                    continue
                if cleaned is None:
                    self.not_for_restore += 1
                    continue
                if cleaned["kind"] == "Namespace":
                    self.coming.add(cleaned["metadata"]["name"])
                if address := cleaning.address_of(found):
                    self._addresses[name_of(cleaned)] = address
                if is_definition(cleaned):
                    self._defined |= defined_kinds(cleaned)
                yield cleaned

    def served(self, wanted: Object) -> Kind | None:
        """
        Return how the cluster serves an object's kind; None where it does not.

        A custom resource's is that of the version it is stored in: in another one, copying it loses fields, and
        applying takes them from the live object.
        """
        key = (wanted["apiVersion"], wanted["kind"])
        return self._stored.get(key) or self._served.get(key)

    def with_address(self, wanted: Object) -> Object | None:
        """Return a Service yielded before with the address that it was captured with; None for what had none."""
        address = self._addresses.get(name_of(wanted)) if label_of(wanted) == "v1 Service" else None
        return {**wanted, "spec": {**wanted["spec"], **address}} if address else None

    def serves_all(self, definition: Object) -> bool:
        """Ask whether the cluster serves by now every kind that a CustomResourceDefinition defines."""
        defined = defined_kinds(definition)
        for version in sorted({version for version, _ in defined}):
            try:
                self._served |= {(version, kind.kind): kind for kind in self.api.kinds(version)}
            except ApiRefusalError as error:
                if error.status != 404 and not error.retryable:
                    raise
                return False
        self._stored = {key: kind for key, kind in self._stored.items() if key not in defined}
        self._stored |= instead_of(definition, self._served)
        return defined <= self._served.keys()

    def is_defined(self, wanted: Object) -> bool:
        """Tell whether an object yielded before this one defines its kind."""
        return (wanted["apiVersion"], wanted["kind"]) in self._defined

    def unserved(self, wanted: Object) -> str:
        """Say why an object cannot be applied to this cluster, and what can be done."""
        other = sorted(api for api, kind in self._served if kind == wanted["kind"])
        instead = f"it serves {', '.join(other)}" if other else _DEFINED_BY
        return f"{name_of(wanted)}: the cluster does not serve {label_of(wanted)}; {instead}"

    def live(self, wanted: Object) -> Object | None:
        """Return the live object of this kind, namespace and name; None where there is none."""
        kind = self.served(wanted)
        metadata = wanted["metadata"]
        return self.api.read(kind, metadata.get("namespace"), metadata["name"]) if kind else None

    def namespace_state(self, namespace: str) -> str:
        """Return Active, Terminating or absent."""
        live = self.api.read(self._served["v1", "Namespace"], None, namespace)
        return "absent" if live is None else str((live.get("status") or {}).get("phase") or "Active")

    def changes(self, kind: Kind, wanted: Object, live: Object) -> list[str] | None:
        """Return the paths of a live object that applying would change, as the server says; None: it cannot tell."""
        # Applying does not own this field; see `volumes.let_bind_anew`.
        gone = [volumes.CLAIM_UID] if volumes.waits_for_gone_claim(self.api, live) else []
        try:
            return changed_paths(live, self.api.apply(kind, wanted, dry_run=True)[0]) + gone
        except ApiRefusalError as error:
            if _cannot_be_tried(error):
                return None
            raise

    def additions(self, wanted: Object, live: Object) -> list[str]:
        """Return the paths of a live object that the snapshot does not hold; applying leaves them there."""
        cleaned = cleaning.clean(live)
        return [] if cleaned is None else added_paths(cleaned, wanted)

    def try_as_new(self, kind: Kind, wanted: Object) -> Verdict:
        """
        Ask whether the server would take an object, tried under a name that nobody has.

        Raises: ApiRefusalError where it would not.
        """
        name = f"gx-dry-run-{secrets.token_hex(4)}"
        metadata = {**wanted["metadata"], "name": name, **({"namespace": "default"} if kind.namespaced else {})}
        trial = wanted if wanted["kind"] in _NAMED_BY_CONTENT else {**wanted, "metadata": metadata}
        try:
            self.api.apply(kind, trial, dry_run=True)
        except ApiRefusalError as error:
            # What a new object needs may come with the restore: an account, a quota, a right.
            if error.status == 403:
                return Verdict.FORBIDDEN
            if _cannot_be_tried(error):
                return Verdict.UNTRIED
            raise
        return Verdict.ACCEPTED


def _cannot_be_tried(error: ApiRefusalError) -> bool:
    # A token is made soon after its account; what waits for it can be applied, and cannot be tried.
    return "does not support dry run" in error.message or error.reason == "ServerTimeout"
