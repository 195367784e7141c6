"""The whole chain on real parts: flows, the remote, node_exporter, Prometheus; each fault has its one alert."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from estate import PROJECT

from flows.backup_vps1 import backup_vps1
from flows.backup_vps2 import backup_vps2
from flows.check_backup_health import check_backup_health
from flows.prune_snapshots import prune_snapshots
from flows.rehearse_restores import rehearse_restores
from flows.verify_backups import verify_backups
from flows.verify_integrity import verify_integrity
from gxbackup import clock
from gxbackup.errors import UnprovenError
from tasks import host
from tests.flows.conftest import Place
from tests.integration.faulty_api_server import FaultyApiServer, faulty_api_server
from tests.kubeconfigs import turn_to
from tests.prometheus_server import Watched, watched
from tests.small_disks import leave_free, small_disk

DATA_TYPES = ("emptied", "halved", "kept")
CRONJOBS = ("backend-mainnet/postgres-backup", "backend-mainnet/redis-backup", "backend-testnet/redis-backup")
MIB = 1024**2
# A tar that unpacks all but one file, and says nothing.
LOSSY_TAR = """#!/bin/sh
{tar} "$@"
status=$?
for word; do
    [ "$before" != --directory ] || rm -f "$word/lost"
    before=$word
done
exit $status
"""


class Chain(Place):
    """Two servers: vps1, whose backups go on while something is wrong with them, and vps2, whose backups stop."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, seen: Watched) -> None:
        super().__init__(root, monkeypatch)
        self.seen = seen
        self.now = clock.now()
        # The Prefect server is away as far as backups are concerned: it does not live in the past with them.
        monkeypatch.setattr("tasks.survey.prefect_server_time", lambda: None)

    def make(self, *data_types: str) -> dict[str, Any]:
        """Make these folders; return what is promised of each."""
        production = yaml.safe_load((PROJECT / "deployments" / "inventory.yaml").read_text())
        website = production["servers"]["vps1"]["data_types"]["website"]
        for name in data_types:
            (self.root / name).mkdir(parents=True)
            (self.root / name / "data").write_bytes(os.urandom(2 * MIB))
        return {
            name: {**website, "source": {"kind": "directory", "root": str(self.root / name)}} for name in data_types
        }

    def make_two_servers(self) -> None:
        promised = self.make(*DATA_TYPES, "stopped")
        (self.root / "kept" / "lost").write_text("one of two")

        (self.root / "kept" / "tls").mkdir()
        self.renew_certificate(days=365)

        def edit(document: dict[str, Any]) -> None:
            promised["kept"]["source"]["certificates"] = ["tls/*.crt"]
            promised["stopped"] |= {"keep_days": 3, "keep_at_least": 1}
            servers = document["servers"]
            servers["vps2"] |= {"data_types": {"stopped": promised.pop("stopped")}, "prune_limit": 1}
            servers["vps1"]["data_types"] = promised
            document["servers"] = {name: servers[name] for name in ("vps1", "vps2")}

        self.create(edit)

    def make_one_server(self) -> None:
        promised = self.make("slow", "unproven")
        promised["slow"]["rto_hours"] = 1e-6

        def edit(document: dict[str, Any]) -> None:
            document["servers"] = {"vps1": {**document["servers"]["vps1"], "data_types": promised}}
            watched = [dict(zip(("namespace", "name"), one.split("/"), strict=True)) for one in CRONJOBS]
            document["watch"] = {"cronjobs": watched}

        self.create(edit)

    def promise(self, data_type: str, **promised: Any) -> None:
        """Change what the inventory promises of a data type of vps1."""
        document = yaml.safe_load(self.inventory_file.read_text())
        document["servers"]["vps1"]["data_types"][data_type].update(promised)
        self.inventory_file.write_text(yaml.safe_dump(document))
        self.play("vps1")

    def play(self, name: str, **extra: str) -> None:
        super().play(name, GX_TEXTFILE_DIR=str(self.seen.textfile), **extra)

    def renew_certificate(self, days: int) -> None:
        """Put a certificate where K3s would: one that it issues lives for a year."""
        file = self.root / "kept" / "tls" / "serving-kube-apiserver.crt"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-keyout", "/dev/null", "-out", file,
             "-subj", "/CN=kube-apiserver", "-days", str(days)],
            check=True, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def back_up(self, flow: Callable[[], str], days_ago: float) -> None:
        """Run a backup flow on its host as on that day."""
        self.play(flow.__name__.removeprefix("backup_"))
        self.on_that_day(flow, days_ago)
        self.play("vps1")

    def on_that_day(self, flow: Callable[[], Any], days_ago: float) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(clock, "now", lambda: self.now - timedelta(days=days_ago))
            flow()

    def back_up_now(self) -> None:
        backup_vps1()
        self.play("vps2")
        backup_vps2()
        self.play("vps1")

    def files_of(self, server: str) -> list[Path]:
        return sorted(path for path in (self.remote / server).rglob("*") if path.is_file())


def fails(flow: Callable[[], None], words: str) -> None:
    with pytest.raises(UnprovenError, match=words):
        flow()


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched(tmp_path_factory.mktemp("watched")) as made:
        yield made


@pytest.fixture
def chain(keys: Path, tmp_path: Path, seen: Watched, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chain]:
    made = Chain(tmp_path / "estate", monkeypatch, seen)
    shutil.copytree(keys, made.root / "keys")
    with small_disk(made.root / "disk", 256 * MIB) as disk:  # that of this machine may be full
        made.staging, made.remote = disk / "staging", disk / "remote"
        yield made
    for file in seen.textfile.iterdir():
        file.unlink()
    for cached in (host.inventory, host.remote, host.host):
        cached.cache_clear()


def test_each_fault_fires_its_one_alert_by_name_and_it_clears_when_mended(
    chain: Chain,
) -> None:
    chain.make_two_servers()
    chain.seen.await_firing("BackupMetricsMissing")

    fails(check_backup_health, "4 failing")
    chain.seen.await_firing(
        *(f"BackupNeverSucceeded vps1 {name}" for name in DATA_TYPES), "BackupNeverSucceeded vps2 stopped"
    )

    for days_ago in (3, 2, 1):
        chain.back_up(backup_vps1, days_ago)
    for days_ago in (41, 40):
        chain.back_up(backup_vps2, days_ago)
    (chain.root / "emptied" / "data").write_bytes(b"")
    (chain.root / "halved" / "data").write_bytes(os.urandom(MIB // 2))
    chain.renew_certificate(days=30)
    backup_vps1()
    stored = sorted(chain.remote.glob("vps1-website/*/files/kept/*.age"))[1]
    whole = stored.read_bytes()
    stored.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    stopped = chain.files_of("vps2-devtest")
    programs = chain.root / "bin"
    programs.mkdir()
    (programs / "tar").write_text(LOSSY_TAR.format(tar=shutil.which("tar")))
    (programs / "tar").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        fails(rehearse_restores, "1 failing, 1 to look at this week: vps1 kept")
    fails(verify_integrity, "1 failing: vps1 kept")
    fails(check_backup_health, "vps2 stopped")

    chain.seen.await_firing(
        "BackupJobFailed vps2 stopped",
        "BackupSizeAnomaly vps1 emptied",
        "BackupSizeAnomaly vps1 halved",
        "BackupCertificateExpiring vps1 kept",
        "BackupIntegrityFailed",
        "RestoreRehearsalFailed vps1 kept",
    )
    chain.play("vps2")
    prune_snapshots("vps2", dry_run=False)
    chain.play("vps1")
    assert chain.files_of("vps2-devtest") == stopped

    stored.write_bytes(whole)
    for name in ("emptied", "halved"):
        (chain.root / name / "data").write_bytes(os.urandom(2 * MIB))
    chain.renew_certificate(days=365)
    chain.back_up_now()
    rehearse_restores()
    verify_integrity()
    check_backup_health()
    chain.seen.await_firing()
    assert chain.seen.figures()["node_textfile_scrape_error"] == 0


class Cluster:
    """Three CronJobs as an API server lists them, all of which succeeded within the last six hours."""

    def __init__(self, server: FaultyApiServer) -> None:
        self.server = server
        self.path = "/apis/batch/v1/namespaces/{}/{}"
        for one in CRONJOBS:
            self.succeed(one, timedelta(hours=1))
            self.server.records[self.path.format(one.partition("/")[0], "jobs")] = []

    def succeed(self, one: str, ago: timedelta) -> None:
        """Let a CronJob's last success be so long ago."""
        namespace, name = one.split("/")
        listed = self.server.records.setdefault(self.path.format(namespace, "cronjobs"), [])
        listed[:] = [record for record in listed if record["metadata"]["name"] != name]
        made, succeeded = (clock.now() - before for before in (timedelta(days=40), ago))
        listed.append(
            {
                "metadata": {"name": name, "uid": one, "creationTimestamp": made.isoformat()},
                "spec": {"schedule": "0 */6 * * *"},
                "status": {"lastSuccessfulTime": succeeded.isoformat()},
            }
        )

    def refuse(self, namespace: str) -> None:
        """Answer the next question for a namespace's CronJobs as if the worker's rights were gone."""
        self.server.faults[self.path.format(namespace, "cronjobs")] = [403]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with faulty_api_server(tmp_path) as (server, kubeconfig):
        turn_to(kubeconfig, monkeypatch)
        yield Cluster(server)


@pytest.fixture
def small_remote(chain: Chain) -> Iterator[None]:
    with small_disk(chain.root / "remote", 64 * MIB) as chain.remote:
        yield


@pytest.mark.usefixtures("small_remote")
def test_what_is_wrong_around_the_backups_fires_its_alerts_once_each_and_they_clear_when_mended(
    chain: Chain, cluster: Cluster
) -> None:
    chain.make_one_server()
    chain.back_up(backup_vps1, 16)
    for look in (verify_backups, verify_integrity):
        chain.on_that_day(look, 15.5)
    backup_vps1()
    rehearse_restores(["slow"])
    cluster.succeed("backend-mainnet/postgres-backup", timedelta(hours=15))
    cluster.refuse("backend-testnet")
    ballast = [leave_free(chain.staging, 3 * MIB), leave_free(chain.remote, 6 * MIB)]

    fails(
        check_backup_health, "2 failing, 4 .*CronJob backend-mainnet/postgres-backup; CronJob backend-testnet/redis-b"
    )

    chain.seen.await_firing(
        "BackupCheckFailing",
        "BackupCronJobOverdue",
        "BackupRemoteAlmostFull",
        "BackupStagingAlmostFull",
        "BackupVerificationOverdue",
        "BackupVerificationOverdue",
        "RestoreRehearsalOverdue vps1 unproven",
        "RestoreTooSlow vps1 slow",
    )
    for file in ballast:
        file.unlink()
    cluster.succeed("backend-mainnet/postgres-backup", timedelta(hours=1))
    chain.promise("slow", rto_hours=4)
    rehearse_restores()
    verify_backups()
    verify_integrity()
    check_backup_health()
    chain.seen.await_firing()
