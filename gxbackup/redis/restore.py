"""
The restore of a Redis in place: save, stop, prove the new beside the old, exchange, start, look; undone on failure.

What stops and starts the server, and where its data is reached meanwhile, is the target's business.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Protocol

from gxbackup.errors import BackupError, RestoreError, RestoreRefusedError, words
from gxbackup.model import Evidence
from gxbackup.ports import Place
from gxbackup.redis import holding, swap
from gxbackup.redis.server import SAVE_TIMEOUT_SECONDS, KeyCount, keyspace
from gxbackup.redis.swap import DataFiles


class Target(holding.Running, Protocol):
    """A server that can be stopped, and whose data can be reached then."""

    def require_stoppable(self) -> None:
        """Raise RestoreRefusedError or SourceMissingError where `stop` or `data` would be refused; change nothing."""
        ...

    def stop(self) -> None:
        """Stop it; return once nothing of it runs. Stopped already is as good."""
        ...

    def start(self) -> None:
        """Start it; return once it is ready. Raises: RestoreError where it is not in time."""
        ...

    def data(self) -> AbstractContextManager[tuple[Place, str]]:
        """Give a place that reaches the stopped server's data, and its folder there."""
        ...


def put_in_place(
    target: Target, new: Path, files: DataFiles, evidence: Evidence, save_timeout_seconds: float = SAVE_TIMEOUT_SECONDS
) -> list[str]:
    """
    Put an RDB in the place of what a server holds; say what was done, and where what was there lies now.

    A server that answers saves all it holds before it is stopped. A restore that was killed is undone first. On failure
    what was there is put back and started; killed anywhere, the next run finds it. Raises: RestoreRefusedError where it
    was not begun; RestoreError.
    """
    target.require_stoppable()
    told = holding.hold(target, files, new, save_timeout_seconds)
    exchanged = False
    try:
        target.stop()
        with target.data() as (place, folder):
            told[:0] = [f"a restore that was killed was undone first: {name}" for name in
                        swap.put_back(place, folder, files)]  # fmt: skip
            prepared = swap.prepare(place, folder, files, new, evidence)
            told += prepared.told
            swap.exchange(place, folder, files)
            exchanged = True
        target.start()
        told += _loaded(target.server().info(), prepared.keys, target.name)
        kept = swap.keep(target.server().place, target.folder)
    except BaseException as error:  # noqa: BLE001 - a signal, too, must not leave the server stopped
        raise _undone(target, files, error, exchanged, save_timeout_seconds) from None
    return [*told, f"{target.name} runs with it; what was there lies in {target.folder}/{', '.join(kept)}"]


def require_primary(info: dict[str, str], name: str) -> None:
    """Raise RestoreRefusedError where a server is a replica: it would take its primary's data over what is put in."""
    if info.get("role") == "slave":
        raise RestoreRefusedError(
            f"{name}: expected a primary, seen a replica of {info.get('master_host')}:{info.get('master_port')}",
            "restore its primary, and the replicas follow it: name the primary's pod in the inventory",
        )


def _loaded(info: dict[str, str], put_in: dict[str, KeyCount], name: str) -> list[str]:
    """
    Compare the started server's keys without an end with those that were put in: it may have loaded something else.

    Its clients write already: it may differ by as many keys as there were changes since it loaded. A save sets that
    number back, and then each database that had such keys must at least be there. Raises: RestoreError, also where it
    started as a replica: what it holds then is its primary's.
    """
    require_primary(info, name)
    seen = keyspace(info)
    changes = int(info["rdb_changes_since_last_save"])
    is_saved = info.get("rdb_saves", "0") != "0" or info["rdb_last_bgsave_time_sec"] != "-1"
    for database in sorted({*put_in, *seen}, key=int):
        expected, now = (_lasting(of.get(database, KeyCount(0, 0))) for of in (put_in, seen))
        if (expected and database not in seen) if is_saved else abs(expected - now) > changes:
            raise RestoreError(
                f"{name}: database {database}: expected {expected} keys without an end, seen {now} after the start "
                f"and {changes} changes",
                "does it load another file than its settings say?",
            )
    return [f"started with {sum(one.keys for one in seen.values())} keys"]


def _lasting(count: KeyCount) -> int:
    """Return how many keys do not expire."""
    return count.keys - count.expires


def _undone(
    target: Target, files: DataFiles, error: BaseException, exchanged: bool, save_timeout_seconds: float
) -> BaseException:
    """Put back what was there and start it; return what to raise. `exchanged`: the new data was in its place."""
    said = words(error)
    hints = error.hints if isinstance(error, BackupError) else ()
    if exchanged:
        with suppress(BackupError):  # what its clients have written since it started is kept beside
            target.server().save(save_timeout_seconds)
    try:
        target.stop()
        with target.data() as (place, folder):
            undone = swap.put_back(place, folder, files)
    except BackupError as second:
        holding.let_go(target)
        return RestoreError(
            f"{target.name}: restore failed: {said}; and what was there could not be put back: {second.message}",
            f"start the same restore again: it puts back {swap.BEFORE}…{swap.UNFINISHED} first, in {target.folder}",
            *hints,
        )
    # The copy has its last name already: only the answer that told so was lost.
    is_kept = exchanged and not undone
    try:
        target.start()
    except BackupError as second:
        there = "the restored data" if is_kept else "what was there"
        return RestoreError(
            f"{target.name}: restore failed: {said}; {there} is in its place, but does not start: {second.message}",
            *hints,
        )
    if not isinstance(error, Exception):
        return error
    if is_kept:
        return RestoreError(
            f"{target.name}: runs with the restored data, and what was there lies in {target.folder}/{swap.BEFORE}…, "
            f"but its last step failed: {said}",
            *hints,
        )
    aside = "".join(f"; {line}" for line in undone)
    return RestoreError(f"{target.name}: restore failed, and what was there is back: {said}{aside}", *hints)
