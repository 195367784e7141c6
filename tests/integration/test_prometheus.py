"""A real Prometheus reads our figures as node_exporter serves them; the alert fires when backups stop, and clears."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from estate import PROJECT, await_condition, end, free_port

from gxbackup import clock, health, layout, metrics
from gxbackup.proofs import Proofs, Rehearsal
from gxbackup.watch import Surroundings
from tests.unit.catalogs import SERVER, SITE, Promised, Shelf, Taken, inventory


class Scraped:
    """A Prometheus with our rules, and a folder whose *.prom files it scrapes every second."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "textfile"
        self.folder.mkdir()
        self._root = root
        self._url = f"http://127.0.0.1:{free_port()}"

    def start(self) -> None:
        self._serve()
        rules = [self._fast(path) for path in sorted((PROJECT / "deployments" / "prometheus").glob("*.yaml"))]
        target = f"127.0.0.1:{self._exporter.server_port}"
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": rules,
            "scrape_configs": [{"job_name": "node", "static_configs": [{"targets": [target]}]}],
        }
        (self._root / "prometheus.yml").write_text(yaml.safe_dump(config))
        with (self._root / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus", f"--config.file={self._root}/prometheus.yml",
                    f"--storage.tsdb.path={self._root}/data",
                    f"--web.listen-address={self._url.removeprefix('http://')}",
                ],
                stdout=log, stderr=subprocess.STDOUT, process_group=0,
            )  # fmt: skip
        await_condition("Prometheus", self._answers, 60, died=lambda: self._process.poll() is not None)

    def stop(self) -> None:
        end(self._process)
        self._exporter.shutdown()
        self._exporter.server_close()
        self._thread.join()

    def ask(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}", timeout=10) as answer:
            return json.load(answer)["data"]

    def firing(self) -> list[str]:
        """Return every alert that fires as `NAME data_type`, also twice where it fires twice."""
        alerts = [one for one in self.ask("alerts")["alerts"] if one["state"] == "firing"]
        return sorted(f"{one['labels']['alertname']} {one['labels'].get('data_type', '')}".strip() for one in alerts)

    def await_firing(self, *expected: str) -> None:
        try:
            await_condition(str(expected), lambda: self.firing() == sorted(expected), 60)
        except TimeoutError:
            assert self.firing() == sorted(expected)

    def _answers(self) -> bool:
        try:
            return any(one["health"] == "up" for one in self.ask("targets")["activeTargets"])
        except OSError:
            return False

    def _fast(self, path: Path) -> str:
        """Copy rules, each `for` shortened to a second."""
        document = yaml.safe_load(path.read_text())
        for rule in (rule for group in document["groups"] for rule in group["rules"]):
            if "for" in rule:
                rule["for"] = "1s"
        copy = self._root / path.name
        copy.write_text(yaml.safe_dump(document))
        return str(copy)

    def _serve(self) -> None:
        folder = self.folder

        class Exporter(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = b"".join(file.read_bytes() for file in sorted(folder.glob("*.prom")))
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._exporter = ThreadingHTTPServer(("127.0.0.1", 0), Exporter)
        self._thread = Thread(target=self._exporter.serve_forever)
        self._thread.start()


@pytest.fixture
def scraped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scraped]:
    made = Scraped(tmp_path)
    monkeypatch.setenv("GX_TEXTFILE_DIR", str(made.folder))
    monkeypatch.delenv("GX_PUSHGATEWAY_URL", raising=False)
    made.start()
    yield made
    made.stop()


def look(shelf: Shelf, proofs: Proofs | None = None, seen_at: datetime | None = None) -> None:
    """Write what check-backup-health writes of this shelf."""
    wanted = inventory(website=Promised())
    now = seen_at or clock.now()
    conditions = health.conditions([shelf.catalog()], wanted, {SERVER: proofs} if proofs else {}, now)
    findings = [finding for one in conditions for finding in one.findings]
    metrics.publish(metrics.of_health(conditions, findings, Surroundings(), now), "health")


def test_alerts_fire_by_name_when_things_go_wrong_and_clear_when_they_are_mended(scraped: Scraped) -> None:
    now = clock.now()
    shelf = Shelf()

    scraped.await_firing("BackupMetricsMissing")

    look(shelf)
    scraped.await_firing("BackupNeverSucceeded website")

    for days in (45, 44, 43, 42, 41, 40):
        shelf.back_up(now - timedelta(days=days), [Taken(SITE, size_bytes=10_000_000)])
    look(shelf)
    scraped.await_firing("BackupJobFailed website")

    half = shelf.back_up(now - timedelta(hours=1), [Taken(SITE, size_bytes=5_000_000)])
    look(shelf)
    scraped.await_firing("BackupSizeAnomaly website")

    shelf.back_up(now, [Taken(SITE, size_bytes=10_000_000)])
    failed = Rehearsal(snapshot=half, at=now, rto_seconds=2, failure="expected 600000 rows, seen 599999")
    proofs = Proofs(server=SERVER).with_rehearsals({SITE: failed})
    look(shelf, proofs)
    scraped.await_firing("RestoreRehearsalFailed website")

    mended = Rehearsal(snapshot=layout.snapshot_id(now), at=now, rto_seconds=2)
    look(shelf, proofs.with_rehearsals({SITE: mended}))
    scraped.await_firing()


def test_figures_that_nobody_wrote_for_hours_are_an_alert_of_their_own(scraped: Scraped) -> None:
    shelf = Shelf()
    shelf.back_up(clock.now() - timedelta(hours=5), [Taken(SITE)])

    look(shelf, seen_at=clock.now() - timedelta(hours=4))

    scraped.await_firing("BackupHealthUnknown")
