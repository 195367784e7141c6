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
    assert len(told) == 2


def test_where_all_have_copies_of_one_height_those_are_told_also_where_a_majority_has_newer_ones() -> None:
    even = [held("vps3", OLDER, o0=70), held("vps4", OLDER, o1=70), held("vps5", OLDER, o2=70)]

    (alone,) = orderer_sets.advice([held("vps3", NEWER, o0=80), *even])
    told = orderer_sets.advice([held("vps3", NEWER, o0=80), held("vps4", NEWER, o1=80), *even])

    assert alone.startswith("all 3 orderers have copies at gx 70: restore exactly these: o0: on vps3")
    assert "2 of 3 orderers" in told[0]
    assert told[2].startswith("or lose more and restore all 3, at gx 70: o0: on vps3, --snapshot 20260908_050000")


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

    with pytest.raises(RestoreRefusedError, match="no copies of other hosts belong together") as elsewhere:
        orderer_sets.require_elsewhere(kept, given)
    with pytest.raises(RestoreRefusedError, match="different heights must not be started together") as uneven:
        orderer_sets.require_even([*kept, Copy(ORDERER, "o1", {"gx": 79})], given)
    with pytest.raises(RestoreRefusedError) as peers:
        orderer_sets.require_elsewhere([Copy(PEER, "p0", {"gx": 99})], given)

    for refusal in (elsewhere, uneven):
        assert any("restore exactly these, with --unmatched: o1: on vps4" in hint for hint in refusal.value.hints)
        assert any(hint.startswith("do not start o0 from a copy") for hint in refusal.value.hints)
    assert not any("exactly these" in hint for hint in peers.value.hints)
    orderer_sets.require_even(kept, given)
