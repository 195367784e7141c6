"""
A stand-in for the programs `k3s` and `systemctl` of one host: K3s cannot be installed where tests run.

It does the real work on a real etcd (or on kine's table), with the words, paths and refusals of K3s; its API knows what
etcd holds under /registry. ROOT/host.json tells who the host is, ROOT/fault what goes wrong next.
Started as: python k3s_program.py ROOT k3s|systemctl WORDS...
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(sys.argv[1])
HOST: dict[str, Any] = json.loads((ROOT / "host.json").read_text())
SERVER = Path(HOST["data_dir"]) / "server"
DB = SERVER / "db"
PID = ROOT / "service.pid"
CTL = ["etcdctl", "--endpoints", HOST["client"], "--command-timeout=3s"]
os.environ["ETCDCTL_API"] = "3"
PREFIXES = {"nodes": "minions", "services": "services/specs", "widgets.example.com": "example.com/widgets"}


def fail(words: str, status: int = 1) -> None:
    sys.stderr.write(f'level=fatal msg="{words}"\n')
    sys.exit(status)


def fault() -> str:
    file = ROOT / "fault"
    return file.read_text() if file.exists() else ""


def password(token: str) -> str:
    return token.strip().rpartition(":")[2]


def seal(token: str) -> str:
    return hashlib.sha256(f"bootstrap {password(token)}".encode()).hexdigest()


def running() -> bool:
    try:
        pid = int(PID.read_text())
        os.kill(pid, 0)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def ctl(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CTL, *words], capture_output=True, text=True, **options)


def option(words: list[str], name: str) -> str:
    for index, word in enumerate(words):
        if word == name:
            return words[index + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return ""


def etcd_snapshot(verb: str, words: list[str]) -> None:
    folder = Path(option(words, "--dir"))
    assert option(words, "--data-dir") == HOST["data_dir"]
    if not running() or not (DB / "etcd").is_dir():
        fail("etcd database not found" if DB.is_dir() else "connection refused")
    if verb == "save":
        folder.mkdir(mode=0o700, exist_ok=True)
        file = folder / f"{option(words, '--name')}-{HOST['name']}-{int(time.time())}"
        ctl("snapshot", "save", str(file), check=True)
        if fault() == "cut":
            os.truncate(file, file.stat().st_size - 100)
        if fault() == "flip":
            with file.open("r+b") as opened:
                opened.seek(file.stat().st_size // 2)
                byte = opened.read(1)
                opened.seek(-1, os.SEEK_CUR)
                opened.write(bytes([byte[0] ^ 1]))
    if verb == "delete":
        (folder / words[-1]).unlink()
    if verb == "ls":
        print("\n".join(file.name for file in folder.iterdir()))


def cluster_reset(words: list[str]) -> None:
    snapshot = Path(option(words, "--cluster-reset-restore-path"))
    token = Path(option(words, "--token-file")).read_text()
    if option(words, "--server") or "K3S_URL" in os.environ:
        fail("cannot perform cluster-reset while server URL is set - remove server from configuration before resetting")
    if running():
        fail("etcd: already running")
    if not snapshot.exists():
        fail(f"etcd: snapshot path does not exist: {snapshot}")
    if seal(token).encode() not in snapshot.read_bytes():
        fail("bootstrap data already found and encrypted with different token")
    restore = [
        "etcdctl",
        "snapshot",
        "restore",
        str(snapshot),
        "--data-dir",
        str(DB / "etcd"),
        "--name",
        HOST["name"],
        "--initial-cluster",
        f"{HOST['name']}={HOST['peer']}",
        "--initial-advertise-peer-urls",
        HOST["peer"],
    ]
    done = subprocess.run(restore, capture_output=True, text=True)
    if done.returncode != 0:
        fail(done.stderr)
    (DB / "etcd" / "name").write_text(f"{HOST['name']}-1a2b3c4d")
    (DB / "etcd" / "address").write_text(option(words, "--node-ip"))
    told = {name: value for name, value in os.environ.items() if name.startswith("K3S_")}
    (ROOT / "reset.json").write_text(json.dumps({"words": words, "variables": told}))
    if fault() == "reset-hangs":
        (ROOT / "resetting").touch()
        signal.pause()
    (DB / "reset-flag").touch()


def pairs(prefix: str) -> dict[str, str]:
    if (DB / "state.db").exists():
        with sqlite3.connect(DB / "state.db") as database:
            rows = database.execute(
                "SELECT name, value, deleted, max(id) FROM kine WHERE name LIKE ? GROUP BY name",
                (f"/registry/{prefix}/%",),
            ).fetchall()
        return {name: content or "" for name, content, deleted, _ in rows if not deleted}
    told = json.loads(ctl("get", f"/registry/{prefix}/", "--prefix", "-w", "json", check=True).stdout)
    return {
        base64.b64decode(one["key"]).decode(): base64.b64decode(one.get("value", "")).decode()
        for one in told.get("kvs", [])
    }


def value(key: str) -> str:
    if (DB / "state.db").exists():
        with sqlite3.connect(DB / "state.db") as database:
            sql = "SELECT value FROM kine WHERE name = ? ORDER BY id DESC LIMIT 1"
            return str(database.execute(sql, (key,)).fetchone()[0])
    return ctl("get", key, "--print-value-only", check=True).stdout


def put(key: str, content: str) -> None:
    if (DB / "state.db").exists():
        with sqlite3.connect(DB / "state.db") as database:
            database.execute("INSERT INTO kine (name, created, deleted, value) VALUES (?, 1, 0, ?)", (key, content))
    else:
        ctl("put", key, content, check=True)


def kubectl(words: list[str]) -> None:
    if not running() or (not (DB / "state.db").exists() and ctl("get", "x").returncode != 0):
        fail("The connection to the server 127.0.0.1:6443 was refused")
    if words[1] == "--raw=/api/v1/namespaces?limit=1":
        told = json.loads(ctl("get", "/registry/namespaces/", "--prefix", "--limit=1", "-w", "json", check=True).stdout)
        print(json.dumps({"metadata": {"resourceVersion": str(told["header"]["revision"] + (fault() == "behind"))}}))
    elif words[1] == "--raw=/readyz":
        print("ok")
    elif "--output=json" in words:
        items = [
            {
                "metadata": {"name": key.rpartition("/")[2]},
                "status": {
                    "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": value(key).strip()}]
                },
            }
            for key in pairs("minions")
        ]
        print(json.dumps({"items": items}))
    else:
        prefix = PREFIXES.get(words[1], words[1].partition(".")[0])
        for key, content in pairs(prefix).items():
            *namespace, name = key.removeprefix(f"/registry/{prefix}/").split("/")
            uid = json.loads(content)["metadata"]["uid"] if content.startswith("{") else "<none>"
            print(f"{'/'.join(namespace) or '<none>'}   {name}   {uid}")


def service() -> None:
    """Be the K3s server until it is stopped: join, or go on; then say that this node is alive."""
    etcd = None
    written, own = DB / "etcd" / "address", option(shlex.split(HOST["flags"]), "--node-ip")
    if written.exists() and written.read_text() != own:
        fail(f"this server is a not a member of the etcd cluster. Found [{written.read_text()}], expect: {own}")
    if not (DB / "state.db").exists():
        etcd = subprocess.Popen(
            [
                "etcd",
                "--name",
                HOST["name"],
                "--data-dir",
                DB / "etcd",
                *membership(),
                "--strict-reconfig-check=false",
                "--listen-client-urls",
                HOST["client"],
                "--advertise-client-urls",
                HOST["client"],
                "--listen-peer-urls",
                HOST["peer"],
            ]
        )
        while ctl("get", "x").returncode != 0:
            if etcd.poll() is not None:
                fail("etcd ended")
            time.sleep(0.05)
    (DB / "reset-flag").unlink(missing_ok=True)
    put(f"/registry/minions/{HOST['name']}", datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    if etcd is not None:
        etcd.wait()
    signal.pause()


def membership() -> list[str]:
    if (DB / "etcd" / "member").is_dir():
        return []
    DB.mkdir(parents=True, exist_ok=True)
    advertised = ["--initial-advertise-peer-urls", HOST["peer"]]
    cluster, state = f"{HOST['name']}={HOST['peer']}", "new"
    if HOST["joins"]:
        first = json.loads((Path(HOST["joins"]) / "host.json").read_text())
        theirs = (Path(first["data_dir"]) / "server" / "token").read_text()
        if password(theirs) != password((SERVER / "token").read_text()):
            fail("token CA hash does not match, or the token is not authorized")
        add = ["etcdctl", "--endpoints", first["client"], "member", "add", HOST["name"], "--peer-urls", HOST["peer"]]
        for _ in range(100):  # etcd takes no new member before the last one has settled
            told = subprocess.run(add, capture_output=True, text=True)
            if told.returncode == 0 or "already exists" in told.stderr:
                break
            time.sleep(0.2)
        lines = dict(line.split("=", 1) for line in told.stdout.splitlines() if line.startswith("ETCD_"))
        cluster, state = lines["ETCD_INITIAL_CLUSTER"].strip('"'), "existing"
    (DB / "etcd").mkdir(mode=0o700, exist_ok=True)
    (DB / "etcd" / "name").write_text(f"{HOST['name']}-1a2b3c4d")
    return ["--initial-cluster", cluster, "--initial-cluster-state", state, *advertised]


def systemctl(words: list[str]) -> None:
    match words:
        case ["is-active", "k3s"]:
            print("active" if running() else "inactive")
            sys.exit(0 if running() else 3)
        case ["show", *_]:
            print(f"ExecStart={{ path=/usr/local/bin/k3s ; argv[]=/usr/local/bin/k3s server {HOST['flags']} }}")
            print(f"EnvironmentFiles={ROOT / 'k3s.service.env'} (ignore_errors=yes)")
        case ["cat", "k3s"]:
            print(f"# {ROOT / 'k3s.service'}\n{(ROOT / 'k3s.service').read_text()}")
        case ["stop", "k3s"]:
            if running():
                os.killpg(int(PID.read_text()), signal.SIGKILL)
                while running():
                    time.sleep(0.02)
        case ["start", "--no-block", "k3s"]:
            if fault() == "start-hangs":
                PID.write_text(str(os.getpid()))
                (ROOT / "starting").touch()
                signal.pause()
            if not running():
                with (ROOT / "service.log").open("ab") as log:
                    argv = [sys.executable, __file__, str(ROOT), "service"]
                    child = subprocess.Popen(
                        argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                    )
                PID.write_text(str(child.pid))
        case _:
            fail(f"systemctl: unknown words {words}")


match sys.argv[2:]:
    case ["k3s", "etcd-snapshot", verb, *words]:
        etcd_snapshot(verb, words)
    case ["k3s", "server", "--cluster-reset", *words]:
        cluster_reset(words)
    case ["k3s", "kubectl", *words]:
        kubectl(words)
    case ["k3s", "--version"]:
        print("k3s version v1.31.4+k3s1 (a562d090)\ngo version go1.22.9")
    case ["systemctl", *words]:
        systemctl(words)
    case ["service"]:
        service()
    case words:
        fail(f"unknown words {words}")
