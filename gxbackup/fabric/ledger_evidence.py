"""
What the copied files of a ledger tell of it: channels, heights, tips; and whose ledgers are missed.

Reads the copy alone, never a node's own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from pydantic import JsonValue

from gxbackup.errors import IntegrityError
from gxbackup.fabric import blocks
from gxbackup.model import Artifact, Evidence

NOT_THERE = "expected as in the last good copy, seen on no node; gone on purpose? name it in source.retired"


def blocks_seen(chains: Path, label: str) -> tuple[Evidence, tuple[str, ...]]:
    """
    Return heights as the copied files tell them; a chain that does not hold is a shortfall, and is kept.

    `joined_by_snapshot` names the channels for whose sake nothing was left out; see `layout.is_left_out`.
    """
    evidence: Evidence = {}
    seen: dict[str, JsonValue] = {}
    tips: dict[str, JsonValue] = {}
    shortfalls = []
    for channel, folder in blocks.channels(chains).items():
        try:
            chain = blocks.read_chain(folder)
        except IntegrityError as error:
            shortfalls.append(f"{label}: channel {channel}: {error.message}")
            continue
        seen[channel], tips[channel] = chain.height, chain.last_header_sha256
        if chain.torn_bytes:
            evidence.setdefault("torn_bytes", chain.torn_bytes)
    if joined := blocks.joined_by_snapshot(chains):
        evidence["joined_by_snapshot"] = [*joined]
    if not seen and not shortfalls:
        shortfalls.append(f"{label}: expected channels in {chains.name}, seen none")
    return {**evidence, "heights": seen, "tips": tips}, tuple(shortfalls)


def missed(last_good: Sequence[Artifact], seen: Collection[str], retired: Collection[str]) -> list[JsonValue]:
    """Return the pods that the last good copy was taken of, and that neither run nor are retired now."""
    known = {str(artifact.settings["pod"]) for artifact in last_good if "pod" in artifact.settings}
    return [*sorted(known - set(seen) - set(retired))]
