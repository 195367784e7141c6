"""One TLS connection read and written at once: every byte arrives, and neither direction waits."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gxbackup import clock
from gxbackup.adapters.tls import SharedTls

SIZE_BYTES = 64 * 1024**2


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = clock.now()
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return file


@contextmanager
def echoing(certificate: Path) -> Iterator[SharedTls]:
    """Give a connection to a server that sends back what it gets, until it is shut down."""
    ours, theirs = socket.socketpair()
    inside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    inside.load_cert_chain(certificate)

    def serve() -> None:
        with inside.wrap_socket(theirs, server_side=True) as tls:
            while piece := tls.recv(65536):
                tls.sendall(piece)

    server = threading.Thread(target=serve)
    server.start()
    outside = ssl.create_default_context(cafile=str(certificate))
    with outside.wrap_socket(ours, server_hostname="localhost") as tls:
        yield SharedTls(tls)
        tls.shutdown(socket.SHUT_RDWR)
    server.join(60)
    assert not server.is_alive()


def test_bulk_in_both_directions_at_once_arrives_whole(certificate: Path) -> None:
    content = os.urandom(SIZE_BYTES)
    seen = hashlib.sha256()
    with echoing(certificate) as shared:

        def send() -> None:
            rest = memoryview(content)
            while rest:
                rest = rest[shared.send(rest[:131072].tobytes()) :]

        sender = threading.Thread(target=send)
        sender.start()
        left = SIZE_BYTES
        while left:
            piece = shared.recv(65536)
            assert piece
            seen.update(piece)
            left -= len(piece)
        sender.join(60)

    assert seen.hexdigest() == hashlib.sha256(content).hexdigest()


def test_a_peer_that_says_nothing_ends_the_wait_and_not_the_other_direction(certificate: Path) -> None:
    with echoing(certificate) as shared:
        shared.settimeout(0.05)

        with pytest.raises(TimeoutError, match="timed out"):
            shared.recv(10)

        assert shared.gettimeout() == 0.05
        assert shared.send(b"still there") == 11
        shared.settimeout(60)
        assert shared.recv(100) == b"still there"
        assert shared.pending() == 0
