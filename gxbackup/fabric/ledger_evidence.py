"""
What the copied files of a ledger tell of it: channels, heights, tips; and which ledgers, or parts of one, are missed.

Reads the copy alone, never a node's own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from pydantic import JsonValue

from gxbackup.errors import IntegrityError
from gxbackup.fabric import blocks
from gxbackup.fabric import layout as files
from gxbackup.model import Artifact, Capture, Evidence

NOT_THERE = "expected as in the last good copy, seen on no node; gone on purpose? name it in source.retired"
WITHIN = "expected all of its ledger on one volume, which is what is read"
NO_RAFT_LOG = (
    f"expected Raft's log in {files.RAFT_LOGS}, seen none: it restores to no orderer that orders; "
    "is ORDERER_CONSENSUS_WALDIR another folder, or another volume mounted there?"
)


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


def unread(tree: Path, capture: Capture, label: str) -> tuple[str, ...]:
    """Say what a copy lacks of its ledger, and which ledgers are not read at all: green would hide it."""
    found = [f"{capture.data_type}: {name}: {NOT_THERE}" for name in _listed(capture.settings.get("missed"))]
    found += [f"{label}: {WITHIN}, seen {inner} within it" for inner in _listed(capture.settings.get("within"))]
    has_blocks = bool(blocks.channels(tree / files.CHAINS["orderer"]))
    if capture.settings["role"] == "orderer" and has_blocks and not any((tree / files.RAFT_LOGS).glob("*/*.wal")):
        found.append(f"{label}: {NO_RAFT_LOG}")
    return tuple(found)


def missed(last_good: Sequence[Artifact], seen: Collection[str], retired: Collection[str]) -> list[JsonValue]:
    """Return the pods that the last good copy was taken of, and that neither run nor are retired now."""
    known = {str(artifact.settings["pod"]) for artifact in last_good if "pod" in artifact.settings}
    return [*sorted(known - set(seen) - set(retired))]


def _listed(told: JsonValue) -> list[JsonValue]:
    return told if isinstance(told, list) else []
