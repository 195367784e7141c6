"""
Which copies of CouchDB, peers and orderers belong together.

For every channel: height(CouchDB) <= height(peer) <= height(orderer). A state database ahead of its peer is one that
the peer cannot open; a peer ahead of its orderers meets other blocks under numbers that it holds, and stops for good.
Source: facts B8, B11, B12; Fabric's documents "Upgrading your components".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gxbackup.errors import RestoreRefusedError
from gxbackup.model import Artifact

Heights = Mapping[str, int]  # channel → height, which is the number of its next block
COUCHDB, PEER, ORDERER = "couchdb", "peer", "orderer"
_ORDER = (COUCHDB, PEER, ORDERER)


@dataclass(frozen=True)
class Copy:
    """One copy of a node's or a database's channels: `peer`, `peer0-org1`, its heights."""

    role: str
    name: str
    heights: Heights = field(default_factory=dict)
    peers: tuple[str, ...] = ()  # of a database: StatefulSets of the peers that use it; none named: all
    joined_by_snapshot: tuple[str, ...] = ()  # channels whose first blocks this peer never had


@dataclass(frozen=True)
class Held:
    """One data type in one good snapshot of a server: what its restore brings back."""

    server: str
    data_type: str
    snapshot: str
    copies: tuple[Copy, ...]


def savepoint_height(block_num: int) -> int:
    """Return the height that a state database's savepoint document stands for: its block is applied."""
    return block_num + 1


def copies_of(artifacts: Iterable[Artifact]) -> list[Copy]:
    """Return the copies that artifacts of any data types tell of: of CouchDB, peers and orderers; others are none."""
    found = []
    for artifact in artifacts:
        told = artifact.evidence.get("heights")
        role = artifact.settings.get("role") if artifact.kind == "ledger" else artifact.kind
        if isinstance(told, dict) and role in _ORDER:
            heights = {channel: int(str(height)) for channel, height in told.items()}
            joined = artifact.evidence.get("joined_by_snapshot")
            found.append(
                Copy(
                    role=str(role),
                    name=str(artifact.settings.get("pod", artifact.data_type)),
                    heights=heights,
                    joined_by_snapshot=tuple(map(str, joined)) if isinstance(joined, list) else (),
                )
            )
    return found


def require_rebuildable(channels: Collection[str], peers: Sequence[str], held: Iterable[Held], label: str) -> None:
    """
    Raise RestoreRefusedError where a peer that uses a state database joined one of its channels by a snapshot.

    It has no blocks from before that, so that it cannot make this state anew. `held` is newest first: of each peer its
    newest copy tells. Source: Fabric's documents "Taking ledger snapshots and using them to join channels".
    """
    database = Copy(role=COUCHDB, name=label, peers=tuple(peers))
    newest: dict[str, tuple[Copy, str]] = {}
    for one in held:
        for copy in one.copies:
            if copy.role == PEER and _uses(copy, database):
                newest.setdefault(copy.name, (copy, f"{one.server} {one.snapshot}"))
    for copy, told_by in newest.values():
        if joined := sorted({*copy.joined_by_snapshot} & {*channels}):
            raise RestoreRefusedError(
                f"{label}: expected peers that have all blocks of their channels, seen {copy.name}, which joined "
                f"{', '.join(joined)} by a snapshot (as {told_by} tells): it cannot make its state anew",
                "method=documents puts the captured state back; the peer then replays the blocks since",
            )


def faults(copies: Iterable[Copy]) -> list[str]:
    """
    Say, one line each, where a set breaks the rule; empty where it holds together.

    A role that the set lacks is not compared. A channel that a later role does not know was created in between.
    """
    known = list(copies)
    return [line for earlier in known for later in _above(earlier, known) for line in _between(earlier, later)]


def uneven(copies: Iterable[Copy]) -> list[str]:
    """
    Say, one line for each channel, where orderers of a set stand at different heights.

    Restored so, the shorter ones may lead, order other blocks under numbers that the longer one holds, and it stops
    minutes later (Fabric #3223).
    """
    orderers = [copy for copy in copies if copy.role == ORDERER]
    found = []
    for channel in sorted({channel for copy in orderers for channel in copy.heights}):
        told = {copy.name: copy.heights[channel] for copy in orderers if channel in copy.heights}
        if len(set(told.values())) > 1:
            found.append(f"channel {channel}: " + ", ".join(f"{name} at {height}" for name, height in told.items()))
    return found


def require_set(copies: Iterable[Copy]) -> None:
    """Raise RestoreRefusedError, with the heights in its message, unless the copies belong together."""
    if broken := faults(copies):
        raise RestoreRefusedError(
            f"this set does not belong together: {'; '.join(broken)}",
            "expected for every channel: height(CouchDB) <= height(peer) <= height(orderer)",
            "choose an older snapshot of what is too high, or leave CouchDB out: peers rebuild it from their blocks",
        )


def require_elsewhere(kept: Sequence[Copy], elsewhere: Iterable[Held]) -> list[str]:
    """
    Say, one line each, which copy of every other server belongs together with those kept: the newest that does.

    `elsewhere` is newest first. Orderers are held against orderers and peers; peers against orderers alone.
    Raises: RestoreRefusedError, with the heights in its message, where a server holds none.
    """
    related = (ORDERER, PEER) if any(copy.role == ORDERER for copy in kept) else (ORDERER,)
    by_name: dict[str, list[Held]] = {}
    for one in elsewhere:
        if all(copy.role in related for copy in one.copies):
            by_name.setdefault(f"{one.server} {one.data_type}", []).append(one)
    told, broken = [], []
    for name, held in by_name.items():
        fitting = next((one for one in held if not _apart(kept, one.copies)), None)
        if fitting is None:
            broken.append(f"{name} {held[0].snapshot}: {'; '.join(_apart(kept, held[0].copies))}")
        else:
            newest = "" if fitting is held[0] else ", and none that is newer"
            told.append(f"{name}: {fitting.snapshot} belongs together with this{newest}")
    if broken:
        raise RestoreRefusedError(
            f"no copies of other hosts belong together with this: {'; '.join(broken)}",
            "expected for every channel: height(peer) <= height(orderer), and one height for all orderers",
            "choose another snapshot here: check-backup-health names the newest set that belongs together",
            "where those nodes will not come back from their copies, say unmatched",
        )
    return told


def _apart(kept: Sequence[Copy], others: Sequence[Copy]) -> list[str]:
    uneven_too = any(copy.role == ORDERER for copy in kept)
    return faults([*kept, *others]) + (uneven([*kept, *others]) if uneven_too else [])


def _above(copy: Copy, known: Sequence[Copy]) -> list[Copy]:
    """Return what a copy must not be higher than: of a database the peers that use it, else the orderers."""
    if copy.role == ORDERER:
        return []
    peers = [one for one in known if copy.role == COUCHDB and one.role == PEER and _uses(one, copy)]
    return peers or [one for one in known if one.role == ORDERER]


def _uses(peer: Copy, database: Copy) -> bool:
    return not database.peers or peer.name.rpartition("-")[0] in database.peers  # a pod is its set's name and a number


def _between(earlier: Copy, later: Copy) -> list[str]:
    found = []
    for channel, height in sorted(earlier.heights.items()):
        limit = later.heights.get(channel)
        if limit is None:
            found.append(
                f"channel {channel}: {earlier.role} {earlier.name} holds it at height {height}, "
                f"{later.role} {later.name} does not know it"
            )
        elif height > limit:
            found.append(
                f"channel {channel}: {earlier.role} {earlier.name} is at height {height}, "
                f"{later.role} {later.name} only at {limit}"
            )
    return found
