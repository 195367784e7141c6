"""CAs read and put back without Kubernetes: real certificates, a real SQLite database, and every way to break one."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import shutil
import sqlite3
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gxbackup import clock
from gxbackup.errors import CommandError, IntegrityError, RestoreError, RestoreRefusedError, SourceMissingError
from gxbackup.fabric import ca_restore
from gxbackup.sources.fabric_crypto import FabricCrypto
from tests.local_cluster import VOLUME, LocalCluster
from tests.opened import read, work

CAS = ("ca-root", "ca-org1")
SOURCE = FabricCrypto(cas=CAS, folders=(VOLUME,), with_secrets=False, cainfo_port=0)
CONFIG = "version: 1.5.5\nca: {name: ca}\ndb: {type: sqlite3, datasource: fabric-ca-server.db}\n"


def certificate(folder: Path, name: str, days: int = 3650) -> str:
    """Write a certificate and its key as a CA keeps them; return the fingerprint."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = clock.now()
    made = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(), now,
                                   now + timedelta(days=days)).sign(key, hashes.SHA256())  # fmt: skip
    (folder / "ca-cert.pem").write_bytes(made.public_bytes(Encoding.PEM))
    keystore = folder / "msp" / "keystore"
    keystore.mkdir(parents=True, exist_ok=True)
    for old in keystore.iterdir():
        old.unlink()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (keystore / f"{hashlib.sha256(pem).hexdigest()}_sk").write_bytes(pem)
    return made.fingerprint(hashes.SHA256()).hex()


def make_ca(volume: Path, name: str) -> str:
    home = volume / "fabric-ca-server"
    home.mkdir(parents=True)
    (home / "fabric-ca-server-config.yaml").write_text(CONFIG)
    with sqlite3.connect(home / "fabric-ca-server.db") as database:
        database.execute("CREATE TABLE users (id)")
        database.executemany("INSERT INTO users VALUES (?)", [(f"user{n}",) for n in range(20)])
    database.close()
    return certificate(home, name)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalCluster:
    monkeypatch.setattr(ca_restore, "CLAIM_FOLDER", VOLUME)
    volumes = {f"{ca}-0": tmp_path / ca for ca in CAS}
    for name, volume in volumes.items():
        make_ca(volume, name.removesuffix("-0"))
    return LocalCluster(volumes)


def home(cluster: LocalCluster, ca: str = "ca-root") -> Path:
    return cluster.volumes[f"{ca}-0"] / "fabric-ca-server"


def test_each_ca_is_its_own_artifact_with_its_certificates_as_evidence(cluster: LocalCluster, tmp_path: Path) -> None:
    captures = SOURCE.collect(cluster.host(), "fabric-crypto")

    assert [capture.name for capture in captures] == ["ca-root.tar", "ca-org1.tar"]
    evidence = read(SOURCE, cluster.host(), captures[0], tmp_path).end.evidence
    (told,) = evidence["certificates"]
    shown = subprocess.run(
        ["openssl", "x509", "-in", home(cluster) / "ca-cert.pem", "-noout", "-fingerprint", "-sha256", "-serial"],
        check=True, capture_output=True, text=True,
    ).stdout.replace(":", "").lower()  # fmt: skip
    assert told["path"] == "fabric-ca-server/ca-cert.pem"
    assert told["subject"] == "CN=ca-root"
    assert told["sha256"] in shown
    assert told["serial"] in shown
    assert told["has_key"] is True
    assert evidence["ca_sha256"] == [told["sha256"]]
    assert evidence["expires_soon"] == []
    assert evidence["databases"] == ["sqlite3"]
    assert "PRIVATE" not in json.dumps(evidence)


def test_a_ca_that_is_down_costs_only_itself(cluster: LocalCluster, tmp_path: Path) -> None:
    cluster.not_ready = {"ca-org1-0"}

    root, org1 = SOURCE.collect(cluster.host(), "fabric-crypto")

    assert read(SOURCE, cluster.host(), root, tmp_path).end.shortfalls == ()
    with pytest.raises(SourceMissingError, match="app=ca-org1"):
        read(SOURCE, cluster.host(), org1, tmp_path)


def test_where_no_ca_answers_there_is_nothing_to_collect(cluster: LocalCluster) -> None:
    cluster.not_ready = set(cluster.volumes)

    with pytest.raises(SourceMissingError, match="none of the CAs can be read"):
        SOURCE.collect(cluster.host(), "fabric-crypto")


def test_a_key_that_does_not_match_is_a_shortfall_and_the_files_are_kept(cluster: LocalCluster, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    certificate(other, "another")
    shutil.copy(other / "ca-cert.pem", home(cluster) / "ca-cert.pem")

    plain = read(SOURCE, cluster.host(), SOURCE.collect(cluster.host(), "c")[0], tmp_path)

    (shortfall,) = plain.end.shortfalls
    assert "ca-cert.pem (CN=another): expected the key that matches it, seen none among 1" in shortfall
    with pytest.raises(RestoreRefusedError, match="expected the key that matches it"):
        SOURCE.preview(cluster.host(), work(tmp_path, plain))


def test_a_certificate_that_ends_within_60_days_is_told_and_no_shortfall(cluster: LocalCluster, tmp_path: Path) -> None:
    certificate(home(cluster), "short-lived", days=59)

    end = read(SOURCE, cluster.host(), SOURCE.collect(cluster.host(), "c")[0], tmp_path).end

    (told,) = end.evidence["expires_soon"]
    assert told.startswith("fabric-ca-server/ca-cert.pem: CN=short-lived ends ")
    assert end.shortfalls == ()


def test_equal_content_is_told_as_equal_whatever_its_times(cluster: LocalCluster, tmp_path: Path) -> None:
    first = read(SOURCE, cluster.host(), SOURCE.collect(cluster.host(), "c")[0], tmp_path).end.content_sha256
    (home(cluster) / "ca-cert.pem").touch()
    again = read(SOURCE, cluster.host(), SOURCE.collect(cluster.host(), "c")[0], tmp_path).end.content_sha256
    with sqlite3.connect(home(cluster) / "fabric-ca-server.db") as database:
        database.execute("INSERT INTO users VALUES ('new')")
    database.close()

    assert first == again
    assert read(SOURCE, cluster.host(), SOURCE.collect(cluster.host(), "c")[0], tmp_path).end.content_sha256 != first


def test_a_database_that_is_written_while_it_is_read_is_tried_again(cluster: LocalCluster, tmp_path: Path) -> None:
    (home(cluster) / "large").write_bytes(bytes(64 * 1024**2))
    (capture, _) = SOURCE.collect(cluster.host(), "c")
    buffer = memoryview(bytearray(1024**2))

    with SOURCE.open(cluster.host(), capture) as stream:
        stream.readinto(buffer)
        with sqlite3.connect(home(cluster) / "fabric-ca-server.db") as database:
            database.execute("INSERT INTO users VALUES ('enrolled meanwhile')")
        database.close()
        while stream.readinto(buffer):
            pass
        with pytest.raises(CommandError, match="database changed while it was read") as raised:
            stream.finish()

    assert raised.value.retryable


def test_what_was_written_ahead_of_the_database_is_kept_with_it(cluster: LocalCluster, tmp_path: Path) -> None:
    database = sqlite3.connect(home(cluster) / "fabric-ca-server.db")
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("INSERT INTO users VALUES ('in the log alone')")
    database.commit()

    plain = read(SOURCE, cluster.host(), SOURCE.collect(cluster.host(), "c")[0], tmp_path)
    database.close()

    assert any("21 users" in line for line in SOURCE.rehearse(cluster.host(), work(tmp_path, plain)))


def test_a_restore_brings_keys_certificate_and_database_of_one_moment_and_keeps_what_was_there(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    plain = read(SOURCE, cluster.host(), SOURCE.collect(cluster.host(), "c")[0], tmp_path)
    kept = (home(cluster) / "ca-cert.pem").read_bytes()
    shutil.rmtree(home(cluster))
    make_ca(cluster.volumes["ca-root-0"], "made anew by mistake")

    (line,) = SOURCE.apply(cluster.host(), work(tmp_path, plain))

    assert (home(cluster) / "ca-cert.pem").read_bytes() == kept
    assert sqlite3.connect(home(cluster) / "fabric-ca-server.db").execute("SELECT count(*) FROM users").fetchone() == (
        20,
    )
    assert cluster.scaled == [("ca-root", 0), ("ca-root", 1)]
    (before,) = cluster.volumes["ca-root-0"].glob(".gxbackup-before-*")
    assert str(before.name) in line
    assert (before / "fabric-ca-server" / "ca-cert.pem").read_bytes() != kept
    again = read(SOURCE, cluster.host(), SOURCE.collect(cluster.host(), "c")[0], tmp_path)
    assert again.end.content_sha256 == plain.end.content_sha256


def test_a_ca_that_does_not_answer_with_the_kept_certificate_is_put_back(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ca_restore, "ANSWER_TIMEOUT_SECONDS", 10)
    source = SOURCE.model_copy(update={"cainfo_port": 7054})
    plain = read(source, cluster.host(), source.collect(cluster.host(), "c")[0], tmp_path)
    wrong = certificate(home(cluster), "what was there")

    with serving(home(cluster) / "ca-cert.pem") as url:
        cluster.urls["ca-root"] = url
        with pytest.raises(RestoreError, match="as it was, and started again: .*in its answer to /cainfo"):
            source.apply(cluster.host(), work(tmp_path, plain))

    assert hashlib.sha256(ssl.PEM_cert_to_DER_cert((home(cluster) / "ca-cert.pem").read_text())).hexdigest() == wrong
    assert cluster.scaled == [("ca-root", 0), ("ca-root", 1), ("ca-root", 0), ("ca-root", 1)]
    assert list(cluster.volumes["ca-root-0"].glob(".gxbackup-*")) == []


def test_a_changed_artifact_is_refused_before_the_ca_is_stopped(cluster: LocalCluster, tmp_path: Path) -> None:
    plain = read(SOURCE, cluster.host(), SOURCE.collect(cluster.host(), "c")[0], tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    certificate(other, "another")
    content = plain.file.read_bytes().replace(
        (home(cluster) / "ca-cert.pem").read_bytes()[:200], (other / "ca-cert.pem").read_bytes()[:200]
    )
    plain.file.write_bytes(content)

    with pytest.raises((IntegrityError, RestoreRefusedError)):
        SOURCE.apply(cluster.host(), work(tmp_path, plain))
    assert cluster.scaled == []


def test_an_organisation_chooses_its_own_ca(cluster: LocalCluster, tmp_path: Path) -> None:
    reads = [read(SOURCE, cluster.host(), one, tmp_path) for one in SOURCE.collect(cluster.host(), "c")]
    artifacts = [one.opened().artifact for one in reads]

    assert [a.settings["ca"] for a in SOURCE.select(artifacts, {"cas": ["org1"]})] == ["ca-org1"]
    assert [a.settings["ca"] for a in SOURCE.select(artifacts, {"cas": ["ca-root"]})] == ["ca-root"]
    assert len(SOURCE.select(artifacts, {})) == 2


def test_a_ca_is_asked_over_plain_http_too(cluster: LocalCluster) -> None:
    expected = hashlib.sha256(ssl.PEM_cert_to_DER_cert((home(cluster) / "ca-cert.pem").read_text())).hexdigest()

    with serving(home(cluster) / "ca-cert.pem", tls=False) as url:
        assert ca_restore.served_fingerprints(url, 10) == {expected}


@contextmanager
def serving(pem: Path, *, tls: bool = True) -> Iterator[str]:
    """Answer /cainfo as fabric-ca does, with the certificate as it was when this began."""
    body = json.dumps({"success": True, "result": {"CAChain": base64.b64encode(pem.read_bytes()).decode()}}).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem, next((pem.parent / "msp" / "keystore").iterdir()))
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda request, address: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
