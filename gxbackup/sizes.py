"""How big the newest copy of a data type is, held against its own history: half, double, or emptied. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from gxbackup import contents, layout
from gxbackup.model import HeldSnapshot

HISTORY_MINIMUM = 3
HISTORY_COPIES = 30
# GNU tar writes whole records of 256 KiB here, so a small tree doubles without having grown.
NOISE_BYTES = {True: 512 * 1024, False: 4 * 1024}


class Sizes(NamedTuple):
    """The newest copy's plain size, the median of those before (None: no history yet), and what is odd about it."""

    plain_bytes: int
    usual_bytes: int | None
    oddity: str | None
    emptied: bool


def judge(good: Sequence[HeldSnapshot], data_type: str) -> Sizes:
    """Judge the newest of a data type's good copies (newest first) by those before it."""
    if not good:
        return Sizes(0, None, None, emptied=False)
    plain, usual = _plain(good[0], data_type), _usual(good, data_type)
    if (held := _emptied(good, data_type)) is not None:
        words = contents.in_words(good[0].manifest.of(data_type)[0].kind)
        return Sizes(plain, usual, f"it is empty: no {words} in it, usually {held:.0f}", emptied=True)
    if usual is None or abs(plain - usual) <= _noise(good[0], data_type) or usual / 2 < plain < usual * 2:
        return Sizes(plain, usual, None, emptied=False)
    return Sizes(plain, usual, f"{plain} bytes, usually {usual}: {plain / usual:.2g} times as much", emptied=False)


def _plain(held: HeldSnapshot, data_type: str) -> int:
    return sum(artifact.plain_size_bytes for artifact in held.manifest.of(data_type))


def _noise(held: HeldSnapshot, data_type: str) -> int:
    ending = f".tar{layout.SEALED_SUFFIX}"
    return NOISE_BYTES[any(artifact.path.endswith(ending) for artifact in held.manifest.of(data_type))]


def _usual(good: Sequence[HeldSnapshot], data_type: str) -> int | None:
    """Return the median of the copies before the newest; what builds on a base is compared with its own kind."""
    differential = _is_differential(good[0], data_type)
    sizes = [_plain(held, data_type) for held in good[1:] if _is_differential(held, data_type) == differential]
    sizes = sizes[:HISTORY_COPIES]
    return int(statistics.median(sizes)) if len(sizes) >= HISTORY_MINIMUM else None


def _is_differential(held: HeldSnapshot, data_type: str) -> bool:
    return any(artifact.base is not None for artifact in held.manifest.of(data_type))


def _emptied(good: Sequence[HeldSnapshot], data_type: str) -> float | None:
    """
    Return what the copies before usually held, where the newest holds nothing by its evidence.

    Sizes do not tell: an archive of empty files is as big as one of small ones, and an empty database has a dump too.
    """
    held = [_content(one, data_type) for one in good[: HISTORY_COPIES + 1]]
    before = [content for content in held[1:] if content is not None]
    if held[0] != 0 or len(before) < HISTORY_MINIMUM:
        return None
    return statistics.median(before) or None


def _content(held: HeldSnapshot, data_type: str) -> int | None:
    counts = [contents.count(artifact) for artifact in held.manifest.of(data_type)]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
