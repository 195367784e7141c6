"""What the copied files of a ledger tell of it: channels, heights, tips. Reads the copy alone, never a node's own."""

from __future__ import annotations

from pathlib import Path

from pydantic import JsonValue

from gxbackup.errors import IntegrityError
from gxbackup.fabric import blocks
from gxbackup.model import Evidence


def blocks_seen(chains: Path, label: str) -> tuple[Evidence, tuple[str, ...]]:
    """Return heights as the copied files tell them; a chain that does not hold is a shortfall, and is kept."""
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
    if not seen and not shortfalls:
        shortfalls.append(f"{label}: expected channels in {chains.name}, seen none")
    return {**evidence, "heights": seen, "tips": tips}, tuple(shortfalls)
