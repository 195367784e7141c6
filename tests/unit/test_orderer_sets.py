"""What an operator is told to do where the copies of orderers differ in height: exactly which, where, and the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from gxbackup.errors import RestoreRefusedError
from gxbackup.fabric import orderer_sets
from gxbackup.fabric.heights import ORDERER, PEER, Copy, Held
from gxbackup.sources.base import Work

NEWER, OLDER = "20260909_050000", "20260908_050000"


def held(server: str, snapshot: str, **heights: int) -> Held:
    copies = tuple(Copy(ORDERER, name, {"gx": height}) for name, height in heights.items())
    return Held(server, "orderer-ledger", snapshot, copies)


def work(here: list[Held], elsewhere: list[Held]) -> Work:
    return Work(data_type="orderer-ledger", opened=(), area=Path("/a"), safety_dir=Path("/s"), here=tuple(here),
                elsewhere=tuple(elsewhere))  # fmt: skip


def test_where_a_majority_has_copies_of_one_height_they_are_named_and_the_other_is_to_join_anew() -> None:
    told = orderer_sets.advice([
        held("vps3", NEWER, o0=80), held("vps4", NEWER, o1=79), held("vps5", NEWER, o2=78), held("vps3", OLDER, o0=79),
    ])  # fmt: skip

    assert told[0] == (
        "2 of 3 orderers, a majority if there are no others, have copies at gx 79: stop all orderers, restore exactly "
        f"these, with --unmatched: o0: on vps3, --snapshot {OLDER} --pods o0; o1: on vps4, --snapshot {NEWER} --pods o1"
    )
    assert told[1].startswith("do not start o2 from a copy; once the channel orders blocks again: take it out of the")
    assert told[2].startswith("a peer may stand above its newest copy: look at each")
    assert len(told) == 3


def test_where_all_have_copies_of_one_height_those_are_told_also_where_a_majority_has_newer_ones() -> None:
    even = [held("vps3", OLDER, o0=70), held("vps4", OLDER, o1=70), held("vps5", OLDER, o2=70)]

    alone = orderer_sets.advice([held("vps3", NEWER, o0=80), *even])
    told = orderer_sets.advice([held("vps3", NEWER, o0=80), held("vps4", NEWER, o1=80), *even])

    assert alone[0].startswith("all 3 orderers have copies at gx 70: restore exactly these: o0: on vps3")
    assert "2 of 3 orderers" in told[0]
    assert told[2].startswith("or lose more and restore all 3, at gx 70: o0: on vps3, --snapshot 20260908_050000")


def held_peers(server: str, snapshot: str, **heights: int) -> Held:
    copies = tuple(Copy(PEER, name, {"gx": height}) for name, height in heights.items())
    return Held(server, "peer-ledger", snapshot, copies)


def test_peers_above_what_is_restored_are_to_be_stopped_and_restored_to_at_most_that() -> None:
    peers = [held_peers("vps1", NEWER, p0=81, p1=79), held_peers("vps1", OLDER, p0=75, p1=75)]
    orderers = [held("vps3", NEWER, o0=80), held("vps4", NEWER, o1=79), held("vps3", OLDER, o0=79)]

    told = orderer_sets.advice([*orderers, *peers])

    assert told[0].startswith("all 2 orderers have copies at gx 79: restore exactly these: ")
    assert told[1] == (
        "peers are above gx 79, would meet other blocks there, and stop for good: stop these, and restore them to at "
        f"most gx 79, with --allow-older: p0 (gx 81): on vps1, --snapshot {OLDER} --pods p0"
    )
    assert told[2].endswith("none may start that is above gx 79")


def test_a_peer_that_lives_above_its_copies_is_named_and_so_is_one_without_a_copy_that_is_low_enough() -> None:
    peers = [held_peers("vps1", NEWER, p0=79), held_peers("vps2", NEWER, p1=80)]
    living = [Copy(PEER, "p0", {"gx": 90}), Copy(ORDERER, "o0", {"gx": 90})]

    told = orderer_sets.advice([held("vps3", NEWER, o0=79, o1=79), *peers], living)

    assert told[1].endswith(f"p0 (gx 90): on vps1, --snapshot {NEWER} --pods p0; p1 (gx 80): no copy is that low")


def test_peers_are_held_against_each_height_that_may_be_chosen_and_against_every_channel() -> None:
    even = [held("vps3", OLDER, o0=70), held("vps4", OLDER, o1=70), held("vps5", OLDER, o2=70)]
    since = Held("vps2", "peer-ledger", NEWER, (Copy(PEER, "p1", {"gx": 60, "new": 3}),))
    all_held = [held("vps3", NEWER, o0=80), held("vps4", NEWER, o1=80), since, held_peers("vps1", NEWER, p0=75), *even]

    _, _, majority, lose_more, whole, unseen = orderer_sets.advice(all_held)

    assert "at most gx 80, with --allow-older: p1 (new 3): no copy" in majority
    assert "p0" not in majority
    assert lose_more.startswith("or lose more")
    assert "at most gx 70, with --allow-older: p0 (gx 75): no copy is that low; p1 (new 3)" in whole
    assert unseen.endswith("above gx 70")


def test_where_no_majority_has_copies_of_one_height_nothing_is_to_be_started() -> None:
    told = orderer_sets.advice([
        held("vps3", NEWER, o0=80), held("vps4", NEWER, o1=79), held("vps5", NEWER, o2=78),
    ])  # fmt: skip

    assert told[0] == (
        "no height is held of 2 of the 3 orderers that there are copies of: start none of them from these copies, "
        "and put no orderer's copy onto another"
    )
    assert "a new ordering service" in told[1]


def test_two_of_four_are_no_majority_and_one_orderer_needs_no_advice() -> None:
    assert "no height is held of 3 of the 4" in orderer_sets.advice([
        held("vps3", NEWER, o0=80, o1=80), held("vps4", NEWER, o2=79), held("vps5", NEWER, o3=78),
    ])[0]  # fmt: skip
    assert orderer_sets.advice([held("vps3", NEWER, o0=80)]) == []


def test_every_refusal_of_orderers_carries_the_advice_and_that_of_peers_does_not() -> None:
    kept = [Copy(ORDERER, "o0", {"gx": 80})]
    given = work([held("vps3", NEWER, o0=80)], [held("vps4", NEWER, o1=79), held("vps5", NEWER, o2=79)])
    living = [Copy(PEER, "p9", {"gx": 82})]

    with pytest.raises(RestoreRefusedError, match="no copies of other hosts belong together") as elsewhere:
        orderer_sets.require_elsewhere(kept, given, living)
    with pytest.raises(RestoreRefusedError, match="different heights must not be started together") as uneven:
        orderer_sets.require_even([*kept, Copy(ORDERER, "o1", {"gx": 79})], given, living)
    with pytest.raises(RestoreRefusedError) as peers:
        orderer_sets.require_elsewhere([Copy(PEER, "p0", {"gx": 99})], given)

    for refusal in (elsewhere, uneven):
        assert any("restore exactly these, with --unmatched: o1: on vps4" in hint for hint in refusal.value.hints)
        assert any(
            "stop these, and restore them to at most gx 79" in hint and "p9" in hint for hint in refusal.value.hints
        )
        assert any(hint.startswith("do not start o0 from a copy") for hint in refusal.value.hints)
    assert not any("exactly these" in hint for hint in peers.value.hints)
    orderer_sets.require_even(kept, given)
