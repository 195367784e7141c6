"""A K3s whose flags stand in its unit alone comes back with them, and its plan says so without a secret."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from gxbackup import k3s_recovery
from gxbackup.adapters import k3s
from tests.integration.k3s_hosts import PASSWORD, K3sHost, host, play, work

NEEDED = ["--node-ip", "10.0.0.3", "--node-label=note=two words", "--flannel-iface", "eth1"]
UNIT_FLAGS = f"--node-label='note=two words' --token {PASSWORD} --cluster-init --flannel-iface eth1 --server https://a"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[K3sHost]:
    monkeypatch.setattr(k3s, "SECONDS_BETWEEN_LOOKS", 0.1)
    monkeypatch.setattr(k3s_recovery, "START_TIMEOUT_SECONDS", 20)
    made = K3sHost(tmp_path / "vps3", "vps3", flags=UNIT_FLAGS)
    (made.root / "k3s.service.env").write_text(
        f"# secret\nK3S_TOKEN='{PASSWORD}'\nK3S_URL=https://a\n\nK3S_NODE_NAME='vps3'\nK3S_KUBECONFIG_MODE=6 4\n"
    )
    play(made, tmp_path, monkeypatch)
    try:
        made.start()
        made.seed()
        yield made
    finally:
        made.stop()


def test_the_reset_is_given_the_flags_and_variables_of_the_unit_and_the_server_is_a_member_of_its_own_cluster(
    server: K3sHost, tmp_path: Path
) -> None:
    given = work(server.source(), tmp_path / "captured")
    planned = next(line for line in server.source().preview(host(), given) if "--cluster-reset" in line)

    server.source().apply(host(), given)

    assert server.is_up()
    seen = json.loads((server.root / "reset.json").read_text())
    assert seen["words"][4:] == NEEDED
    assert seen["variables"] == {"K3S_NODE_NAME": "vps3", "K3S_KUBECONFIG_MODE": "6 4"}
    told = shlex.split(planned.removeprefix("this host: "))
    assert told[:4] == ["env", "K3S_NODE_NAME=vps3", "K3S_KUBECONFIG_MODE=6 4", "k3s"]
    assert told[-5:] == NEEDED
    assert PASSWORD not in planned


def test_a_node_that_is_named_in_the_unit_alone_is_waited_for_by_that_name(server: K3sHost) -> None:
    server.run("systemctl", "stop", "k3s")
    (server.db / "etcd" / "name").unlink()
    (server.config_dir / "config.yaml").unlink()

    assert server.source().k3s().node_name() == "vps3"
