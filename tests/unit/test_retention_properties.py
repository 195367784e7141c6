"""
Whatever happens to a server for months on end, no prune ever costs what it must keep.

Hypothesis draws the runs, losses, clock jumps, changes of mind and cuts; a judge that shares no code with the planner
says what could be restored. `GX_PROPERTY_EXAMPLES=2000` looks longer, and at random.
"""

from __future__ import annotations

import os
from collections import Counter
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from gxbackup import layout, retention
from gxbackup.errors import PruneRefusedError
from gxbackup.model import Artifact, Catalog
from gxbackup.retention import Plan
from tests.unit.catalogs import REMOTE_DIR, START, Promised, Shelf, Taken, inventory

PLAIN, GROWING, STILL, FIRST, SECOND = "plain", "growing", "still", "set-one", "set-two"
DATA_TYPES = (PLAIN, GROWING, STILL, FIRST, SECOND)
PROMISES = {
    PLAIN: Promised(keep_days=4, keep_at_least=2),
    GROWING: Promised(keep_days=5, keep_at_least=3),
    STILL: Promised(keep_days=3, keep_at_least=3),
    FIRST: Promised(keep_days=2, keep_at_least=1),
    SECOND: Promised(keep_days=6, keep_at_least=2),
}
OUTCOMES = st.sampled_from(["good", "good", "good", "partial", "failed"])
ACCIDENTS = ["copy", "copy", "file", "manifest", "trust", "stranger"]
EXAMPLES = os.environ.get("GX_PROPERTY_EXAMPLES")

Copy = tuple[str, str]


class Judge:
    """Says from files and manifests alone what could be restored; knows nothing of plans."""

    def __init__(self, shelf: Shelf) -> None:
        self._known: dict[Copy, bool] = {}
        self.files = dict(shelf.files)
        self.manifests = shelf.trusted()

    def copies(self) -> set[Copy]:
        return {(snapshot, name) for snapshot, manifest in self.manifests.items() for name in manifest.data_types()}

    def restorable(self, snapshot: str, data_type: str) -> bool:
        if (snapshot, data_type) not in self._known:
            self._known[snapshot, data_type] = self._restorable(snapshot, data_type)
        return self._known[snapshot, data_type]

    def _restorable(self, snapshot: str, data_type: str) -> bool:
        manifest = self.manifests.get(snapshot)
        if manifest is None or not manifest.has_good(data_type):
            return False
        return all(self._readable(snapshot, artifact) for artifact in manifest.of(data_type))

    def newest(self, data_type: str) -> list[str]:
        """The snapshots from which a data type could be restored, newest first."""
        return [snapshot for snapshot in sorted(self.manifests, reverse=True) if self.restorable(snapshot, data_type)]

    def _readable(self, snapshot: str, artifact: Artifact) -> bool:
        if artifact.held_in is not None and artifact.held_in not in self.manifests:
            return False
        where = artifact.held_in or snapshot
        for part in artifact.parts:
            if self.files.get(layout.in_snapshot(REMOTE_DIR, where, part.path)) != part.size_bytes:
                return False
        return artifact.base is None or self.restorable(artifact.base, artifact.data_type)


class YearsOfBackups(RuleBasedStateMachine):
    """One server: what runs put there, what accidents take away, and prunes that may be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.shelf = Shelf()
        self.promises = dict(PROMISES)
        self.now = START
        self.strangers: set[str] = set()
        self.rehearsed: dict[str, str] = {}
        self.pinned: set[str] = set()

    # What happens to it

    @initialize(days=st.integers(0, 8), shared=st.booleans())
    def a_good_start(self, days: int, shared: bool) -> None:
        for number in range(days):
            self.run(dict.fromkeys(DATA_TYPES, "good"), full=number == 0, shared=shared)
            self.now += timedelta(hours=24)

    @rule(
        count=st.integers(1, 7),
        hours=st.sampled_from([6, 24, 24, 72, 144]),
        outcomes=st.tuples(*[OUTCOMES] * 5),
        full=st.booleans(),
        shared=st.booleans(),
        prunes=st.sampled_from(["not", "unasked", "confirmed"]),
        cut=st.booleans(),
        data=st.data(),
        accident=st.sampled_from(["none", "none", *ACCIDENTS]),
    )
    def runs(
        self,
        count: int,
        hours: int,
        outcomes: tuple[str, ...],
        full: bool,
        shared: bool,
        prunes: str,
        cut: bool,
        data: st.DataObject,
        accident: str,
    ) -> None:
        for number in range(count):
            self.now += timedelta(hours=hours)
            self.run(dict(zip(DATA_TYPES, outcomes, strict=True)), full and number == 0, shared)
            if prunes != "not":
                self.prune(confirm=prunes == "confirmed", share=1, running=False)
        if cut:
            self.now += timedelta(hours=hours)
            self.run(dict.fromkeys(DATA_TYPES, "good"), full=True, shared=False, cut=True)
        if self.shelf.catalog_ids():
            self.accident(data, accident)

    def run(self, outcomes: dict[str, str], full: bool, shared: bool, cut: bool = False) -> None:
        newest = max((*self.shelf.manifests, *self.shelf.catalog_ids()), default="")
        if layout.snapshot_id(self.now) <= newest:
            return
        judge = Judge(self.shelf)
        taken = []
        for name in self.promises:
            if outcomes[name] == "failed":
                continue
            base = held_in = set_id = None
            good = judge.newest(name)
            if name == GROWING and not full:
                base = max((each for each, held in judge.copies() if held == name), default=None)
            if name == STILL and not full and outcomes[name] == "good":
                own = [each for each in good if judge.manifests[each].of(name)[0].held_in is None]
                held_in = own[0] if own else None
            if name in {FIRST, SECOND} and shared:
                set_id = f"set-{layout.snapshot_id(self.now)}"
            taken.append(
                Taken(
                    name,
                    keep_days=self.promises[name].keep_days,
                    names=("one.tar", "two.tar") if name == PLAIN else ("one.tar",),
                    size_bytes=10 if base else 100,
                    base=base,
                    held_in=held_in,
                    set_id=set_id,
                    whole=outcomes[name] == "good",
                )
            )
        failed = [name for name in self.promises if outcomes[name] == "failed"]
        self.shelf.back_up(self.now, taken, missing=failed, cut=cut)

    @rule(days=st.one_of(st.integers(1, 30), st.integers(-40, 400)))
    def time_passes_or_the_clock_jumps(self, days: int) -> None:
        self.now += timedelta(days=days)

    @precondition(lambda self: self.shelf.catalog_ids())
    @rule(data=st.data(), what=st.sampled_from(ACCIDENTS))
    def an_accident(self, data: st.DataObject, what: str) -> None:
        self.accident(data, what)

    def accident(self, data: st.DataObject, what: str) -> None:
        judge = Judge(self.shelf)
        match what:
            case "copy":
                newest = judge.newest(data.draw(st.sampled_from(DATA_TYPES)))[:4]
                if newest:
                    snapshot = data.draw(st.sampled_from(newest))
                    name = data.draw(st.sampled_from(judge.manifests[snapshot].data_types()))
                    self.lose(self.own_files(judge, snapshot, name))
            case "file":
                self.lose({data.draw(st.sampled_from(sorted(self.shelf.files)))})
            case "manifest":
                snapshot = data.draw(st.sampled_from(sorted(self.shelf.manifests)))
                self.lose({layout.in_snapshot(REMOTE_DIR, snapshot, layout.MANIFEST)})
            case "trust":
                self.shelf.untrusted = data.draw(st.sets(st.sampled_from(sorted(self.shelf.manifests)), max_size=2))
            case "stranger":
                snapshot = data.draw(st.sampled_from(sorted(self.shelf.catalog_ids())[:6]))
                names = ["notes.txt", "files/plain/copy.tar.zst.bak", "x/manifest.json"]
                if snapshot in judge.manifests:
                    names = ["files/plain/copy.tar.zst.age"]
                name = data.draw(st.sampled_from(names))
                self.shelf.put(snapshot, name)
                self.strangers.add(layout.in_snapshot(REMOTE_DIR, snapshot, name))

    def lose(self, paths: set[str]) -> None:
        for path in paths - self.strangers:
            self.shelf.files.pop(path, None)
            if path.endswith(f"/{layout.MANIFEST}"):
                # Nothing tells a file of our spelling from ours once the manifest is lost.
                folder = path.removesuffix(layout.MANIFEST)
                self.strangers -= {each for each in self.strangers if each.startswith(folder) and each.endswith(".age")}

    @rule(
        name=st.sampled_from(DATA_TYPES),
        keep_days=st.integers(1, 12),
        keep_at_least=st.integers(1, 5),
        leaves=st.booleans(),
    )
    def a_promise_changes(self, name: str, keep_days: int, keep_at_least: int, leaves: bool) -> None:
        if not leaves:
            self.promises[name] = Promised(keep_days=keep_days, keep_at_least=keep_at_least)
        elif len(self.promises) > 1:
            self.promises.pop(name, None)

    @precondition(lambda self: self.shelf.trusted())
    @rule(data=st.data(), pin=st.booleans())
    def an_old_copy_is_rehearsed_or_pinned(self, data: st.DataObject, pin: bool) -> None:
        copies = sorted(Judge(self.shelf).copies())[:20]
        if copies:
            snapshot, name = data.draw(st.sampled_from(copies))
            if pin:
                self.pinned = {snapshot}
            else:
                self.rehearsed[name] = snapshot

    # Prunes

    @rule(confirm=st.booleans(), share=st.sampled_from([0, 0.2, 0.5, 0.8, 1, 1, 1]), running=st.booleans())
    def prune(self, confirm: bool, share: float, running: bool) -> None:
        catalog = self.shelf.catalog()
        newest = catalog.newest()
        if newest is not None and layout.snapshot_time(newest.snapshot) > self.now:
            with pytest.raises(PruneRefusedError):
                self.plan(catalog)
            return
        plan = self.plan(catalog, running)
        self.require_the_same_when_backups_stop(catalog)
        if plan.refused and confirm:
            plan = self.plan(catalog, running, plan.sha256)
            assert plan.refused is None
        before = Judge(self.shelf)
        self.require_sound(plan, before, confirmed=confirm)
        if plan.refused:
            return
        for path in plan.deletions[: round(share * len(plan.deletions))]:
            self.shelf.delete_file(path)
        self.require_nothing_lost(plan, before)
        again = self.plan(self.shelf.catalog(), running)
        assert set(again.deletions) <= set(plan.deletions)
        if share == 1:
            assert again.deletions == ()
            self.require_expired_gone()

    def plan(self, catalog: Catalog, running: bool = False, confirm: str | None = None) -> Plan:
        return retention.plan(
            catalog,
            inventory(*self.pinned, **{name.replace("-", "_"): promise for name, promise in self.promises.items()}),
            self.now,
            rehearsed=self.rehearsed,
            running=running,
            confirm_sha256=confirm,
        )

    # What must hold

    def require_sound(self, plan: Plan, before: Judge, confirmed: bool) -> None:
        assert len(set(plan.deletions)) == len(plan.deletions)
        assert set(plan.deletions) <= before.files.keys() - self.strangers
        for snapshot in self.shelf.untrusted & self.shelf.catalog_ids():
            if layout.in_snapshot(REMOTE_DIR, snapshot, layout.MANIFEST) in before.files:
                assert snapshot not in map(plan.snapshot_of, plan.deletions)
        seen: set[str] = set()
        for path in plan.deletions:
            snapshot = plan.snapshot_of(path)
            if path.endswith(f"/{layout.MANIFEST}"):
                assert snapshot not in seen, "a file goes before its manifest"
            seen.add(snapshot)
        going = self.copies_going(plan, before)
        for snapshot, name in going:
            newest = before.newest(name)
            assert newest, f"{name} of {snapshot} goes, and there is no good copy"
            assert self.age(newest[0], snapshot) > timedelta(days=self.keep_days(before, snapshot, name))
            assert self.rehearsed.get(name) != snapshot
            assert snapshot not in self.pinned
        self.require_patience_with_leftovers(plan, before)
        for snapshot, name in before.copies() - going:
            if not self.own_files(before, snapshot, name):
                continue
            for artifact in before.manifests[snapshot].of(name):
                assert artifact.set_id is None or not any(
                    self.set_of(before, copy) == artifact.set_id for copy in going
                )
        if not plan.refused and not confirmed:
            self.require_modest(plan, before, going)

    def require_patience_with_leftovers(self, plan: Plan, before: Judge) -> None:
        named = {manifest.previous.snapshot for manifest in before.manifests.values() if manifest.previous}
        for path in plan.deletions:
            snapshot = plan.snapshot_of(path)
            if snapshot in before.manifests:
                continue
            assert not plan.question.running
            assert snapshot not in self.pinned
            assert self.now - self.moment(snapshot) > timedelta(hours=48)
            name = path.split("/")[-2]
            if snapshot in named and name in self.promises:
                newest = before.newest(name)
                assert newest, f"{path}: its manifest is lost, and there is no good copy"
                assert self.age(newest[0], snapshot) > timedelta(days=self.promises[name].keep_days)

    def require_modest(self, plan: Plan, before: Judge, going: set[Copy]) -> None:
        """Beyond the limit, nothing goes unasked that did not just expire: but for one copy of each data type."""
        if plan.freed_bytes <= 0.25 * sum(before.files.values()):
            return
        late: Counter[str] = Counter()
        for snapshot, name in going:
            artifacts = before.manifests[snapshot].of(name)
            needed = any(
                snapshot in {artifact.base, artifact.held_in}
                for manifest in before.manifests.values()
                for artifact in manifest.artifacts
            )
            written = max(*(artifact.keep_days for artifact in artifacts), self.keep_days(before, snapshot, name))
            overdue = self.age(before.newest(name)[0], snapshot) - timedelta(days=written)
            tied = needed or any(artifact.set_id for artifact in artifacts)
            if overdue > timedelta(hours=26 + 24) and not tied:
                late[name] += 1
        assert max(late.values(), default=0) <= 1

    def require_nothing_lost(self, plan: Plan, before: Judge) -> None:
        after = Judge(self.shelf)
        for name in {name for _, name in before.copies()}:
            at_least = self.promises[name].keep_at_least if name in self.promises else 3
            for snapshot in before.newest(name)[:at_least]:
                assert after.restorable(snapshot, name), f"{name} of {snapshot} was one of the newest {at_least}"
        for each in plan.decisions:
            if each.keep and before.restorable(each.snapshot, each.data_type):
                assert after.restorable(each.snapshot, each.data_type), (
                    f"{each.data_type} of {each.snapshot} was to stay"
                )
            for artifact in before.manifests[each.snapshot].of(each.data_type) if each.keep else ():
                path = layout.in_snapshot(REMOTE_DIR, artifact.held_in or each.snapshot, artifact.path)
                assert path in after.files or path not in before.files
        for snapshot, name in before.copies():
            newest = before.newest(name)
            if not newest or snapshot > newest[0]:
                assert self.own_files(before, snapshot, name) == self.own_files(after, snapshot, name)
        assert self.strangers & before.files.keys() <= after.files.keys()

    def require_expired_gone(self) -> None:
        """A prune that does nothing would keep every other promise: what nobody needs is gone after it."""
        judge = Judge(self.shelf)
        for snapshot, name in judge.copies():
            newest = judge.newest(name)
            at_least = self.promises[name].keep_at_least if name in self.promises else 3
            if (
                name == PLAIN
                and snapshot not in newest[:at_least]
                and newest
                and self.age(newest[0], snapshot) > timedelta(days=self.keep_days(judge, snapshot, name))
                and snapshot not in self.pinned
                and self.rehearsed.get(name) != snapshot
            ):
                assert self.own_files(judge, snapshot, name) == set()

    def require_the_same_when_backups_stop(self, catalog: Catalog) -> None:
        catalog = catalog.model_copy(update={"leftovers": ()})
        today = self.plan(catalog)
        now, self.now = self.now, self.now + timedelta(days=36500)
        much_later = self.plan(catalog.model_copy(update={"snapshots": tuple(reversed(catalog.snapshots))}))
        self.now = now
        assert much_later.deletions == today.deletions
        assert much_later.sha256 == today.sha256
        assert much_later.refused == today.refused

    # Words

    def copies_going(self, plan: Plan, before: Judge) -> set[Copy]:
        gone = set(plan.deletions)
        return {(snapshot, name) for snapshot, name in before.copies() if self.own_files(before, snapshot, name) & gone}

    def own_files(self, judge: Judge, snapshot: str, name: str) -> set[str]:
        manifest = self.shelf.manifests[snapshot]
        paths = {
            layout.in_snapshot(REMOTE_DIR, snapshot, part.path) for each in manifest.of(name) for part in each.parts
        }
        return paths & judge.files.keys()

    def set_of(self, judge: Judge, copy: Copy) -> str | None:
        return judge.manifests[copy[0]].of(copy[1])[0].set_id

    def keep_days(self, judge: Judge, snapshot: str, name: str) -> int:
        if name in self.promises:
            return self.promises[name].keep_days
        return judge.manifests[snapshot].of(name)[0].keep_days

    def age(self, newest: str, snapshot: str) -> timedelta:
        return self.moment(newest) - self.moment(snapshot)

    def moment(self, snapshot: str) -> datetime:
        return layout.snapshot_time(snapshot)


YearsOfBackups.TestCase.settings = settings(
    max_examples=int(EXAMPLES or 60),
    stateful_step_count=20,
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


class TestNoSequenceOfEventsEverCostsWhatMustBeKept(YearsOfBackups.TestCase):  # type: ignore[misc,name-defined]
    """The machine above, as a test."""
