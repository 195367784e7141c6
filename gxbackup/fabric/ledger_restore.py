"""
One peer's or orderer's volume put back: stopped, unpacked beside, proven, exchanged, started, and its height compared.

Source: facts B11, B12 (an older ledger onto a newer peer; one orderer beside others that moved on).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from gxbackup import trees
from gxbackup.adapters.host import Host
from gxbackup.adapters.places import LocalPlace
from gxbackup.adapters.volumes import inside
from gxbackup.errors import BackupError, IntegrityError, RestoreError, RestoreRefusedError, SourceMissingError, words
from gxbackup.fabric import blocks, derived
from gxbackup.fabric import layout as files
from gxbackup.fabric.ledger_folder import Home, home_of, made
from gxbackup.fabric.ledger_set import LedgerSet
from gxbackup.tarstream import TarScanner
from gxbackup.volume_exchange import UNDO, VolumeExchange

if TYPE_CHECKING:
    from gxbackup.sources.base import Opened, Work
    from gxbackup.sources.ledger import Ledger


class LedgerRestore:
    """The restore of one volume from its level 0 and, on other days, the level 1 upon it."""

    def __init__(self, source: Ledger, host: Host | None, work: Work, levels: Sequence[Opened]) -> None:
        self._host = host
        self._namespace = source.namespace
        self._role = source.role
        self._source = source
        self._work = work
        self._levels = levels
        last = self.artifact = levels[-1].artifact
        self.pod = str(last.settings["pod"])
        self._settings = last.settings
        self._evidence = last.evidence
        self._exchange = VolumeExchange(LocalPlace("this host"), "")
        self._is_touched = self._is_prepared = self._is_exchanged = self._in_couchdb = False

    @cached_property
    def _home(self) -> Home:
        """The claim it is put back on: the one that its pod has now; where none runs, that which it was kept from."""
        if home := self._home_now():
            return home
        if claim := self._settings.get("claim"):
            return Home(claim=str(claim), below=str(self._settings.get("below", "")))
        raise RestoreRefusedError(
            f"{self.pod}: its ledger lies on no claim whose folder is known: it may go with its pod when that stops",
            f"give its StatefulSet a claim at {files.PRODUCTION[self._role]} (below a subPath of plain words, if any), "
            "start it so, and start this again",
            "`--mode scratch` proves the copy; RECOVER.md of its snapshot says how to unpack its files",
        )

    def _home_now(self) -> Home | None:
        assert self._host is not None
        with suppress(SourceMissingError):
            for pod in self._host.cluster.pods(self._namespace):
                if pod.name == self.pod:
                    return home_of(pod, self._role)
        return None

    @cached_property
    def statefulset(self) -> LedgerSet:
        """The StatefulSet that is stopped and started for it."""
        assert self._host is not None
        cluster, kept = self._host.cluster, self._settings.get("statefulset")
        return LedgerSet(cluster, self._namespace, str(kept or cluster.owner(self._namespace, self.pod)), self.pod)

    def plan(self) -> list[str]:
        """Say what is exchanged, with the heights kept and there now. Raises: RestoreRefusedError, see `Ledger`."""
        assert self._host is not None
        volume = self._source.used_at(self._host, self._home.claim)
        if self._role == "orderer":
            self.statefulset.require_own()
        kept, rebuilds = _heights(self._evidence.get("heights")), derived.rebuilds(self._role, self._evidence)
        if volume is None:  # stopped; apply looks once a pod of ours has it mounted
            told = f"its claim {self._home.claim} is exchanged; heights kept: {_told(kept)}; not mounted now"
            return [f"{self.pod}: {told}", f"{self.pod}: {rebuilds}", *self._left_as_it_is()]
        folder = inside(volume, self._home.below)
        there = self._require_consent(folder)
        return [
            f"{self.pod}: {folder} is exchanged; heights kept: {_told(kept)}; there now: {_told(there)}",
            f"{self.pod}: stands still meanwhile; {rebuilds}",
            *self._left_as_it_is(),
        ]

    def _left_as_it_is(self) -> list[str]:
        is_in_couchdb = self._settings.get("state_in_couchdb") or self._in_couchdb
        return [f"{self.pod}: {derived.left_in_couchdb(self._evidence)}"] if is_in_couchdb else []

    def rehearse(self) -> list[str]:
        """Unpack into the private area, compare, and read every block's data."""
        into = self._work.area / "rehearsal" / self.pod
        into.mkdir(mode=0o700, parents=True)
        exchange = VolumeExchange(LocalPlace("this host"), str(into))
        tree = self._unpack(exchange)
        chains = blocks.read_chains(tree / files.CHAINS[self._role], check_data=True)
        exchange.discard()
        return [
            f"{self.pod}: every file as it was; every block's data fits its header: {_told(blocks.heights(chains))}"
        ]

    def stop(self) -> None:
        """Stop the node. Raises: RestoreRefusedError before that where it has no claim: that its pod tells."""
        assert self._home.claim
        self.statefulset.stop()

    def prepare(self) -> None:
        """Stop, unpack beside, and prove; what is there stays in its place. On failure, as after it: see `withdraw`."""
        self.stop()
        with self._reached() as folder:
            self._exchange.folder, self._is_touched = str(folder), True
            self._exchange.recover()  # what a killed restore half moved counts as what is there
            self._require_consent(folder)
            self._unpack(self._exchange)
        self._is_prepared = True

    def apply(self, had: int | None = None) -> list[str]:
        """
        Prepare, unless that is done; exchange, start, compare. On failure the old content is in place and started.

        `had` is how many pods there were before the caller stopped them: none, and on failure it stays stopped. Where
        the old content cannot be put back, it does too, and the RestoreError says where that lies.
        """
        again = self.statefulset.enough() if had is None else had
        try:
            if self._is_prepared:
                self.stop()  # somebody may have started it since
            else:
                self.prepare()
            with self._reached() as folder:
                self._exchange.folder = str(folder)  # a driver mounts it for another pod in another place
                self._exchange.exchange()
                self._is_exchanged = True
            self.statefulset.start(again)
            told = self._compare()
        except BaseException as error:  # also where the run is cancelled: a node that stands still helps nobody
            self.withdraw(again, error)
            if not isinstance(error, BackupError):
                raise
            raise RestoreError(f"{self.pod}: {as_it_was(again)}: {error.message}", *error.hints) from error
        before = self._exchange.before
        done = [f"{self.pod}: restored and started {told}; what was there lies in {before} on its volume"]
        return done + self._left_as_it_is()

    def withdraw(self, had: int, error: BaseException) -> None:
        """
        Put the old content in its place, and give the node the pods that it had: none, and it stays stopped.

        Raises: RestoreError where the first fails, and then nothing may be started; or where they do not get ready.
        """
        if self._is_touched:
            self._undo(error)
        try:
            if had:
                self.statefulset.start(had)
        except BackupError as worse:
            raise RestoreError(
                f"{self.pod}: its volume is as it was, and it is asked to start: {worse.message}",
                *worse.hints, f"before that: {words(error)}",
            ) from error  # fmt: skip

    def _compare(self) -> str:
        """Hold the started node's claim and heights against those put back; say them. Raises: IntegrityError."""
        assert self._host is not None
        if (now := self._home_now()) and now != self._home:
            raise IntegrityError(
                f"{self.pod}: expected on {self._home.told()}, seen on {now.told()}: nobody reads what was put back",
                "start it once, so that its claim is known, and start this again: it goes onto that claim",
            )
        kept = _heights(self._evidence.get("heights"))
        volume = self._source.used_at(self._host, self._home.claim)
        if volume is None:
            return f"at {_told(kept)}, on another node: compared before it was started, not after"
        folder = inside(volume, self._home.below)
        there = self._heights_there(folder)
        if low := [name for name, height in kept.items() if there.get(name, 0) < height]:
            raise IntegrityError(f"{self.pod}: expected heights {_told(kept)} or more, seen {_told(there)}: {low[0]}")
        return f"at {_told(there)} in {folder}"

    def _undo(self, error: BaseException) -> None:
        exchange, exchanged = self._exchange, self._is_exchanged
        try:
            if exchanged:
                self.stop()
            with self._reached() as folder:
                exchange.folder = str(folder)
                exchange.undo(exchanged=exchanged)
        except BackupError as worse:
            claim = f"{self._namespace}/{self._home.claim}"
            raise exchange.left_stopped(self.pod, claim, error, worse, exchanged=exchanged) from error

    def _require_consent(self, folder: Path) -> dict[str, int]:
        """Return the heights there; RestoreRefusedError where they are above those kept, and nobody allowed that."""
        kept, there = _heights(self._evidence.get("heights")), self._heights_there(folder)
        self._in_couchdb = derived.is_in_couchdb(self._role, folder)
        older = [f"{name}: {there[name]} there, {height} kept" for name, height in kept.items()
                 if there.get(name, 0) > height]  # fmt: skip
        older += [f"{name}: {there[name]} there, not in the backup" for name in there if name not in kept]
        if older and not self._work.options.get("allow_older"):
            raise RestoreRefusedError(
                f"{self.pod}: the backup is older than what is there: {'; '.join(older)}",
                "a node that is behind catches up by itself from the others; nothing was touched",
                "put back just now by a run that was killed? then it went on since: name the others alone, with pods",
                "to go back on purpose, say allow_older",
            )
        return there

    def _unpack(self, exchange: VolumeExchange) -> Path:
        """Unpack all levels beside, and prove tree and heights; return where."""
        self._require_levels()
        new = Path(exchange.prepare(sum(level.artifact.plain_size_bytes for level in self._levels)))
        for level in self._levels:
            with level.chunks() as chunks:
                trees.extract(chunks, new, level.artifact.evidence, incremental=True)
        expected = self._evidence.get("tree")
        assert isinstance(expected, dict)
        trees.compare(expected, trees.tally(new))
        chains = new / files.CHAINS[self._role]
        seen = {name: blocks.read_chain(chains / name).height for name in _heights(self._evidence.get("heights"))}
        if seen != self._evidence.get("heights"):
            raise IntegrityError(f"{self.pod}: expected heights {self._evidence.get('heights')}, seen {seen}")
        self._require_startable(chains)
        return new

    def _require_startable(self, chains: Path) -> None:
        """Raise RestoreRefusedError where Fabric would not start: such a copy was made before the backup saw to it."""
        rebuilt, joined = files.DERIVED[self._role], blocks.joined_by_snapshot(chains)
        if rebuilt and joined and not self._evidence.get("joined_by_snapshot"):
            raise RestoreRefusedError(
                f"{self.pod}: joined {', '.join(joined)} by a snapshot: expected a copy with {', '.join(rebuilt)}, "
                "seen one without: Fabric does not rebuild them there, and stops",
                "choose a newer snapshot whose plan says `rebuilds nothing`",
                "or empty the volume, and join its channels again (`peer channel joinbysnapshot`)",
            )

    def vet(self) -> None:
        """Read every level to its end: proven, and vetted. Raises: RestoreRefusedError, IntegrityError."""
        self._require_levels()
        for level in self._levels:
            scanner = TarScanner(level.artifact.evidence)
            with level.chunks() as chunks:
                for chunk in chunks:
                    scanner.feed(memoryview(chunk))
            scanner.finish()

    def _require_levels(self) -> None:
        """Raise where a level cannot be put back: RestoreRefusedError where it is missing or builds on another."""
        for number, level in enumerate(self._levels):
            if level.artifact.settings.get("level") != number or number > 1:
                raise RestoreRefusedError(f"{self.pod}: expected its level {number}, seen {level.artifact.path}")
            if level.artifact.settings.get("full_id") != self._levels[0].artifact.settings.get("full_id"):
                raise RestoreRefusedError(f"{self.pod}: its level 1 builds on another level 0 than the one at hand")

    @contextmanager
    def _reached(self) -> Iterator[Path]:
        """Give the stopped node's folder: another cluster, or another pod, gave its volume another one."""
        assert self._host is not None
        image = self._settings.get("image")
        with self._source.mounts_of(self._host, self._home.claim, str(image) if image else None) as volume:
            yield made(volume, self._home.below)

    def _heights_there(self, folder: Path) -> dict[str, int]:
        moved = folder / UNDO / files.CHAINS[self._role]  # by a restore that was killed: it is put back first
        return blocks.readable_heights(moved if moved.is_dir() else folder / files.CHAINS[self._role])


def as_it_was(had: int) -> str:
    """Say that a node is as it was, which had so many pods."""
    return "as it was, and started again" if had else "as it was, and stopped as before"


def _heights(told: JsonValue) -> dict[str, int]:
    return {name: int(str(height)) for name, height in told.items()} if isinstance(told, dict) else {}


def _told(heights: dict[str, int]) -> str:
    return ", ".join(f"{name} {height}" for name, height in sorted(heights.items())) or "none"
