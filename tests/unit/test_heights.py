"""The rule that CouchDB, peers and orderers of one set obey: real copies, and every way to break it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from gxbackup.errors import RestoreRefusedError
from gxbackup.fabric import blocks, heights
from gxbackup.fabric.heights import COUCHDB, ORDERER, PEER, Copy, Held
from gxbackup.model import Artifact, Part
from tests import fabric_network
from tests.fabric_network import CHANNEL


def golden_couchdb() -> Copy:
    databases = json.loads(gzip.decompress((fabric_network.GOLDEN / "couchdb-fabric.json.gz").read_bytes()))
    savepoint = next(doc for doc in databases[f"{CHANNEL}_"]["docs"] if doc["_id"] == "statedb_savepoint")
    return Copy(COUCHDB, "couchdb0", {CHANNEL: heights.savepoint_height(savepoint["BlockNum"])})


def test_a_real_state_database_newer_than_its_real_peer_is_refused_with_both_heights(tmp_path: Path) -> None:
    chains = fabric_network.unpack("peer0", tmp_path) / "ledgersData" / "chains" / "chains"
    peer = Copy(PEER, "peer0", blocks.heights(blocks.read_chains(chains)))

    with pytest.raises(RestoreRefusedError, match="couchdb0 is at height 77, peer peer0 only at 74"):
        heights.require_set([golden_couchdb(), peer])


@pytest.mark.parametrize(("couchdb", "peer", "orderer"), [(1, 1, 1), (1, 2, 3), (74, 74, 80)])
def test_a_set_in_its_order_is_taken(couchdb: int, peer: int, orderer: int) -> None:
    heights.require_set(
        [
            Copy(COUCHDB, "couchdb0", {CHANNEL: couchdb}),
            Copy(PEER, "peer0", {CHANNEL: peer}),
            Copy(ORDERER, "orderer0", {CHANNEL: orderer}),
        ]
    )


def test_a_peer_above_one_of_the_orderers_is_refused() -> None:
    copies = [
        Copy(PEER, "peer0", {CHANNEL: 77}),
        Copy(ORDERER, "orderer0", {CHANNEL: 77}),
        Copy(ORDERER, "orderer1", {CHANNEL: 74}),
    ]

    assert heights.faults(copies) == ["channel gxchannel: peer peer0 is at height 77, orderer orderer1 only at 74"]


def test_a_channel_created_between_the_copies_is_refused_only_where_the_later_role_lacks_it() -> None:
    with_new = {CHANNEL: 10, "channel2": 1}

    assert heights.faults([Copy(PEER, "peer0", {CHANNEL: 10}), Copy(ORDERER, "orderer0", with_new)]) == []
    assert heights.faults([Copy(PEER, "peer0", with_new), Copy(ORDERER, "orderer0", {CHANNEL: 10})]) == [
        "channel channel2: peer peer0 holds it at height 1, orderer orderer0 does not know it"
    ]


def test_without_a_peer_the_state_database_is_held_against_the_orderers() -> None:
    assert heights.faults([Copy(COUCHDB, "c", {CHANNEL: 5}), Copy(ORDERER, "o", {CHANNEL: 4})]) != []


def test_a_state_database_is_held_against_the_peers_that_use_it_and_without_a_copy_of_them_against_orderers() -> None:
    database = Copy(COUCHDB, "c", {CHANNEL: 5}, peers=("peer0-org1",))
    its, other = Copy(PEER, "peer0-org1-0", {CHANNEL: 4}), Copy(PEER, "peer0-org10-0", {CHANNEL: 3})
    orderer = Copy(ORDERER, "orderer0-0", {CHANNEL: 4})

    assert heights.faults([database, other]) == []
    assert heights.faults([database, its, other, orderer]) == [
        "channel gxchannel: couchdb c is at height 5, peer peer0-org1-0 only at 4"
    ]
    assert heights.faults([database, other, orderer]) == [
        "channel gxchannel: couchdb c is at height 5, orderer orderer0-0 only at 4"
    ]


def test_copies_are_read_from_the_manifests_of_all_three_and_from_no_other_data_type() -> None:
    def artifact(kind: str, name: str, **settings: str) -> Artifact:
        return Artifact(
            data_type=name, kind=kind, path="p", parts=(Part(path="p", size_bytes=1, sha256="0" * 64),),
            sealed_size_bytes=1, sealed_sha256="0" * 64, plain_size_bytes=1, plain_sha256="0" * 64, keep_days=1,
            settings={**settings}, evidence={} if kind == "directory" else {"heights": {CHANNEL: 74}},
        )  # fmt: skip

    artifacts = [
        artifact("couchdb", "couchdb-fabric"),
        artifact("ledger", "peer-ledger", role="peer", pod="peer0-org1-0"),
        artifact("ledger", "orderer-ledger", role="orderer", pod="orderer0-0"),
        artifact("directory", "website"),
    ]

    assert heights.copies_of(artifacts) == [
        Copy(COUCHDB, "couchdb-fabric", {CHANNEL: 74}),
        Copy(PEER, "peer0-org1-0", {CHANNEL: 74}),
        Copy(ORDERER, "orderer0-0", {CHANNEL: 74}),
    ]


def test_orderers_at_different_heights_are_told_by_name() -> None:
    copies = [Copy(ORDERER, "orderer0", {CHANNEL: 74}), Copy(ORDERER, "orderer1", {CHANNEL: 77})]

    assert heights.uneven(copies) == ["channel gxchannel: orderer0 at 74, orderer1 at 77"]
    assert heights.uneven(copies[:1]) == []


def elsewhere(role: str, *told: int) -> list[Held]:
    """Return what vps4 holds of one node, newest first."""
    return [
        Held("vps4", f"{role}-ledger", f"2026090{9 - age}_050000", (Copy(role, f"{role}4", {CHANNEL: height}),))
        for age, height in enumerate(told)
    ]


def test_each_other_hosts_newest_copy_that_fits_is_named_and_a_database_is_none_of_them() -> None:
    kept = [Copy(ORDERER, "orderer3", {CHANNEL: 74})]
    held = [*elsewhere(ORDERER, 77, 74, 74), *elsewhere(PEER, 73, 70), *elsewhere(COUCHDB, 99)]

    assert heights.require_elsewhere(kept, held) == [
        "vps4 orderer-ledger: 20260908_050000 belongs together with this, and none that is newer",
        "vps4 peer-ledger: 20260909_050000 belongs together with this",
    ]
    assert heights.require_elsewhere(kept, []) == []


@pytest.mark.parametrize(
    ("role", "height", "held", "message"),
    [
        (
            ORDERER,
            74,
            elsewhere(ORDERER, 77, 75),
            "vps4 orderer-ledger 2026.*: orderer3 at 74, orderer4 at 77",
        ),
        (ORDERER, 74, elsewhere(PEER, 77, 75), "peer peer4 is at height 77, orderer orderer3 only at 74"),
        (PEER, 77, elsewhere(ORDERER, 76, 75), "peer peer3 is at height 77, orderer orderer4 only at 76"),
    ],
)
def test_a_host_whose_copies_all_break_the_rule_refuses_the_restore(
    role: str, height: int, held: list[Held], message: str
) -> None:
    with pytest.raises(RestoreRefusedError, match=message):
        heights.require_elsewhere([Copy(role, f"{role}3", {CHANNEL: height})], held)


def test_peers_are_held_against_orderers_above_them_and_not_against_other_peers() -> None:
    kept = [Copy(PEER, "peer3", {CHANNEL: 74})]

    assert heights.require_elsewhere(kept, [*elsewhere(ORDERER, 77), *elsewhere(PEER, 99)]) == [
        "vps4 orderer-ledger: 20260909_050000 belongs together with this"
    ]


def test_the_newest_copy_of_each_peer_that_uses_a_state_tells_whether_it_can_be_made_anew() -> None:
    def held(snapshot: str, pod: str, *joined: str) -> Held:
        return Held("vps3", "peer-ledger", snapshot, (Copy(PEER, pod, {CHANNEL: 9}, joined_by_snapshot=joined),))

    since_then_whole = [held("20261122_050000", "peer0-org1-0"), held("20261121_050000", "peer0-org1-0", CHANNEL)]
    of_others = [held("20261122_050000", "peer0-org2-0", CHANNEL), held("20261122_050000", "peer0-org1-0", "another")]

    for fine in (since_then_whole, of_others):
        heights.require_rebuildable([CHANNEL], ["peer0-org1"], fine, "couchdb-fabric")
    with pytest.raises(RestoreRefusedError, match=f"peer0-org2-0, which joined {CHANNEL} by a snapshot"):
        heights.require_rebuildable([CHANNEL], [], of_others, "couchdb-fabric")
