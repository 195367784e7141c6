"""Fabric's Secrets in a real cluster, broken and put back."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gxbackup.adapters.cluster import Cluster
from gxbackup.adapters.containers import Containers
from gxbackup.adapters.host import Host
from gxbackup.errors import RestoreRefusedError
from gxbackup.sources.fabric_crypto import FabricCrypto
from tests.cluster.scratch_api import kubectl
from tests.crypto_files import identity
from tests.opened import read, work

pytestmark = pytest.mark.cluster
NAMESPACE = f"gxt-fabric-{os.getpid()}"


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """Give the host with a namespace of its own, which is gone after the module."""
    kubectl("create", "namespace", NAMESPACE)
    yield Host(Containers(), Cluster())
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def test_secrets_come_back_as_they_were_and_what_was_overwritten_is_kept(host: Host, tmp_path: Path) -> None:
    source = FabricCrypto(namespace=NAMESPACE, cas=())
    blob = os.urandom(64)
    for name in ("org1-admin-msp", "org2-admin-msp"):
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE},
                  "data": {"key_sk": base64.b64encode(blob).decode()}}  # fmt: skip
        kubectl("apply", "--filename=-", stdin=json.dumps(secret))
    (found,) = source.collect(host, "fabric-crypto")
    plain = read(source, host, found, tmp_path)
    kubectl("delete", "secret", "org1-admin-msp", f"--namespace={NAMESPACE}")
    kubectl("patch", "secret", "org2-admin-msp", f"--namespace={NAMESPACE}", '--patch={"stringData": {"key_sk": "x"}}')

    source.apply(host, work(tmp_path, plain, cas=["org1"]))
    assert host.cluster.secret(NAMESPACE, "org2-admin-msp") == {"key_sk": b"x"}
    (line,) = source.apply(host, work(tmp_path, plain))

    for name in ("org1-admin-msp", "org2-admin-msp"):
        assert host.cluster.secret(NAMESPACE, name) == {"key_sk": blob}
    assert blob not in plain.file.read_bytes()
    assert "1 put back" in line
    copies = [json.loads(one) for file in tmp_path.glob("secrets-before-*") for one in file.read_text().splitlines()]
    assert [one["metadata"]["name"] for one in copies] == ["org2-admin-msp"]


def test_a_certificate_that_was_renewed_since_is_overwritten_only_with_a_word_of_consent(
    host: Host, tmp_path: Path
) -> None:
    source = FabricCrypto(namespace=NAMESPACE, cas=())

    def put(age_days: int) -> bytes:
        identity(tmp_path / "tls.crt", tmp_path / "tls.key", "orderer0", age_days=age_days)
        files = {name: base64.b64encode((tmp_path / name).read_bytes()).decode() for name in ("tls.crt", "tls.key")}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "orderer0-tls", "namespace": NAMESPACE},
                  "data": files}  # fmt: skip
        kubectl("apply", "--filename=-", stdin=json.dumps(secret))
        return (tmp_path / "tls.crt").read_bytes()

    kept = put(age_days=30)
    plain = read(source, host, source.collect(host, "fabric-crypto")[0], tmp_path)
    renewed = put(age_days=1)

    with pytest.raises(RestoreRefusedError, match=r"orderer0-tls/tls.crt \(CN=orderer0\): issued"):
        source.apply(host, work(tmp_path, plain))
    assert host.cluster.secret(NAMESPACE, "orderer0-tls")["tls.crt"] == renewed
    source.apply(host, work(tmp_path, plain, allow_older=True))

    assert host.cluster.secret(NAMESPACE, "orderer0-tls")["tls.crt"] == kept
