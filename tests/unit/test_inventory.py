"""The inventory: what is promised is read as written, and every fault is one line with its path in the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from gxbackup import inventory
from gxbackup.errors import InventoryError
from gxbackup.inventory import Inventory

PRODUCTION = Path(__file__).resolve().parents[2] / "deployments" / "inventory.yaml"
GOOD = """\
remote: {path: "gdrive-backup:gx-backups"}
hosts:
  vps1: {pool: vps1, signers: [AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=]}
  vps9: {pool: vps9, signers: [BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB=]}
servers:
  vps1:
    runs_on: vps1
    formerly_on: [vps9]
    remote_dir: vps1-website
    data_types:
      website:
        source: {kind: directory, root: /var/www}
        rpo_hours: 24
        keep_days: 30
      etc:
        source: {kind: directory, root: /, paths: [etc], restores: overlay}
        rpo_hours: 168
        keep_days: 90
"""


def read(tmp_path: Path, text: str) -> Inventory:
    file = tmp_path / "inventory.yaml"
    file.write_text(text)
    return inventory.load(file)


def fault(tmp_path: Path, text: str) -> str:
    with pytest.raises(InventoryError) as caught:
        read(tmp_path, text)
    assert "\n" not in caught.value.message
    assert caught.value.hints
    prefix = f"{tmp_path}/inventory.yaml:"
    assert caught.value.message.startswith(prefix)
    return caught.value.message.removeprefix(prefix).strip()


def test_the_production_inventory_promises_what_the_design_lists() -> None:
    promised = inventory.load(PRODUCTION).servers

    rows = {
        (server, name): (data_type.rpo_hours, data_type.keep_days, data_type.restore_flow)
        for server, settings in promised.items()
        for name, data_type in settings.data_types.items()
    }

    every_host = {
        (f"vps{number}", name): row
        for number in range(1, 6)
        for name, row in {
            "k3s-config": (24, 90, "restore-host-config"),
            "ssh-keys": (168, 90, "restore-host-config"),
            "system-config": (168, 90, "restore-host-config"),
        }.items()
    }
    every_cluster = {
        (server, "k8s-manifests"): (24, 90, "restore-k8s-manifests") for server in ("vps1", "vps2", "mainnet")
    }
    every_node = {
        (f"vps{number}", f"{role}-ledger"): (24, 30, f"restore-{role}-ledger")
        for number in (3, 4, 5)
        for role in ("peer", "orderer")
    }
    assert rows == {
        **every_host,
        **every_cluster,
        **every_node,
        ("mainnet", "postgres-mainnet"): (6, 7, "restore-mainnet-postgres"),
        ("mainnet", "redis-mainnet"): (6, 7, "restore-mainnet-redis"),
        ("mainnet", "couchdb-fabric"): (24, 30, "restore-couchdb"),
        ("mainnet", "postgres-ca"): (24, 90, "restore-ca-postgres"),
        ("mainnet", "fabric-crypto"): (24, 90, "restore-fabric-crypto"),
        ("mainnet", "chaincode-packages"): (168, 90, "restore-chaincode"),
        ("mainnet", "etcd-snapshots"): (24, 30, "restore-k3s-cluster"),
        ("vps2", "postgres-testnet"): (6, 3, "restore-testnet-postgres"),
        ("vps2", "redis-testnet"): (6, 3, "restore-testnet-redis"),
        ("vps2", "fabric-crypto"): (24, 90, "restore-fabric-crypto"),
        ("vps1", "website"): (24, 30, "restore-website"),
        ("vps1", "docker-state"): (24, 30, None),
        ("vps3", "docker-state"): (24, 30, None),
        ("vps3", "compose-config"): (24, 90, "restore-compose-config"),
    }
    assert {server: settings.remote_dir for server, settings in promised.items()} == {
        "mainnet": "mainnet",
        "vps1": "vps1-website",
        "vps2": "vps2-devtest",
        "vps3": "mainnet-vps3",
        "vps4": "mainnet-vps4",
        "vps5": "mainnet-vps5",
    }


def test_nothing_leaves_a_host_until_both_recipients_are_set() -> None:
    with pytest.raises(InventoryError, match=r"^recipients\.recovery: expected an age recipient .* seen none"):
        inventory.load(PRODUCTION).recipients.required()


def test_two_recipients_that_are_one_are_refused(tmp_path: Path) -> None:
    key = "age1" + "q" * 58
    held = read(tmp_path, GOOD + f"recipients: {{recovery: {key}, rehearsal: {key}}}\n")

    with pytest.raises(InventoryError, match="two different recipients"):
        held.recipients.required()


def test_gx_inventory_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.yaml").write_text(GOOD.replace("vps1-website", "elsewhere"))
    monkeypatch.setenv("GX_INVENTORY", str(tmp_path / "other.yaml"))

    assert inventory.load().server("vps1").remote_dir == "elsewhere"


def test_a_server_trusts_the_host_it_runs_on_and_those_it_ran_on_before(tmp_path: Path) -> None:
    signers = read(tmp_path, GOOD).signers_of("vps1")

    assert sorted(signers.values()) == ["vps1", "vps9"]


def test_an_unknown_server_or_data_type_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    held = read(tmp_path, GOOD)

    with pytest.raises(InventoryError, match="server 'vps7': not in the inventory\nHINT: servers: vps1"):
        held.server("vps7")
    with pytest.raises(InventoryError, match="'web': not protected on vps1\nHINT: data types of vps1: website, etc"):
        held.data_type("vps1", "web")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("        rpo_hours: 24\n", "", "servers.vps1.data_types.website.rpo_hours: Field required"),
        (
            "rpo_hours: 24", "rpo_hour: 24",
            "servers.vps1.data_types.website.rpo_hour: unknown key, and rpo_hours is missing there",
        ),
        ("keep_days: 30", "keep_day: 30", "servers.vps1.data_types.website.keep_day: unknown key, and keep_days is"),
        ("keep_days: 30", "keep_days: 30\n        keeps: 3", "servers.vps1.data_types.website.keeps: unknown key"),
        ("keep_days: 30", "keep_days: 0", "servers.vps1.data_types.website.keep_days: Input should be greater than 0"),
        ("keep_days: 30", "keep_days: 30\n        keep_days: 31", "line 15: 'keep_days' is given twice"),
        ("      etc:", "      website:", "line 15: 'website' is given twice"),
        ("kind: directory, root: /var", "kind: dirctory, root: /var", "servers.vps1.data_types.website.source: "),
        ("root: /var/www}", "root: var/www}", "servers.vps1.data_types.website.source.root: "),
        ("root: /var/www}", "root: /var/www, colour: 1}", "servers.vps1.data_types.website.source.colour: unknown key"),
        ("paths: [etc]", "paths: [../etc]", "servers.vps1.data_types.etc.source.paths[0]: "),
        ("runs_on: vps1", "runs_on: vps8", "servers.vps1: host 'vps8' is not under hosts (vps1, vps9)"),
        ("signers: [AAA", "signers: [short, AAA", "hosts.vps1.signers[0]: "),
        ("servers:", "servers: {", "line 7: not valid YAML: "),
        ("remote: {path:", "remote: {paht:", "remote.paht: unknown key, and path is missing there"),
    ],
)  # fmt: skip
def test_a_fault_is_one_line_with_its_path(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD

    assert fault(tmp_path, GOOD.replace(old, new, 1)).startswith(message)


def test_a_word_that_nobody_knows_is_told_before_what_is_missing_elsewhere(tmp_path: Path) -> None:
    text = GOOD.replace("        rpo_hours: 24\n", "", 1).replace("rpo_hours: 168", "rpo_hour: 168")

    told = fault(tmp_path, text)

    assert told == "servers.vps1.data_types.etc.rpo_hour: unknown key, and rpo_hours is missing there (and 1 more)"


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("vps1-website", "'vps1-website' belongs to servers.vps1"),
        ("vps1-website/inner", "'vps1-website/inner' lies in or around 'vps1-website'"),
    ],
)
def test_no_two_servers_share_a_folder_of_the_remote(tmp_path: Path, folder: str, message: str) -> None:
    block = GOOD[GOOD.index("  vps1:\n    runs_on") :]
    second = block.replace("  vps1:\n", "  vps2:\n", 1).replace("vps1-website", folder)

    assert message in fault(tmp_path, GOOD + second)


@pytest.mark.parametrize("text", ["", "- 1\n", "just words\n"])
def test_a_file_that_is_no_mapping_says_so(tmp_path: Path, text: str) -> None:
    assert "expected a mapping, seen" in fault(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match=r"nowhere\.yaml: cannot be read: .*No such file"):
        inventory.load(tmp_path / "nowhere.yaml")


def test_a_file_that_is_no_text_says_so(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(InventoryError, match="cannot be read"):
        inventory.load(tmp_path / "binary.yaml")
