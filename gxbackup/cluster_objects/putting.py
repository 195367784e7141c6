"""
Objects of a snapshot applied to the live cluster, in order; undone on failure.

Applying is idempotent: a run that was killed is ended by running it again. Nothing that the snapshot does not hold is
touched, and nothing is deleted but what a failed run itself had created.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from gxbackup.adapters.kubernetes_answers import ApiRefusalError
from gxbackup.cluster_objects import volumes
from gxbackup.cluster_objects.choosing import ChosenObjects
from gxbackup.cluster_objects.definitions import is_definition
from gxbackup.cluster_objects.journal import Journal
from gxbackup.cluster_objects.naming import Kind, Object, listed, name_of
from gxbackup.cluster_objects.trying import extra_in_words, survey, with_paths
from gxbackup.errors import BackupError, RestoreError

SERVED_TIMEOUT_SECONDS = 60
POLL_SECONDS = 0.1
# Where we owned an address ourselves, applying the Service again without it would mean that it is to go.
ADDRESS_MANAGER = "gx-backup-address"


def put(chosen: ChosenObjects, safety_dir: Path) -> list[str]:
    """
    Apply what differs, compare, and say what was done; what is overwritten is copied to safety before.

    Raises: RestoreRefusedError before anything is touched; RestoreError naming the object that failed.
    """
    survey(chosen).require_applicable()
    journal = Journal.begin(safety_dir)
    work = Putting(chosen, journal)
    try:
        work.apply_all()
        unbound = work.await_bound()
        differing = work.compare_all()
    except BaseException as error:
        kept = journal.put_back(chosen.api)
        if isinstance(error, BackupError):
            raise RestoreError(f"kubernetes objects: {work.at}: {error.message}", kept, *error.hints) from None
        raise
    journal.close()
    counts = work.counts
    there = f"all {counts.total()} are there"
    if differing:
        there += f", changed by the cluster since: {listed(differing)}"
    else:
        there += " with all that the snapshot holds" if work.extra else " and equal the snapshot"
    words = [
        f"{counts['added']} objects added, {counts['changed']} changed, {counts['same']} were the same already",
        there,
        *([extra_in_words(work.extra)] if work.extra else []),
    ]
    if unbound:
        words.append(f"not bound after {volumes.BOUND_TIMEOUT_SECONDS} s: {listed(unbound)}")
    if work.readdressed:
        words.append(f"another address than in the snapshot, which the server did not give: {listed(work.readdressed)}")
    return [*words, *([f"what was overwritten lies in {journal.copies}"] if counts["changed"] else [])]


class Putting:
    """The state of one run: what it did, and where it is."""

    def __init__(self, chosen: ChosenObjects, journal: Journal) -> None:
        self.counts: Counter[str] = Counter()
        self.at = "begin"
        self.extra: list[str] = []
        self.readdressed: list[str] = []
        self._chosen = chosen
        self._journal = journal
        self._claims: list[Object] = []

    def apply_all(self) -> None:
        """Apply each object; custom resources wait until their kinds are served."""
        definitions: list[Object] = []
        for wanted in self._chosen:
            if definitions and not is_definition(wanted):
                self._await_served(definitions)
                definitions = []
            self.at = name_of(wanted)
            if volumes.is_named_claim(wanted):
                self._claims.append(wanted)
            done = self._apply(wanted)
            self.counts[done] += 1
            if is_definition(wanted) and done != "same":
                definitions.append(wanted)
        self._await_served(definitions)

    def await_bound(self) -> list[str]:
        """Wait until the claims that name their volumes are bound; return those that are not in time."""
        self.at = "waiting for claims to be bound"
        return volumes.await_bound(self._chosen.api, self._claims)

    def compare_all(self) -> list[str]:
        """
        Return the objects that differ from the snapshot again; `extra` tells what they have beside it.

        Raises: RestoreError where one is not there.
        """
        differing = []
        for wanted in self._chosen:
            self.at = name_of(wanted)
            kind, live = self._chosen.served(wanted), self._chosen.live(wanted)
            if kind is None or live is None:
                raise RestoreError("expected it after the restore, seen none")
            if self._chosen.changes(kind, wanted, live):
                differing.append(name_of(wanted))
            if extra := self._chosen.additions(wanted, live):
                self.extra.append(with_paths(wanted, extra))
        return differing

    def _apply(self, wanted: Object) -> str:
        kind = self._chosen.served(wanted)
        if kind is None:
            raise RestoreError(self._chosen.unserved(wanted))
        live = self._chosen.live(wanted)
        if live is not None:
            if self._chosen.changes(kind, wanted, live) == []:
                return "same"
            self._journal.keep(kind, live)
            volumes.let_bind_anew(self._chosen.api, live)
        done, created = self._apply_new(kind, wanted) if live is None else self._chosen.api.apply(kind, wanted)
        # A try that was not answered may have created it, and the next one says then that it changed it.
        if created or live is None:
            self._journal.created(kind, done)
            return "added"
        return "changed"

    def _apply_new(self, kind: Kind, wanted: Object) -> tuple[Object, bool]:
        """Apply an object that is not there; a Service with the address that it had, where the server gives it that."""
        if (addressed := self._chosen.with_address(wanted)) is None:
            return self._chosen.api.apply(kind, wanted)
        try:
            return self._chosen.api.apply(kind, addressed, manager=ADDRESS_MANAGER)
        except ApiRefusalError as error:
            # Another has it by now, or this cluster has other addresses.
            if error.status != 422:
                raise
        done = self._chosen.api.apply(kind, wanted)
        had, has = addressed["spec"]["clusterIP"], (done[0].get("spec") or {}).get("clusterIP")
        self.readdressed.append(f"{name_of(wanted)} had {had}, has {has}")
        return done

    def _await_served(self, definitions: list[Object]) -> None:
        deadline = time.monotonic() + SERVED_TIMEOUT_SECONDS
        while definitions:
            waiting = [name_of(one) for one in definitions if not self._chosen.serves_all(one)]
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise RestoreError(f"{waiting[0]}: expected its kinds to be served within {SERVED_TIMEOUT_SECONDS} s")
            time.sleep(POLL_SECONDS)
