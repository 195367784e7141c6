"""Hosts with a K3s server, as far as tests can have them: see `k3s_program.py` for what is real and what stands in."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from estate import await_condition, free_port

from gxbackup.adapters.containers import Containers
from gxbackup.adapters.host import Host
from gxbackup.model import Artifact, Capture, Part
from gxbackup.ports import StreamEnd
from gxbackup.sources.base import Opened, Work
from gxbackup.sources.etcd import Etcd

PROGRAM = Path(__file__).with_name("k3s_program.py")
NETWORK = Path(f"/proc/{os.getpid()}/ns/net")
PASSWORD = "never-to-be-seen-0123456789"
# What Kubernetes keeps in etcd, and what kubectl calls it.
SEEDED = {
    "configmaps": ["configmaps/default/a", "configmaps/default/b", "configmaps/kube-system/c"],
    "secrets": ["secrets/default/a", "secrets/default/b"],
    "deployments": ["deployments/default/web"],
    "services": ["services/specs/default/web"],
    "widgets.example.com": ["example.com/widgets/default/w1", "example.com/widgets/default/w2"],
}
COUNTS = {resource: len(paths) for resource, paths in SEEDED.items()}


class K3sHost:
    """One host: its folder, its K3s data, its programs in `bin`, which all run on one network."""

    def __init__(self, root: Path, name: str, joins: K3sHost | None = None, flags: str = "") -> None:
        self.root = root
        self.name = name
        self.data_dir = root / "k3s"
        self.config_dir = root / "etc"
        self.server = self.data_dir / "server"
        self.db = self.server / "db"
        self.client = f"http://127.0.0.1:{free_port()}"
        for folder in (root / "bin", self.config_dir, self.server / "tls", self.server / "cred"):
            folder.mkdir(parents=True)
        for program in ("k3s", "systemctl"):
            script = root / "bin" / program
            # Whoever calls it, its loopback is the one where this process finds its etcd.
            script.write_text(
                f'#!/bin/sh\nexec nsenter --net={NETWORK} {sys.executable} {PROGRAM} {root} {program} "$@"\n'
            )
            script.chmod(0o755)
        flags = f"--node-ip 10.0.0.{int(name[-1:], 36)} {flags}"
        # As the installer of K3s writes it.
        words = "".join(f"\t{shlex.quote(word)} \\\n" for word in shlex.split(flags))
        (root / "k3s.service").write_text(f"[Service]\nExecStart=/usr/local/bin/k3s \\\n    server \\\n{words}\n")
        told = {
            "name": name, "data_dir": str(self.data_dir), "client": self.client,
            "peer": f"http://127.0.0.1:{free_port()}", "joins": str(joins.root) if joins else "", "flags": flags,
        }  # fmt: skip
        (root / "host.json").write_text(json.dumps(told))
        (self.config_dir / "config.yaml").write_text(f"node-name: {name}\n")
        authority = (joins.server / "tls" / "server-ca.crt").read_bytes() if joins else new_authority()
        (self.server / "tls" / "server-ca.crt").write_bytes(authority)
        self.write_token(PASSWORD)
        (self.server / "node-token").symlink_to(self.server / "token")
        (self.server / "cred" / "encryption-config.json").write_text('{"kind": "EncryptionConfiguration"}')

    @property
    def path(self) -> str:
        """What PATH is on this host."""
        return f"{self.root / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def source(self, **settings: object) -> Etcd:
        """Return the inventory entry of its datastore."""
        return Etcd.model_validate({"data_dir": str(self.data_dir), "config_dir": str(self.config_dir), **settings})

    def write_token(self, password: str) -> None:
        """Make this the server token, in full form."""
        digest = sha256((self.server / "tls" / "server-ca.crt").read_bytes()).hexdigest()
        (self.server / "token").write_text(f"K10{digest}::server:{password}\n")
        (self.server / "token").chmod(0o600)

    def fault(self, what: str) -> None:
        """Let this go wrong from now on; nothing with an empty word."""
        (self.root / "fault").write_text(what)

    def run(self, *words: str) -> str:
        """Run one of its programs."""
        return subprocess.run(
            [self.root / "bin" / words[0], *words[1:]], check=True, capture_output=True, text=True
        ).stdout

    def start(self) -> None:
        """Start its K3s and wait until its node is there."""
        self.run("systemctl", "start", "--no-block", "k3s")
        await_condition(f"K3s of {self.name}", self.is_up, 60)

    def stop(self) -> None:
        """Stop it; what it started is gone."""
        with suppress(FileNotFoundError, ProcessLookupError):
            os.killpg(int((self.root / "service.pid").read_text()), signal.SIGKILL)

    def is_up(self) -> bool:
        """Tell whether its API answers and knows this node."""
        done = subprocess.run([self.root / "bin" / "k3s", "kubectl", "get", "nodes", "--all-namespaces",
                               "--no-headers"], capture_output=True, text=True)  # fmt: skip
        return self.name in done.stdout.split()

    def etcdctl(self, *words: str) -> str:
        """Ask its etcd."""
        return subprocess.run(
            ["etcdctl", "--endpoints", self.client, *words], check=True, capture_output=True, text=True,
            env={**os.environ, "ETCDCTL_API": "3"},
        ).stdout  # fmt: skip

    def seed(self) -> None:
        """Put objects into its etcd, some of them changed and removed again, and the bootstrap data that K3s seals."""
        seal = sha256(f"bootstrap {PASSWORD}".encode()).hexdigest()
        for key in ["configmaps/default/gone", *(path for paths in SEEDED.values() for path in paths)]:
            self.etcdctl("put", f"/registry/{key}", f"v1 {key}")
        self.etcdctl("put", "/registry/configmaps/default/a", "v2")
        self.etcdctl("del", "/registry/configmaps/default/gone")
        self.etcdctl("put", "/bootstrap/0123", seal)

    def seed_sqlite(self) -> None:
        """Make the database of a single server: kine's table, under a write-ahead log."""
        self.db.mkdir(mode=0o700)
        with closing(sqlite3.connect(self.db / "state.db")) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, created INTEGER, "
                             "deleted INTEGER, value BLOB)")  # fmt: skip
            rows = [(f"/registry/{path}", 1, 0) for paths in SEEDED.values() for path in paths]
            rows += [("/registry/configmaps/default/gone", 1, 0), ("/registry/configmaps/default/gone", 0, 1)]
            database.executemany("INSERT INTO kine (name, created, deleted) VALUES (?, ?, ?)", rows)
            database.commit()

    def snapshots(self) -> list[str]:
        """Return the names of the etcd snapshots that lie on it."""
        folder = self.db / "snapshots"
        return sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []

    def beside(self, name: str) -> list[Path]:
        """Return what was set aside of one of the server's files."""
        return sorted(self.server.glob(f"{name}.before-*"))


def new_authority() -> bytes:
    """Return a self-signed certificate such as K3s makes for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"k3s-server-ca@{time.time_ns()}")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(now + timedelta(days=3650))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    return certificate.public_bytes(Encoding.PEM)


def play(server: K3sHost, area: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be this host: its programs, and a staging directory below `area`."""
    monkeypatch.setenv("PATH", server.path)
    monkeypatch.setenv("GX_STAGING_DIR", str(area / "staging"))


def host() -> Host:
    """Return this host as sources see it."""
    return Host(Containers())


def read(source: Etcd, capture: Capture) -> tuple[bytes, StreamEnd]:
    """Read a capture to its end."""
    buffer = memoryview(bytearray(1024**2))
    plain = bytearray()
    with source.open(host(), capture) as stream:
        while count := stream.readinto(buffer):
            plain += buffer[:count]
        return bytes(plain), stream.finish()


def work(source: Etcd, area: Path) -> Work:
    """Capture everything, and give it as a restore gets it."""
    area.mkdir(parents=True, exist_ok=True)
    return Work(
        data_type="etcd-snapshots",
        opened=tuple(opened(source, capture, area) for capture in source.collect(host(), "etcd-snapshots")),
        area=area,
        safety_dir=area,
    )


def opened(source: Etcd, capture: Capture, area: Path) -> Opened:
    """Return a capture as a restore opens it."""
    plain, ending = read(source, capture)
    file = area / capture.name
    file.write_bytes(plain)
    digest = sha256(plain).hexdigest()
    artifact = Artifact(
        data_type=capture.data_type, kind="etcd", path=f"datastore/{capture.name}.zst.age",
        parts=(Part(path=f"datastore/{capture.name}.zst.age", size_bytes=1, sha256=digest),),
        sealed_size_bytes=1, sealed_sha256=digest, plain_size_bytes=len(plain), plain_sha256=digest, keep_days=30,
        settings=capture.settings, evidence={**capture.evidence, **ending.evidence},
    )  # fmt: skip
    return Opened(artifact=artifact, file=file)
