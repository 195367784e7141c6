"""What health says of a Fabric network whose copies are wrong in two ways at once, or whose peers use two databases."""

from __future__ import annotations

from gxbackup import health
from gxbackup.health import Finding
from gxbackup.inventory import Inventory
from gxbackup.model import Catalog
from tests.unit.catalogs import day
from tests.unit.test_fabric_sets import Network, inventory


def used_by(*peers: str) -> Inventory:
    """Return an inventory whose CouchDB names the StatefulSets that use it."""
    document = inventory().model_dump(mode="json")
    document["servers"]["mainnet"]["data_types"]["couchdb-fabric"]["source"]["peers"] = peers
    return Inventory.model_validate(document)


def look(network: Network, promised: Inventory) -> list[Finding]:
    catalogs = [
        Catalog(server=name, remote_dir=f"dir-{name}", snapshots=tuple(held)) for name, held in network.held.items()
    ]
    return health.set_findings(catalogs, promised, day(0.5))


def apart() -> Network:
    """Hold a database at 75, whose peer on vps3 is at 76 and whose orderers are even; peers of vps4 and vps5 at 74."""
    network = Network()
    network.copy("mainnet", "couchdb-fabric", 0, 75)
    for server, height in (("vps3", 76), ("vps4", 74), ("vps5", 74)):
        network.copy(server, "peer-ledger", 0.05, height)
        network.copy(server, "orderer-ledger", 0.1, 80)
    return network


def test_a_database_above_its_peers_and_orderers_some_blocks_apart_are_both_told() -> None:
    network = Network()
    network.daily(0, 75, 74, 77, 77, 78)

    above, uneven = network.look(9)

    assert (above.level, uneven.level) == ("warning", "warning")
    assert "couchdb couchdb-fabric is at height 75, peer peer-vps3-0 only at 74" in above.message
    assert "orderer-vps3-0 at 77, orderer-vps4-0 at 77, orderer-vps5-0 at 78" in uneven.message


def test_peers_above_orderers_are_told_alone_whatever_else_is_wrong() -> None:
    network = Network()
    network.daily(0, 99, 79, 77, 77, 78)

    (finding,) = network.look(9)

    assert finding.level == "failing"
    assert "couchdb" not in finding.message


def test_a_database_is_held_against_the_peers_that_the_inventory_names() -> None:
    assert look(apart(), used_by("peer-vps3")) == []

    (finding,) = look(apart(), used_by("peer-vps3", "peer-vps4"))

    assert "couchdb couchdb-fabric is at height 75, peer peer-vps4-0 only at 74" in finding.message
    assert "peer-vps5" not in finding.message


def test_a_database_that_names_no_peers_is_held_against_all_of_them() -> None:
    (finding,) = look(apart(), inventory())

    assert "peer peer-vps4-0 only at 74" in finding.message
    assert "peer peer-vps5-0 only at 74" in finding.message
