"""MSP and TLS material on claims, kept and put back without Kubernetes: real keys beside a ledger, and all faults."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

from gxbackup.errors import (
    CollectError,
    CommandError,
    IntegrityError,
    RestoreError,
    RestoreRefusedError,
    SourceMissingError,
)
from gxbackup.fabric import claim_restore, claims
from gxbackup.fabric.crypto import CryptoInventory
from gxbackup.sources.fabric_crypto import FabricCrypto
from tests.crypto_files import identity, make_msp, tree
from tests.local_cluster import VOLUME, LocalCluster
from tests.opened import Read, read, work

SOURCE = FabricCrypto(cas=("ca-org1",), folders=(VOLUME,), with_secrets=False, cainfo_port=0, claims=("*",))
PEER, ADMINS = "data-peer0-org1-0", "org1-admins"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalCluster:
    """Give a CA, a peer with ledger, MSP and TLS keys on one claim, and admins' MSPs on a claim that no pod mounts."""
    for module in (claims, claim_restore):
        monkeypatch.setattr(module, "CLAIM_FOLDER", VOLUME)
    volumes = {name: tmp_path / name for name in ("ca-org1-0", "peer0-org1-0", "couchdb-0")}
    for folder in volumes.values():
        folder.mkdir()
    (volumes["ca-org1-0"] / "fabric-ca-server-config.yaml").write_text("db: {type: sqlite3}\n")
    (volumes["ca-org1-0"] / "fabric-ca-server.db").write_bytes(b"who is enrolled")
    identity(volumes["ca-org1-0"] / "ca-cert.pem", volumes["ca-org1-0"] / "msp" / "keystore" / "a_sk", "ca-org1")
    peer = volumes["peer0-org1-0"]
    make_msp(peer / "fabric" / "msp", "peer0")
    identity(peer / "fabric" / "tls" / "server.crt", peer / "fabric" / "tls" / "server.key", "peer0 tls")
    (peer / "production" / "ledgersData").mkdir(parents=True)
    (peer / "production" / "ledgersData" / "blockfile_000000").write_bytes(b"a ledger")
    (volumes["couchdb-0"] / "shards").mkdir()
    made = LocalCluster(volumes)
    made.unmounted[ADMINS] = tmp_path / ADMINS
    make_msp(tmp_path / ADMINS / "Admin@org1", "admin of org1")
    return made


def captured(cluster: LocalCluster, into: Path, claim: str) -> Read:
    found = SOURCE.model_copy(update={"claims": (claim,)}).collect(cluster.host(), "fabric-crypto")[-1]
    return read(SOURCE, cluster.host(), found, into)


def cancelled(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def test_each_claim_with_keys_is_an_artifact_with_its_certificates_and_without_the_ledger(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    captures = SOURCE.collect(cluster.host(), "fabric-crypto")

    assert [one.name for one in captures] == ["ca-org1.tar", f"claim-{PEER}.tar", f"claim-{ADMINS}.tar"]
    peer, admins = (read(SOURCE, cluster.host(), one, tmp_path) for one in captures[1:])
    told = {one["path"]: (one["subject"], one["has_key"]) for one in peer.end.evidence["certificates"]}
    assert told == {
        "fabric/msp/signcerts/cert.pem": ("CN=peer0", True), "fabric/msp/cacerts/ca.pem": ("CN=peer0", True),
        "fabric/tls/server.crt": ("CN=peer0 tls", True),
    }  # fmt: skip
    assert all(one["serial"] and one["not_after"] for one in peer.end.evidence["certificates"])
    members = subprocess.run(["tar", "-tf", peer.file], check=True, capture_output=True, text=True).stdout
    assert "fabric/msp/config.yaml" in members
    assert "ledger" not in members
    members = subprocess.run(["tar", "-tf", admins.file], check=True, capture_output=True, text=True).stdout
    assert "./Admin@org1/config.yaml" in members
    assert (peer.end.shortfalls, admins.end.shortfalls) == ((), ())


def test_a_claim_that_no_pod_mounts_is_read_by_a_pod_that_may_only_read(cluster: LocalCluster, tmp_path: Path) -> None:
    captured(cluster, tmp_path, ADMINS)

    assert set(cluster.helpers) == {(ADMINS, True)}


def test_the_claim_of_a_pod_that_is_down_is_read_all_the_same(cluster: LocalCluster, tmp_path: Path) -> None:
    cluster.not_ready = {"peer0-org1-0"}

    assert captured(cluster, tmp_path, PEER).end.shortfalls == ()
    assert (PEER, True) in cluster.helpers


def test_a_claim_that_is_named_or_known_and_gone_fails_alone(cluster: LocalCluster, tmp_path: Path) -> None:
    source = SOURCE.model_copy(update={"claims": ("org2-admins", "*-admins", "data-couchdb-0")})
    known = captured(cluster, tmp_path, PEER).opened().artifact
    shutil.rmtree(cluster.volumes.pop("peer0-org1-0"))

    by_claim = {one.settings.get("crypto_claim"): one for one in source.collect_since(cluster.host(), "c", [known])}

    assert read(source, cluster.host(), by_claim[ADMINS], tmp_path).end.shortfalls == ()
    for claim, seen in (("org2-admins", "no such claim"), (PEER, "no such claim"), ("data-couchdb-0", "seen none")):
        with pytest.raises(SourceMissingError, match=seen):
            read(source, cluster.host(), by_claim[claim], tmp_path)
    retired = source.model_copy(update={"claims": ("*-admins",), "without_claims": (PEER,)})
    assert PEER not in {one.settings.get("crypto_claim") for one in retired.collect_since(cluster.host(), "c", [known])}


def test_a_claim_that_nobody_may_look_into_costs_the_cas_keys_nothing_and_is_told(
    cluster: LocalCluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.may_create_pods, cluster.not_ready = False, {"peer0-org1-0", "couchdb-0"}

    (ca,) = SOURCE.collect(cluster.host(), "fabric-crypto")

    kept = read(SOURCE, cluster.host(), ca, tmp_path)
    assert kept.end.shortfalls == ()
    told = kept.opened().artifact.evidence["claims_unread"]
    why = "pod fabric/gx-backup-1: expected to be allowed, seen 403 Forbidden"
    assert told == [f"claim fabric/{claim}: {why}" for claim in ("data-couchdb-0", PEER, ADMINS)]
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("WARNING", f"fabric-crypto: nobody could look into {one}") for one in told
    ]
    cluster.not_ready.add("ca-org1-0")
    with pytest.raises(SourceMissingError, match=f"nobody could look into claim .*data-couchdb-0: .*{ADMINS}"):
        SOURCE.model_copy(update={"cas": ()}).collect(cluster.host(), "fabric-crypto")


def test_a_claim_that_is_named_or_had_keys_and_cannot_be_looked_into_counts_as_missing(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    known = captured(cluster, tmp_path, PEER).opened().artifact
    cluster.may_create_pods, cluster.not_ready = False, {"peer0-org1-0", "couchdb-0"}

    source = SOURCE.model_copy(update={"claims": ("*", ADMINS)})
    ca, *of_claims = source.collect_since(cluster.host(), "fabric-crypto", [known])

    assert [one.settings["crypto_claim"] for one in of_claims] == [PEER, ADMINS]
    for one in of_claims:
        with pytest.raises(CollectError, match="expected to be allowed, seen 403"):
            read(source, cluster.host(), one, tmp_path)
    assert [one.split()[1] for one in ca.evidence["claims_unread"]] == ["fabric/data-couchdb-0:"]


def test_a_key_of_another_certificate_is_a_shortfall_and_is_not_put_back(cluster: LocalCluster, tmp_path: Path) -> None:
    identity(tmp_path / "x.crt", cluster.volumes["peer0-org1-0"] / "fabric" / "tls" / "server.key", "another")

    plain = captured(cluster, tmp_path, PEER)

    (shortfall,) = plain.end.shortfalls
    assert "fabric/tls/server.crt (CN=peer0 tls): expected the key that matches it, seen another" in shortfall
    with pytest.raises(RestoreRefusedError, match="seen another beside it"):
        SOURCE.apply(cluster.host(), work(tmp_path, plain))
    assert cluster.deleted == []


def test_what_changes_while_it_is_read_is_tried_again(cluster: LocalCluster, tmp_path: Path) -> None:
    peer = cluster.volumes["peer0-org1-0"]
    (peer / "fabric" / "msp" / "large.pem").write_bytes(bytes(64 * 1024**2))
    capture = SOURCE.model_copy(update={"claims": (PEER,)}).collect(cluster.host(), "c")[-1]
    buffer = memoryview(bytearray(1024**2))

    with SOURCE.open(cluster.host(), capture) as stream:
        stream.readinto(buffer)
        (peer / "fabric" / "tls" / "server.key").write_text("a new one")
        while stream.readinto(buffer):
            pass
        with pytest.raises(CommandError, match="changed while they were read") as raised:
            stream.finish()

    assert raised.value.retryable


def test_a_restore_brings_back_keys_and_certificates_and_touches_nothing_else(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    plain, peer = captured(cluster, tmp_path, PEER), cluster.volumes["peer0-org1-0"]
    kept = tree(peer)
    shutil.rmtree(peer / "fabric" / "tls")
    make_msp(peer / "fabric" / "msp", "made by mistake", age_days=20)
    (peer / "fabric" / "msp" / "keystore" / "stray_sk").write_text("stray")

    told = SOURCE.preview(cluster.host(), work(tmp_path, plain))
    done = SOURCE.apply(cluster.host(), work(tmp_path, plain))

    assert f"claim {PEER}: exchanged are fabric/msp, fabric/tls; what else it holds stays" in told
    assert tree(peer) == kept
    assert (peer / "fabric" / "msp" / "keystore").stat().st_mode & 0o777 == 0o755
    (before,) = peer.glob(".gxbackup-before-*")
    assert (before / "fabric" / "msp" / "keystore" / "stray_sk").read_text() == "stray"
    assert before.stat().st_mode & 0o777 == 0o700
    assert cluster.deleted == ["peer0-org1-0"]
    assert done[-1] == "pod peer0-org1-0: started anew"
    assert any("evidence equal" in line for line in SOURCE.rehearse(cluster.host(), work(tmp_path, plain)))


def test_a_pod_that_does_not_come_back_gets_its_old_keys_again(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim_restore, "READY_TIMEOUT_SECONDS", 0)
    plain, peer = captured(cluster, tmp_path, PEER), cluster.volumes["peer0-org1-0"]
    make_msp(peer / "fabric" / "msp", "what was there", age_days=20)
    before = tree(peer)
    cluster.never_ready_again = {"peer0-org1-0"}

    with pytest.raises(RestoreError, match="as it was, and its pods started again: .* expected 1 ready pods"):
        SOURCE.apply(cluster.host(), work(tmp_path, plain))

    assert tree(peer) == before
    assert list(peer.glob(".gxbackup-*")) == []
    assert cluster.deleted == ["peer0-org1-0", "peer0-org1-0"]


def test_a_key_that_was_not_put_back_is_found_and_all_is_as_it_was(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, peer = captured(cluster, tmp_path, PEER), cluster.volumes["peer0-org1-0"]
    make_msp(peer / "fabric" / "msp", "what was there", age_days=20)
    before = tree(peer)
    lost = "fabric/msp/keystore/one_sk"
    monkeypatch.setattr(claim_restore, "_EXCHANGE", f"{claim_restore._EXCHANGE} && mkdir copy && mv {lost} copy/a.key")

    with pytest.raises(IntegrityError, match=f"as it was: after the exchange it lacks {lost}$"):
        SOURCE.apply(cluster.host(), work(tmp_path, plain))

    shutil.rmtree(peer / "copy")
    assert tree(peer) == before
    assert cluster.deleted == []


def test_cancelled_before_the_pods_are_started_anew_it_names_them(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain, peer = captured(cluster, tmp_path, PEER), cluster.volumes["peer0-org1-0"]
    kept = tree(peer)
    make_msp(peer / "fabric" / "msp", "what was there", age_days=20)
    monkeypatch.setattr(cluster, "delete_pod", cancelled)

    with pytest.raises(KeyboardInterrupt) as raised:
        SOURCE.apply(cluster.host(), work(tmp_path, plain))

    (told,) = raised.value.__notes__
    assert told.endswith("start them anew by hand: peer0-org1-0")
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [("ERROR", told)]
    assert tree(peer) == kept


def test_cancelled_while_the_exchange_is_compared_all_is_as_it_was(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain, peer = captured(cluster, tmp_path, PEER), cluster.volumes["peer0-org1-0"]
    make_msp(peer / "fabric" / "msp", "what was there", age_days=20)
    before = tree(peer)
    monkeypatch.setattr(CryptoInventory, "lost_in", cancelled)

    with pytest.raises(KeyboardInterrupt):
        SOURCE.apply(cluster.host(), work(tmp_path, plain))

    assert tree(peer) == before
    assert list(peer.glob(".gxbackup-*")) == []
    assert (cluster.deleted, caplog.records) == ([], [])


def test_a_newer_certificate_is_overwritten_only_with_a_word_of_consent(cluster: LocalCluster, tmp_path: Path) -> None:
    plain, admins = captured(cluster, tmp_path, ADMINS), cluster.unmounted[ADMINS]
    make_msp(admins / "Admin@org1", "enrolled again", age_days=1)

    with pytest.raises(RestoreRefusedError, match=r"signcerts/cert.pem \(CN=enrolled again\): issued"):
        SOURCE.preview(cluster.host(), work(tmp_path, plain))
    SOURCE.apply(cluster.host(), work(tmp_path, plain, allow_older=True))

    assert captured(cluster, tmp_path, ADMINS).end.content_sha256 == plain.end.content_sha256


def test_a_newer_certificate_of_another_name_in_the_same_msp_needs_consent_too(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    signcerts = cluster.unmounted[ADMINS] / "Admin@org1" / "signcerts"
    (signcerts / "cert.pem").rename(signcerts / "admin-cert.pem")
    plain = captured(cluster, tmp_path, ADMINS)
    make_msp(signcerts.parent, "enrolled again", age_days=1)

    with pytest.raises(RestoreRefusedError, match=r"signcerts/cert.pem \(CN=enrolled again\): issued"):
        SOURCE.preview(cluster.host(), work(tmp_path, plain))


def test_a_claim_is_chosen_by_its_name_or_its_organisation(cluster: LocalCluster, tmp_path: Path) -> None:
    artifacts = [captured(cluster, tmp_path, claim).opened().artifact for claim in (PEER, ADMINS)]

    assert [one.settings["crypto_claim"] for one in SOURCE.select(artifacts, {"cas": [PEER]})] == [PEER]
    assert len(SOURCE.select(artifacts, {"cas": ["org1"]})) == 2
    assert SOURCE.target(work(tmp_path, captured(cluster, tmp_path, PEER))) == f"claim {PEER} of fabric"
