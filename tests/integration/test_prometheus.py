"""What a real Prometheus is told by node_exporter and by a real Pushgateway, also where writing the figures is cut."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from estate import await_condition
from prometheus_client import delete_from_gateway

from gxbackup import clock, health, metrics
from gxbackup.errors import SetupError
from gxbackup.watch import Surroundings
from tests.prometheus_server import Watched, fetch, watched
from tests.unit.catalogs import SITE, Promised, Shelf, Taken, inventory

# A process that publishes figures which all say 2, and is killed at the moment that it is told.
KILLED = """
import os, resource, signal, sys
from prometheus_client import CollectorRegistry, Gauge
from gxbackup import metrics

moment = sys.argv[1]

def kill(event, arguments):
    if event == moment and any(str(word).endswith(".new") for word in arguments):
        os.kill(os.getpid(), signal.SIGKILL)

if moment == "half":
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the kernel kills whoever writes more
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sys.addaudithook(kill)
registry = CollectorRegistry()
gauge = Gauge("backup_probe_bytes", "Says which writer wrote it.", ["number"], registry=registry)
for number in range(1000):
    gauge.labels(number).set(2)
metrics.publish(registry, "probe")
print("written")
"""
PROBE = 'backup_probe_bytes{number="999"}'


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched(tmp_path_factory.mktemp("watched"), pushgateway=True) as made:
        yield made


@pytest.fixture(autouse=True)
def _clean(seen: Watched, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GX_TEXTFILE_DIR", str(seen.textfile))
    monkeypatch.delenv("GX_PUSHGATEWAY_URL", raising=False)
    yield
    for file in seen.textfile.iterdir():
        file.unlink()


def look(shelf: Shelf, seen_at: datetime | None = None) -> None:
    """Publish what check-backup-health publishes of this shelf."""
    now = seen_at or clock.now()
    conditions = health.conditions([shelf.catalog()], inventory(website=Promised()), {}, now)
    findings = [finding for one in conditions for finding in one.findings]
    metrics.publish(metrics.of_health(conditions, findings, Surroundings(), now), "health")


def fill(file: Path) -> None:
    """Write until the disk takes no more."""
    with file.open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(b"x" * 1024)


def probe(moment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", KILLED, moment], env=environment, capture_output=True, text=True)


def test_figures_that_nobody_wrote_for_hours_are_an_alert_of_their_own(seen: Watched) -> None:
    shelf = Shelf()
    shelf.back_up(clock.now() - timedelta(hours=5), [Taken(SITE)])

    look(shelf, seen_at=clock.now() - timedelta(hours=4))

    seen.await_firing("BackupHealthUnknown")
    look(shelf)
    seen.await_firing()


def test_a_pushgateway_carries_the_alert_and_its_end_where_no_file_is_written(
    seen: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GX_PUSHGATEWAY_URL", seen.pushgateway)
    monkeypatch.delenv("GX_TEXTFILE_DIR")
    monkeypatch.setattr(metrics, "DEFAULT_DIR", Path("/nowhere"))
    shelf = Shelf()
    for days in (42, 41, 40):
        shelf.back_up(clock.now() - timedelta(days=days), [Taken(SITE)])

    look(shelf)
    seen.await_firing("BackupJobFailed vps1 website")

    shelf.back_up(clock.now(), [Taken(SITE)])
    look(shelf)
    seen.await_firing()
    told = [line for line in fetch(f"{seen.pushgateway}/metrics").splitlines() if line.startswith("backup_copies")]
    delete_from_gateway(seen.pushgateway, job="gx-backup-health")
    assert told == ['backup_copies{data_type="website",instance="",job="gx-backup-health",server="vps1"} 4']


def test_figures_that_are_both_written_and_pushed_are_the_same_twice_and_fire_one_alert(
    seen: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def both() -> bool:
        """Tell whether Prometheus has all that is served, by both ways alike."""
        return len(seen.series("node")) == len(served()) and seen.series("node") == seen.series("gx-backup-health")

    def served() -> list[str]:
        return [line for line in fetch(f"{seen.pushgateway}/metrics").splitlines() if line.startswith("backup_")]

    monkeypatch.setenv("GX_PUSHGATEWAY_URL", seen.pushgateway)
    shelf = Shelf()
    for days in (43, 42, 41, 40):
        shelf.back_up(clock.now() - timedelta(days=days), [Taken(SITE)])
    try:
        look(shelf)
        await_condition("the first push", both, 60)
        seen.await_firing("BackupJobFailed vps1 website")
        first = served()

        fresh = Shelf()  # of one copy: what tells of its history is gone
        fresh.back_up(clock.now(), [Taken(SITE)])
        look(fresh)
        await_condition("the second push in its place", both, 60)
        seen.await_firing()
        assert 0 < len(served()) < len(first)
    finally:
        delete_from_gateway(seen.pushgateway, job="gx-backup-health")


def test_a_pushgateway_that_refuses_is_said_and_the_file_is_written_all_the_same(
    seen: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GX_PUSHGATEWAY_URL", f"{seen.pushgateway}/nothing/here")

    with pytest.raises(SetupError, match="metrics health: cannot be published: HTTP Error 404"):
        look(Shelf())

    assert seen.figures()['backup_copies{data_type="website",server="vps1"}'] == 0


def test_a_writer_killed_at_any_moment_leaves_the_old_file_or_the_new_one_and_it_is_served(seen: Watched) -> None:
    file = seen.textfile / "gx-backup-probe.prom"
    file.write_text("".join(f'backup_probe_bytes{{number="{number}"}} 1\n' for number in range(1000)))
    old = file.read_bytes()

    for moment in ("open", "half", "os.chmod", "os.rename"):
        done = probe(moment)

        assert done.returncode in (-signal.SIGKILL, -signal.SIGXFSZ), (moment, done.stderr)
        assert file.read_bytes() == old, moment
        served = seen.figures()
        assert (served[PROBE], served["node_textfile_scrape_error"]) == (1, 0), moment

    assert len([*seen.textfile.glob("*.new")]) > 0
    assert probe("never").stdout == "written\n"
    served = seen.figures()
    assert (served[PROBE], served["node_textfile_scrape_error"]) == (2, 0)
    assert [entry.name for entry in seen.textfile.iterdir()] == [file.name]


def test_a_disk_that_is_full_leaves_the_old_file_and_it_is_served(seen: Watched) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", seen.textfile], check=True)
    try:
        look(Shelf())
        old = (seen.textfile / "gx-backup-health.prom").read_bytes()
        fill(seen.textfile / "filler")

        with pytest.raises(SetupError, match="metrics health: cannot be published: .*No space left"):
            look(Shelf(), seen_at=clock.now() + timedelta(hours=1))

        assert (seen.textfile / "gx-backup-health.prom").read_bytes() == old
        assert seen.figures()['backup_copies{data_type="website",server="vps1"}'] == 0
        assert [*seen.textfile.glob("*.new")] == []
    finally:
        subprocess.run(["umount", seen.textfile], check=True)
