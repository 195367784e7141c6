"""Copies of one Fabric network on several servers: what health says of them, from what their manifests tell."""

from __future__ import annotations

from datetime import timedelta

from gxbackup import health, layout
from gxbackup.health import Finding
from gxbackup.inventory import Inventory
from gxbackup.model import Artifact, Catalog, HeldSnapshot, Manifest, Part
from tests.unit.catalogs import day, named

CHANNEL = "gxchannel"
SOURCES = {
    "couchdb-fabric": {"kind": "couchdb", "namespace": "fabric", "service": "couchdb"},
    "peer-ledger": {"kind": "ledger", "role": "peer"},
    "orderer-ledger": {"kind": "ledger", "role": "orderer"},
}
LEDGERS = ("peer-ledger", "orderer-ledger")
SERVERS = {"mainnet": ("couchdb-fabric",), "vps3": LEDGERS, "vps4": LEDGERS, "vps5": LEDGERS}
MINUTE = 1 / 24 / 60


def inventory() -> Inventory:
    def server(name: str) -> dict[str, object]:
        promised = {one: {"source": SOURCES[one], "rpo_hours": 24, "keep_days": 30} for one in SERVERS[name]}
        host = "vps3" if name == "mainnet" else name
        return {"runs_on": host, "remote_dir": f"dir-{name}", "data_types": promised}

    return Inventory.model_validate(
        {
            "remote": {"path": "gdrive-backup:gx-backups"},
            "hosts": {name: {"pool": name} for name in SERVERS if name != "mainnet"},
            "servers": {name: server(name) for name in SERVERS},
        }
    )


class Network:
    """What four servers hold of one channel."""

    def __init__(self) -> None:
        self.held: dict[str, list[HeldSnapshot]] = {name: [] for name in SERVERS}

    def copy(self, server: str, data_type: str, number: float, height: int) -> None:
        """Hold a copy of one node's or the database's channel, made on that day."""
        source, when = SOURCES[data_type], day(number)
        settings = {"role": source["role"], "pod": f"{source['role']}-{server}-0"} if "role" in source else {}
        artifact = Artifact(
            data_type=data_type, kind=source["kind"], path="p", parts=(Part(path="p", size_bytes=1, sha256="0" * 64),),
            sealed_size_bytes=1, sealed_sha256="0" * 64, plain_size_bytes=1, plain_sha256="0" * 64, keep_days=30,
            settings={**settings}, evidence={"heights": {CHANNEL: height}},
        )  # fmt: skip
        manifest = Manifest(
            snapshot=layout.snapshot_id(when), server=server, host="vps3", started_at=when, finished_at=when,
            complete=True, artifacts=(artifact,),
        )  # fmt: skip
        one = HeldSnapshot(
            server=server, remote_dir=f"dir-{server}", manifest=manifest, manifest_sha256="0" * 64, files={"p": 1}
        )
        self.held[server].append(one)

    def daily(self, number: float, couchdb: int, peers: int, *orderers: int) -> None:
        """Hold a day's copies in the order of the schedules: the database, all peers, all orderers."""
        self.copy("mainnet", "couchdb-fabric", number, couchdb)
        for position, server in enumerate(("vps3", "vps4", "vps5")):
            self.copy(server, "peer-ledger", number + (60 + 10 * position) * MINUTE, peers)
        for position, (server, height) in enumerate(zip(("vps3", "vps4", "vps5"), orderers, strict=True)):
            self.copy(server, "orderer-ledger", number + (105 + 5 * position) * MINUTE, height)

    def look(self, number: float) -> list[Finding]:
        """Return what health finds on that day."""
        catalogs = [
            Catalog(server=name, remote_dir=f"dir-{name}", snapshots=tuple(held)) for name, held in self.held.items()
        ]
        return health.set_findings(catalogs, inventory(), day(number))


def test_copies_of_one_round_in_their_order_are_well() -> None:
    network = Network()
    network.daily(0, 70, 74, 74, 74, 74)

    assert network.look(0.5) == []
    assert Network().look(0.5) == []


def test_a_peer_of_one_host_above_an_orderer_of_another_is_failing_where_nothing_older_holds() -> None:
    network = Network()
    network.daily(0, 70, 77, 77, 77, 74)

    (finding,) = network.look(0.5)

    assert (finding.level, finding.subject, finding.runbook) == ("failing", "Fabric fabric", "fabric-set")
    assert "channel gxchannel: peer peer-vps3-0 is at height 77, orderer orderer-vps5-0 only at 74" in finding.message
    assert finding.message.endswith("no older set does")


def test_a_broken_day_is_a_warning_that_names_the_set_before_and_fails_with_the_promise() -> None:
    network = Network()
    network.daily(0, 70, 74, 74, 74, 74)
    network.daily(1, 76, 80, 80, 80, 79)
    whole = named(115 * MINUTE)

    (early,) = network.look(1.1)
    (late,) = network.look(1 + 1 / 24 * 4)

    assert early.level == "warning"
    assert f"the newest set that does is that of {whole}, 1 d" in early.message
    assert (late.level, whole in late.message) == ("failing", True)


def test_while_a_days_copies_are_being_made_yesterdays_set_counts_and_nothing_is_said() -> None:
    network = Network()
    network.daily(0, 70, 74, 74, 74, 74)
    network.copy("mainnet", "couchdb-fabric", 1, 90)
    network.copy("vps3", "peer-ledger", 1 + 60 * MINUTE, 95)

    assert network.look(1 + 61 * MINUTE) == []


def test_a_host_whose_orderers_are_copied_no_more_is_failing_once_the_last_set_is_late() -> None:
    network = Network()
    network.daily(0, 70, 74, 74, 74, 74)
    for number in (1, 2):
        network.copy("vps3", "peer-ledger", number, 80 + number)
        network.copy("vps3", "orderer-ledger", number + MINUTE, 80 + number)

    (finding,) = network.look(2.1)

    assert finding.level == "failing"
    assert "peer peer-vps3-0 is at height 82, orderer orderer-vps4-0 only at 74" in finding.message
    assert named(115 * MINUTE) in finding.message


def test_orderers_some_blocks_apart_are_a_warning_and_so_is_a_database_above_its_peers() -> None:
    uneven, database = Network(), Network()
    uneven.daily(0, 70, 74, 74, 75, 77)
    database.daily(0, 75, 74, 77, 77, 77)

    (apart,) = uneven.look(9)
    (above,) = database.look(9)

    assert (apart.level, above.level) == ("warning", "warning")
    assert "orderer-vps3-0 at 74, orderer-vps4-0 at 75, orderer-vps5-0 at 77" in apart.message
    assert "couchdb couchdb-fabric is at height 75, peer peer-vps3-0 only at 74" in above.message


def test_a_server_whose_catalog_could_not_be_read_costs_the_others_no_look() -> None:
    network = Network()
    network.daily(0, 70, 77, 74, 74, 74)
    seen = [Catalog(server="vps4", remote_dir="dir-vps4", snapshots=tuple(network.held["vps4"]))]

    (finding,) = health.set_findings(seen, inventory(), day(0) + timedelta(hours=12))

    assert "peer peer-vps4-0 is at height 77, orderer orderer-vps4-0 only at 74" in finding.message
    assert "vps3" not in finding.message
