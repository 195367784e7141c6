"""An empty Kubernetes of one's own: a real etcd and API server on loopback, without nodes and controllers."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.kubeconfigs import write_kubeconfig

START_TIMEOUT_SECONDS = 90
# The test cluster's administrator: a test may turn this process to another kubeconfig.
ADMIN = os.environ.get("KUBECONFIG", "")


def programs() -> Path:
    """Return the folder of the test cluster's own programs: it lies beside the state that KUBECONFIG is part of."""
    return Path(ADMIN).resolve().parent.parent / "bin"


def kubectl(*words: str, kubeconfig: Path | str | None = None, stdin: str | None = None, check: bool = True) -> str:
    """Run kubectl and return what it printed; with `check`, a failure is an error with its words."""
    done = subprocess.run(
        [programs() / "kubectl", f"--kubeconfig={kubeconfig or ADMIN}", *words],
        input=stdin, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not check or done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
    return done.stdout if check else done.stdout + done.stderr


@contextmanager
def scratch_api_server(folder: Path) -> Iterator[Path]:
    """Start both, give the kubeconfig of an admin, and end both with the block."""
    etcd_port, peer_port, api_port = _free_ports(3)
    etcd_url, peer_url = f"http://127.0.0.1:{etcd_port}", f"http://127.0.0.1:{peer_port}"
    token = secrets.token_hex(16)
    (folder / "tokens").write_text(f'{token},admin,admin,"system:masters"\n')
    key = folder / "accounts.key"
    key.write_bytes(
        rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    with ExitStack() as stack:
        stack.enter_context(
            _running(
                folder / "etcd.log",
                ["etcd", "--name=scratch", f"--data-dir={folder / 'etcd'}", f"--listen-client-urls={etcd_url}",
                 f"--advertise-client-urls={etcd_url}", f"--listen-peer-urls={peer_url}",
                 f"--initial-advertise-peer-urls={peer_url}", f"--initial-cluster=scratch={peer_url}"],
            )
        )  # fmt: skip
        server = stack.enter_context(
            _running(
                folder / "apiserver.log",
                [str(programs() / "kube-apiserver"), "--bind-address=127.0.0.1", f"--secure-port={api_port}",
                 "--advertise-address=127.0.0.1", f"--etcd-servers={etcd_url}", f"--cert-dir={folder / 'certs'}",
                 f"--token-auth-file={folder / 'tokens'}", "--authorization-mode=RBAC",
                 # Nobody makes tokens here, for which a pod would wait.
                 "--disable-admission-plugins=ServiceAccount", "--allow-privileged=true",
                 "--service-cluster-ip-range=10.97.0.0/16", "--service-account-issuer=https://scratch",
                 f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}"],
            )
        )  # fmt: skip
        certificate = folder / "certs" / "apiserver.crt"
        kubeconfig = folder / "kubeconfig"
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while True:
            assert server.poll() is None, (folder / "apiserver.log").read_text()[-2000:]
            assert time.monotonic() < deadline, (folder / "apiserver.log").read_text()[-2000:]
            if certificate.exists() and certificate.stat().st_size:
                write_kubeconfig(kubeconfig, f"https://127.0.0.1:{api_port}", certificate.read_bytes(), token)
                if kubectl("get", "--raw", "/readyz", kubeconfig=kubeconfig, check=False) == "ok":
                    break
            time.sleep(0.1)
        yield kubeconfig


@contextmanager
def _running(log: Path, words: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(log.parent)}
    with log.open("wb") as opened:
        child = subprocess.Popen(words, stdout=opened, stderr=subprocess.STDOUT, env=environment, cwd=log.parent)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
