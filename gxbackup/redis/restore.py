"""
The restore of a Redis in place: stop, prove the new data beside the old, exchange, start, look; undone on failure.

What stops and starts the server, and where its data is reached meanwhile, is the target's business.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from gxbackup.errors import BackupError, RestoreError
from gxbackup.model import Evidence
from gxbackup.ports import Place
from gxbackup.redis import swap
from gxbackup.redis.server import KeyCount, RedisServer
from gxbackup.redis.swap import DataFiles


class Target(Protocol):
    """A server that can be stopped, and whose data can be reached then."""

    @property
    def name(self) -> str:
        """Name it for people."""
        ...

    @property
    def folder(self) -> str:
        """Where its data lies, as it sees it itself."""
        ...

    def server(self) -> RedisServer:
        """Return the running server; SourceMissingError where it does not run."""
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


def put_in_place(target: Target, new: Path, files: DataFiles, evidence: Evidence) -> list[str]:
    """
    Put an RDB in the place of what a server holds; say what was done, and where what was there lies now.

    A restore that was killed is undone first. On failure what was there is put back and started; killed anywhere, the
    next run finds it. Raises: RestoreError, IntegrityError.
    """
    try:
        target.stop()
        with target.data() as (place, folder):
            told = [f"a restore that was killed was undone first: {name}" for name in
                    swap.put_back(place, folder, files)]  # fmt: skip
            told += swap.prepare(place, folder, files, new, evidence)
            swap.exchange(place, folder, files)
        target.start()
        told += _loaded(target.server().keyspace(), evidence, target.name)
    except BaseException as error:  # noqa: BLE001 - a signal, too, must not leave the server stopped
        raise _undone(target, files, error) from None
    kept = swap.keep(target.server().place, target.folder)
    return [*told, f"{target.name} runs with it; what was there lies in {target.folder}/{', '.join(kept)}"]


def _loaded(seen: dict[str, KeyCount], evidence: Evidence, name: str) -> list[str]:
    """
    Look at the started server: what it loaded was counted before, but it may have loaded something else.

    Its clients write already, so that its keys are no longer to be compared one by one.
    """
    databases = evidence.get("databases")
    for database, told in databases.items() if isinstance(databases, dict) else ():
        assert isinstance(told, dict)
        if told["keys"] != told["expires"] and database not in seen:
            raise RestoreError(
                f"{name}: database {database}: expected {told['keys']} keys, seen an empty one after the start",
                "does it load another file than its settings say?",
            )
    return [f"started with {sum(one.keys for one in seen.values())} keys"]


def _undone(target: Target, files: DataFiles, error: BaseException) -> BaseException:
    """Put back what was there and start it; return what to raise."""
    said = error.message if isinstance(error, BackupError) else f"{type(error).__name__}: {error}"
    hints = error.hints if isinstance(error, BackupError) else ()
    try:
        target.stop()
        with target.data() as (place, folder):
            swap.put_back(place, folder, files)
    except BackupError as second:
        return RestoreError(
            f"{target.name}: restore failed: {said}; and what was there could not be put back: {second.message}",
            f"start the same restore again: it puts back {swap.BEFORE}…{swap.UNFINISHED} first, in {target.folder}",
            *hints,
        )
    try:
        target.start()
    except BackupError as second:
        return RestoreError(
            f"{target.name}: restore failed: {said}; what was there is in its place, but does not start: "
            f"{second.message}",
            *hints,
        )
    if not isinstance(error, Exception):
        return error
    return RestoreError(f"{target.name}: restore failed, and what was there is back: {said}", *hints)
