"""K3s' own certificates, where K3s puts them: the inventory's globs find those that are about to end, and no other."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from estate import PROJECT

from gxbackup import inventory as inventories
from gxbackup.adapters.containers import Containers
from gxbackup.adapters.host import Host
from gxbackup.sources.directory import Directory

K3S = "var/lib/rancher/k3s"
SOON, LATER, TEN_YEARS = 30, 300, 3650


def issue(file: Path, days: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-keyout", file.with_suffix(".key"), "-out", file,
         "-subj", f"/CN={file.stem}", "-days", str(days)],
        check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize("server", ["vps1", "vps2", "vps3", "vps4", "vps5"])
def test_every_host_tells_which_of_its_k3s_certificates_are_about_to_end(server: str, tmp_path: Path) -> None:
    source = inventories.load(PROJECT / "deployments/inventory.yaml").data_type(server, "k3s-config").source
    assert isinstance(source, Directory)
    (tmp_path / "etc/rancher/k3s").mkdir(parents=True)
    for path, days in {
        "server/tls/serving-kube-apiserver.crt": SOON,
        "server/tls/client-admin.crt": LATER,
        "server/tls/server-ca.crt": TEN_YEARS,
        "server/tls/etcd/server-client.crt": SOON,
        "agent/client-kubelet.crt": SOON,
        "agent/serving-kubelet.crt": LATER,
    }.items():
        issue(tmp_path / K3S / path, days)
    (tmp_path / K3S / "agent/damaged.crt").write_text("-----BEGIN CERTIFICATE-----\n")

    [capture] = source.model_copy(update={"root": str(tmp_path)}).collect(Host(Containers()), "k3s-config")

    told = capture.evidence["expires_soon"]
    assert isinstance(told, list)
    assert [str(line).partition(" ends ")[0] for line in told] == [
        f"{K3S}/agent/client-kubelet.crt: CN=client-kubelet",
        f"{K3S}/server/tls/etcd/server-client.crt: CN=server-client",
        f"{K3S}/server/tls/serving-kube-apiserver.crt: CN=serving-kube-apiserver",
    ]
