"""
The rules by which copies stay on the remote, each with its reason in plain words. Pure: no I/O, no clock, no listing.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Literal

from gxbackup.copies import NOTHING, Copy, Key, Need
from gxbackup.inventory import DataType
from gxbackup.model import Frozen

# A day's outage, and the two hours that alerts allow a daily run: so much catches up without a question.
CATCH_UP = timedelta(hours=26)
DEFAULT_KEEP_AT_LEAST: int = DataType.model_fields["keep_at_least"].default

Rule = Literal[
    "newest", "pinned", "rehearsed", "alone", "young", "base", "holder", "set", "absent", "expired", "pruned"
]
Kept = dict[Key, tuple[Rule, str]]
_NEED_WORDS: dict[Need, str] = {"base": "base of", "holder": "holds the file of", "set": "in one set with"}


class Promise(Frozen):
    """What the inventory promises of one data type, as far as it concerns pruning."""

    keep_days: int
    keep_at_least: int
    rpo_hours: float


class Rules(Frozen):
    """What must be kept on one server's behalf."""

    promises: dict[str, Promise]
    rehearsed: dict[str, str]
    pinned: frozenset[str]

    def promised(self, copy: Copy) -> timedelta:
        """Return how long a copy is kept: as the inventory says now; of a data type it lost, as its manifest says."""
        if copy.data_type == NOTHING:
            return timedelta(days=max(promise.keep_days for promise in self.promises.values()))
        promise = self.promises.get(copy.data_type)
        return timedelta(days=promise.keep_days if promise else copy.keep_days)

    def written(self, copy: Copy) -> timedelta:
        """Return the longer of what was promised when the copy was made and what is promised now."""
        return max(self.promised(copy), timedelta(days=copy.keep_days))

    def written_and_caught_up(self, copy: Copy) -> timedelta:
        """Return `written`, and what an outage of one day adds before the first good copy after it."""
        promise = self.promises.get(copy.data_type)
        return self.written(copy) + CATCH_UP + timedelta(hours=promise.rpo_hours if promise else 0)

    def keep_at_least(self, data_type: str) -> int:
        """Return how many of the newest good copies are never dropped."""
        promise = self.promises.get(data_type)
        return promise.keep_at_least if promise else DEFAULT_KEEP_AT_LEAST


def newest_good(copies: Iterable[Copy]) -> dict[str, datetime]:
    """Return when the newest good copy of each data type was made; under `NOTHING`, that of any of them."""
    newest: dict[str, datetime] = {}
    for copy in copies:
        if copy.good:
            for name in (copy.data_type, NOTHING):
                newest[name] = max(copy.time, newest.get(name, copy.time))
    return newest


def kept(copies: Mapping[Key, Copy], rules: Rules, keep_for: Callable[[Copy], timedelta]) -> Kept:
    """
    Return the copies that stay if each is kept for `keep_for`, and why: first for themselves, then for others' sake.

    What a kept copy needs is kept whatever its age: its base, the snapshot that holds its file, the rest of its set,
    and what those need in turn.
    """
    newest = newest_good(copies.values())
    ranks: dict[str, int] = defaultdict(int)
    stay: Kept = {}
    for key, copy in sorted(copies.items(), reverse=True):
        rank = ranks[copy.data_type] = ranks[copy.data_type] + copy.good
        why = _own_reason(copy, rank, newest.get(copy.data_type), rules, keep_for(copy))
        if why is not None:
            stay[key] = why
    todo = deque(stay)
    while todo:
        copy = copies[todo.popleft()]
        for need, key in copy.needs:
            if key in copies and key not in stay:
                stay[key] = (need, f"{_NEED_WORDS[need]} {copy.held.snapshot}")
                todo.append(key)
    return stay


def _own_reason(
    copy: Copy, rank: int, newest: datetime | None, rules: Rules, keep_for: timedelta
) -> tuple[Rule, str] | None:
    at_least = rules.keep_at_least(copy.data_type)
    if copy.good and rank <= at_least:
        return "newest", f"newest good copy {rank} of {at_least}"
    if copy.held.snapshot in rules.pinned:
        return "pinned", "pinned"
    if rules.rehearsed.get(copy.data_type) == copy.held.snapshot:
        return "rehearsed", "newest rehearsed copy"
    if newest is None:
        return "alone", "not whole, and there is no good copy"
    if copy.time > newest:
        return "alone", "not whole, and newer than the newest good copy"
    if newest - copy.time <= keep_for:
        return "young", compare(newest - copy.time, keep_for)
    return None


def compare(age: timedelta, keep_for: timedelta) -> str:
    """Spell an age beside the promise it is held against."""
    return f"{spell_age(age)} older than the newest good copy, kept {spell_age(keep_for)}"


def spell_age(age: timedelta) -> str:
    """Spell a duration for people with its two largest units: `3 d 6 h`."""
    minutes, seconds = divmod(int(age.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = ((days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s"))
    return " ".join([f"{number} {unit}" for number, unit in units if number][:2]) or "0 s"
