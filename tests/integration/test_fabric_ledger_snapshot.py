"""Peers that joined a channel by a snapshot, without Kubernetes: Fabric rebuilds nothing for them, so all is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from gxbackup import trees
from gxbackup.errors import RestoreError, RestoreRefusedError
from gxbackup.fabric import blocks
from gxbackup.fabric import layout as files
from gxbackup.fabric.ledger_folder import frozen_copy
from tests.fabric_network import CHANNEL, HEIGHT, BlockWriter, join_by_snapshot
from tests.integration.fabric_ledgers import PEER, SOURCES, age, capture, held
from tests.integration.test_fabric_ledger import unpacked
from tests.local_cluster import LocalCluster
from tests.opened import Read, work

DERIVED = files.DERIVED["peer"]


def derived_files(tree: Path) -> dict[str, bytes]:
    """Return what a peer would rebuild, by path."""
    return {
        str(path.relative_to(tree)): path.read_bytes()
        for folder in DERIVED
        for path in (tree / folder).rglob("*")
        if path.is_file()
    }


def there(peer: LocalCluster) -> dict[str, bytes]:
    return derived_files(peer.volumes[PEER])


def plan(peer: LocalCluster, area: Path, *levels: Read) -> str:
    return "\n".join(SOURCES["peer"].preview(peer.host(), work(area, *levels)))


def kept_without_what_it_needs(peer: LocalCluster, into: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Return a copy as it was made before anybody looked how a peer had joined."""
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "joined_by_snapshot", lambda chains: [])
        return capture(peer, into)


def test_of_a_peer_that_joined_by_a_snapshot_nothing_is_left_out_and_the_plan_says_so(
    peer: LocalCluster, tmp_path: Path
) -> None:
    join_by_snapshot(peer.volumes[PEER] / files.CHAINS["peer"] / CHANNEL)

    plain = capture(peer, tmp_path / "day 0")

    kept = derived_files(unpacked(tmp_path / "out", plain))
    assert plain.end.shortfalls == ()
    assert plain.end.evidence["joined_by_snapshot"] == [CHANNEL]
    assert {name for name in DERIVED if any(path.startswith(f"{name}/") for path in kept)} == set(DERIVED)
    assert kept == there(peer)
    assert f"rebuilds nothing: it joined {CHANNEL} by a snapshot" in plan(peer, tmp_path, plain)
    SOURCES["peer"].rehearse(peer.host(), work(tmp_path, plain))
    SOURCES["peer"].apply(peer.host(), work(tmp_path, plain))
    assert there(peer) == kept


def test_blocks_that_begin_above_the_first_tell_it_too(peer: LocalCluster, tmp_path: Path) -> None:
    writer = BlockWriter(peer.volumes[PEER] / files.CHAINS["peer"] / "channel2")
    writer.number = 50
    writer.append(3)

    plain = capture(peer, tmp_path / "day 0")

    assert plain.end.evidence["joined_by_snapshot"] == ["channel2"]
    assert plain.end.evidence["heights"] == {CHANNEL: HEIGHT, "channel2": 53}
    assert derived_files(unpacked(tmp_path / "out", plain)) == there(peer)


def test_a_peer_with_all_its_blocks_says_nothing_of_snapshots(peer: LocalCluster, tmp_path: Path) -> None:
    plain = capture(peer, tmp_path / "day 0")

    assert "joined_by_snapshot" not in plain.end.evidence
    assert f"rebuilds {', '.join(DERIVED)}" in plan(peer, tmp_path, plain)


def test_joined_since_the_full_copy_the_level_1_holds_all_that_the_full_one_lacks(
    peer: LocalCluster, tmp_path: Path
) -> None:
    age(peer.volumes[PEER])  # what it needs may be older than the full copy
    first = capture(peer, tmp_path / "day 0")
    join_by_snapshot(peer.volumes[PEER] / files.CHAINS["peer"] / CHANNEL)

    second = capture(peer, tmp_path / "day 1", held(first))
    third = capture(peer, tmp_path / "day 2", held(first))

    assert [one.capture.settings["level"] for one in (first, second, third)] == [0, 1, 1]
    for day, level in enumerate((second, third)):
        tree = unpacked(tmp_path / f"out {day}", first, level)
        assert derived_files(tree) == there(peer)
        trees.compare(level.end.evidence["tree"], trees.tally(tree))
    assert "rebuilds nothing" in plan(peer, tmp_path, first, third)
    SOURCES["peer"].rehearse(peer.host(), work(tmp_path, first, third))


def test_once_it_has_left_that_channel_what_it_rebuilds_is_left_out_again(peer: LocalCluster, tmp_path: Path) -> None:
    mark = join_by_snapshot(peer.volumes[PEER] / files.CHAINS["peer"] / CHANNEL)
    first = capture(peer, tmp_path / "day 0")
    mark.unlink()

    second = capture(peer, tmp_path / "day 1", held(first))

    assert "joined_by_snapshot" not in second.end.evidence
    tree = unpacked(tmp_path / "out", first, second)
    assert derived_files(tree) == {}
    trees.compare(second.end.evidence["tree"], trees.tally(tree))
    SOURCES["peer"].rehearse(peer.host(), work(tmp_path, first, second))


def test_joined_while_the_copy_waits_for_its_moment_all_is_kept(peer: LocalCluster) -> None:
    copy = frozen_copy(peer.volumes[PEER], "peer")
    copy.approach(anew=True)
    assert derived_files(copy.tree) == {}
    join_by_snapshot(peer.volumes[PEER] / files.CHAINS["peer"] / "channel2")  # no block of it came yet

    copy.settle()

    assert derived_files(copy.tree) == there(peer)


def test_a_copy_that_lacks_what_such_a_peer_cannot_rebuild_is_refused_and_never_exchanged(
    peer: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    join_by_snapshot(peer.volumes[PEER] / files.CHAINS["peer"] / CHANNEL)
    plain = kept_without_what_it_needs(peer, tmp_path / "day 0", monkeypatch)
    before = there(peer)

    why = f"{PEER}: joined {CHANNEL} by a snapshot: expected a copy with .*chains/index.*, seen one without"
    with pytest.raises(RestoreRefusedError, match=why):
        SOURCES["peer"].rehearse(peer.host(), work(tmp_path, plain))
    with pytest.raises(RestoreError, match=f"as it was, and started again: {why}"):
        SOURCES["peer"].apply(peer.host(), work(tmp_path, plain))

    assert there(peer) == before
    assert peer.scaled[-1] == ("peer0-org1", 1)


def test_a_full_copy_that_lacks_it_is_made_good_by_the_next_day(
    peer: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(peer.volumes[PEER])
    join_by_snapshot(peer.volumes[PEER] / files.CHAINS["peer"] / CHANNEL)
    first = kept_without_what_it_needs(peer, tmp_path / "day 0", monkeypatch)

    second = capture(peer, tmp_path / "day 1", held(first))

    assert second.capture.settings["level"] == 1
    SOURCES["peer"].apply(peer.host(), work(tmp_path, first, second))
    assert there(peer)
