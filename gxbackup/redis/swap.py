"""
The exchange of a stopped Redis's data: prepared beside it by a Redis of our own, proven, and put in by renames.

A running server writes its old dataset over a copied RDB when it stops, and one with an append-only file ignores the
RDB altogether. So the server is stopped first, and where it appends, our Redis writes that file anew from the RDB.
What was there stays beside as `before-restore-…`; until the restore is known good its name ends in `.unfinished`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gxbackup import clock
from gxbackup.errors import CommandError, RestoreError, RestoreRefusedError
from gxbackup.model import Evidence
from gxbackup.ports import Place
from gxbackup.redis import rdb
from gxbackup.redis.server import KeyCount, RedisServer
from gxbackup.scratch.redis import compare, databases_of, running_redis

NEW = ".gx-restore-new"
BEFORE = "before-restore-"
UNFINISHED = ".unfinished"
REWRITE_TIMEOUT_SECONDS = 3600
TRANSFER_TIMEOUT_SECONDS = 3600
STEP_TIMEOUT_SECONDS = 300
# The list of what was there is written before the first rename: with it, each later moment can be undone.
_SWAP = f"""set -eu; cd "$1"; before=$2$3; shift 3
mkdir "$before"
: >"$before/.items.new"
for item in "$@"; do [ ! -e "$item" ] || echo "$item" >>"$before/.items.new"; done
mv "$before/.items.new" "$before/.items"
owner=$(stat -c %u:%g .)
for item in "$@"; do [ ! -e "$item" ] || owner=$(stat -c %u:%g "$item"); done
for item in "$@"; do [ ! -e "$item" ] || mv "$item" "$before/"; done
for item in "$@"; do
    [ ! -e "{NEW}/$item" ] || {{ chown -R "$owner" "{NEW}/$item"; mv "{NEW}/$item" "$item"; }}
done
rm -rf "{NEW}"; sync"""
# What is there now may have served clients since: it is moved aside, never removed.
_PUT_BACK = f"""set -eu; cd "$1"; aside=$2; shift 2
rm -rf "{NEW}"
while [ -e "$aside" ]; do aside=$aside-again; done
set_aside() {{ [ ! -e "$1" ] || {{ mkdir -p "$aside"; mv "$1" "$aside/"; }}; }}
for before in {BEFORE}*{UNFINISHED}; do
    [ -d "$before" ] || continue
    if [ -e "$before/.items" ]; then
        while read -r item; do
            [ ! -e "$before/$item" ] || {{ set_aside "$item"; mv "$before/$item" "$item"; }}
        done <"$before/.items"
        for item in "$@"; do grep -qxF -e "$item" "$before/.items" || set_aside "$item"; done
        rm -f "$before/.items"
        undone=$before
    else
        undone=-
    fi
    rm -f "$before/.items.new"
    kept=${{before%{UNFINISHED}}}
    while [ -e "$kept" ]; do kept=$kept-again; done
    rmdir "$before" 2>/dev/null || mv "$before" "$kept"
    [ -d "$aside" ] || aside=-
    [ "$undone" = - ] || echo "$undone $aside"
done; sync"""
_PREPARE = f'cd "$1" && rm -rf "{NEW}" && mkdir -m 700 "{NEW}"'
_KEEP = f"""set -eu; cd "$1"
for before in {BEFORE}*{UNFINISHED}; do
    [ -d "$before" ] || continue
    kept=${{before%{UNFINISHED}}}
    while [ -e "$kept" ]; do kept=$kept-again; done
    mv "$before" "$kept"
    rm -f "$kept/.items"
    echo "$kept"
done; sync"""
_ROOM = 'cd "$1" && df -Pk . | tail -n 1'


@dataclass(frozen=True)
class DataFiles:
    """How a server names its files, and whether it appends."""

    rdb: str
    appends: bool
    append_folder: str
    append_file: str

    def items(self) -> list[str]:
        """Return every name that belongs to the dataset."""
        return [name for name in (self.rdb, self.append_folder, self.append_file) if name]


class Prepared(NamedTuple):
    """What a prepared dataset holds, counted as it was served, and what was compared."""

    keys: dict[str, KeyCount]
    told: list[str]


def require_room(place: Place, folder: str, files: DataFiles, new: Path) -> None:
    """Raise RestoreRefusedError where the new dataset does not fit beside the old one."""
    size_kib = new.stat().st_size // 1024 * (2 if files.appends else 1)
    free_kib = int(place.run(["sh", "-c", _ROOM, "sh", folder], timeout_seconds=60).text().split()[-3])
    if free_kib < size_kib:
        raise RestoreRefusedError(
            f"{place.name}: {folder}: expected room for {size_kib} KiB beside the old data, seen {free_kib} KiB",
            f"remove older {BEFORE}… folders there",
        )


def prepare(place: Place, folder: str, files: DataFiles, new: Path, evidence: Evidence) -> Prepared:
    """
    Lay the new dataset beside the old one and prove it there, served by a Redis of ours that nobody else reaches.

    Raises: RestoreError where there is no room, IntegrityError where the counts differ; the old one is untouched.
    """
    require_room(place, folder, files, new)
    _step(place, _PREPARE, folder)
    target = f"{folder}/{NEW}/{files.rdb}"
    place.write(["sh", "-c", 'cat >"$1"', "sh", target], new, timeout_seconds=TRANSFER_TIMEOUT_SECONDS)
    settings = {"appendfilename": files.append_file, "appenddirname": files.append_folder}
    if not files.append_folder:
        del settings["appenddirname"]
    settings |= databases_of(place, target, evidence)
    with running_redis(place, f"{folder}/{NEW}", files.rdb, settings) as server:
        told = compare(evidence, seen := server.keyspace(), rdb.check(place, target), place.name)
        if files.appends:
            _append(server)
            told.append("its append-only file was written anew from them")
    return Prepared(seen, told)


def exchange(place: Place, folder: str, files: DataFiles) -> None:
    """Put the prepared dataset in the old one's place; what was there stays beside it, unfinished until `keep`."""
    _step(place, _SWAP, folder, _before(), UNFINISHED, *files.items())


def put_back(place: Place, folder: str, files: DataFiles) -> list[str]:
    """
    Undo an exchange that was not kept, also one that was cut short anywhere; say what was put back.

    What is there now is moved into a folder of its own. A copy whose exchange was kept, although its name does not say
    so yet, gets that name.
    """
    words = _step(place, _PUT_BACK, folder, _before(), *files.items())
    return [
        f"{name} was put back" + ("" if aside == "-" else f"; what was there instead lies in {folder}/{aside}")
        for name, aside in zip(words[::2], words[1::2], strict=True)
    ]


def keep(place: Place, folder: str) -> list[str]:
    """Call the restore good; return where what was there lies from now on."""
    return _step(place, _KEEP, folder)


def unfinished(place: Place, folder: str) -> list[str]:
    """Return the copies of restores that were cut after they began to exchange, and before they were known good."""
    return _step(place, f'cd "$1" || exit; ls -d {BEFORE}*{UNFINISHED} 2>/dev/null || :', folder)


def _before() -> str:
    return f"{BEFORE}{clock.now():%Y%m%d_%H%M%S}"


def _append(server: RedisServer) -> None:
    server.set("appendonly", "yes")
    deadline = time.monotonic() + REWRITE_TIMEOUT_SECONDS
    while True:
        info = server.info()
        if info["aof_rewrite_in_progress"] == "0" and info["aof_rewrite_scheduled"] == "0":
            break
        if time.monotonic() > deadline:
            raise CommandError(f"{server.place.name}: the append-only file was not written in time")
        time.sleep(0.05)
    if info["aof_last_bgrewrite_status"] != "ok" or info["aof_last_write_status"] != "ok":
        raise RestoreError(f"{server.place.name}: the append-only file could not be written: is the disk full?")


def _step(place: Place, line: str, *words: str) -> list[str]:
    return place.run(["sh", "-c", line, "sh", *words], timeout_seconds=STEP_TIMEOUT_SECONDS).text().split()
