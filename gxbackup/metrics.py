"""
The figures that Prometheus reads: a file for node_exporter's textfile collector, and a Pushgateway where one is named.

A file is replaced whole or not at all. The names are a published format: alerts and dashboards of others use them.
Source: strategy, "Backup success monitoring": `backup_last_success_timestamp`; design, "Proof and watch".
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

from prometheus_client import CollectorRegistry, Gauge, Metric, generate_latest, push_to_gateway
from prometheus_client.parser import text_string_to_metric_families

from gxbackup import layout
from gxbackup.errors import SetupError
from gxbackup.health import EXPIRING, GRACE, SIZE_ANOMALY, Condition, Finding
from gxbackup.model import Manifest
from gxbackup.watch import Surroundings

DEFAULT_DIR = Path("/var/lib/prometheus/node-exporter")
PUSH_TIMEOUT_SECONDS = 10
ROTTEN, VERIFIED = "backup_integrity_failures", "backup_verification_timestamp"
_PROMISE = ("server", "data_type")
_OF_PROOFS = ("backup_rehearsal_", "backup_rto_seconds")


class Unread(NamedTuple):
    """What this look could not read, and what was published of it before: that still stands."""

    published: Sequence[Metric] = ()
    promises: Collection[tuple[str, str]] = ()  # server, data type: its server's folder could not be listed
    proofs: Collection[tuple[str, str]] = ()  # listed, but nobody could tell what was rehearsed
    runbooks: Collection[str] = ()  # of checks that could not be made

    def figures(self, seen: Surroundings) -> Iterable[tuple[Metric, float, dict[str, str]]]:
        """Return the figures that stand: family, value, labels."""
        rooms = (("staging", seen.staging), ("remote", seen.remote))
        unseen = tuple(f"backup_{place}_" for place, room in rooms if room is None)
        for family in self.published:
            for sample in family.samples:
                named = {name: label for name, label in sample.labels.items() if name not in ("job", "instance")}
                promise = (named.get("server", ""), named.get("data_type", ""))
                if (
                    promise in self.promises
                    or (promise in self.proofs and family.name.startswith(_OF_PROOFS))
                    or named.get("runbook") in self.runbooks
                    or family.name.startswith(unseen)
                ):
                    yield family, sample.value, named


def of_health(
    conditions: Sequence[Condition],
    findings: Sequence[Finding],
    seen: Surroundings,
    now: datetime,
    unread: Unread | None = None,
) -> CollectorRegistry:
    """
    Return the figures of every promise, also of those that were never kept: a series that is absent never alerts.

    What could not be read now keeps its last figures: an alert on it goes on, and one that is due comes.
    """
    figures = _Figures()
    for one in conditions:
        _put_condition(figures, (one.server, one.data_type), one)
    figures.put("backup_health_timestamp", "When the health of all backups was looked at last.", now.timestamp())
    pages = sorted({finding.runbook for finding in findings})
    for page in pages or ["none"]:
        failing = sum(finding.level == "failing" and finding.runbook == page for finding in findings)
        figures.put("backup_failing_checks", "Checks that fail, by the runbook that mends them.", failing, runbook=page)
    for place, room in (("staging", seen.staging), ("remote", seen.remote)):
        if room is not None and room.free_bytes is not None:
            figures.put(f"backup_{place}_free_bytes", f"Room that is left ({place}).", room.free_bytes)
        if room is not None and room.total_bytes is not None:
            figures.put(f"backup_{place}_total_bytes", f"Room that there is ({place}).", room.total_bytes)
    for cronjob in seen.cronjobs:
        at = cronjob.last_success.timestamp() if cronjob.last_success else 0
        help_text = "When a CronJob of the cluster succeeded last; 0: never."
        names = {"namespace": cronjob.namespace, "cronjob": cronjob.name}
        figures.put("backup_cronjob_last_success_timestamp", help_text, at, **names)
    if seen.clock_offset_seconds is not None:
        help_text = "This host's clock minus the Prefect server's."
        figures.put("backup_clock_offset_seconds", help_text, seen.clock_offset_seconds)
    for family, value, named in unread.figures(seen) if unread else ():
        figures.put(family.name, family.documentation, value, **named)
    return figures.registry


def of_run(
    server: str, manifest: Manifest | None, *, succeeded: bool, dropped: int, freed_bytes: int, now: datetime
) -> CollectorRegistry:
    """Return the figures of one backup run that just ended; without a manifest it put no snapshot there."""
    figures = _Figures()
    seconds = (manifest.finished_at - manifest.started_at).total_seconds() if manifest else 0.0
    sent = manifest.artifacts if manifest else ()
    for name, help_text, value in (
        ("backup_run_end_timestamp", "When the last backup run of a server ended.", now.timestamp()),
        ("backup_run_success", "1: all that was due is complete and proven.", float(succeeded)),
        ("backup_run_duration_seconds", "How long the last backup run took.", seconds),
        ("backup_run_artifacts", "Artifacts that the last backup run put on the remote.", len(sent)),
        (
            "backup_run_sent_bytes",
            "Sealed bytes that the last backup run put on the remote.",
            sum(artifact.sealed_size_bytes for artifact in sent if artifact.held_in is None),
        ),
        ("backup_run_missing_data_types", "Data types that it did not get.", len(manifest.missing) if manifest else -1),
        ("backup_run_pruned_copies", "Copies that its prune dropped.", dropped),
        ("backup_run_pruned_bytes", "Bytes that its prune freed on the remote.", freed_bytes),
    ):
        figures.put(name, help_text, value, server=server)
    return figures.registry


def of_verification(
    flow: str, failures: int, now: datetime, unread: Sequence[Metric] | None = None
) -> CollectorRegistry:
    """
    Return the figures of a look at the remote's bytes.

    Where part of it could not be made, `unread` is what was published before: it still stands, but for more failures.
    """
    before = {sample.name: sample.value for family in unread or () for sample in family.samples}
    ended = now.timestamp() if unread is None else before.get(VERIFIED)
    figures = _Figures()
    help_text = "Files on the remote that are not what was sent, or could not be opened."
    figures.put(ROTTEN, help_text, max(failures, before.get(ROTTEN, 0)), flow=flow)
    if ended is not None:
        figures.put(VERIFIED, "When that look ended.", ended, flow=flow)
    return figures.registry


def publish(registry: CollectorRegistry, name: str) -> Path | None:
    """
    Write figures where node_exporter reads them, and push them where GX_PUSHGATEWAY_URL says; return the file.

    GX_TEXTFILE_DIR names the folder; without it node_exporter's own, where that exists, or none.

    Raises: SetupError; a file that was there is as it was, or the new one whole.
    """
    folder = textfile_dir()
    file = None
    try:
        if folder is not None:
            file = _write(folder / f"gx-backup-{name}.prom", _with_units(generate_latest(registry)))
        if url := os.environ.get("GX_PUSHGATEWAY_URL"):
            push_to_gateway(url, job=f"gx-backup-{name}", registry=registry, timeout=PUSH_TIMEOUT_SECONDS)
    except OSError as error:
        raise SetupError(
            f"metrics {name}: cannot be published: {error}", "GX_TEXTFILE_DIR, GX_PUSHGATEWAY_URL"
        ) from None
    return file


def published(name: str) -> list[Metric]:
    """
    Return what was published last: what its file holds or, where none is written, the Pushgateway; nothing: none yet.

    Raises: SetupError where it cannot be read.
    """
    folder, url = textfile_dir(), os.environ.get("GX_PUSHGATEWAY_URL")
    text = ""
    try:
        if folder is not None:
            file = folder / f"gx-backup-{name}.prom"
            text = file.read_text() if file.exists() else ""
        elif url:
            address = url if "://" in url else f"http://{url}"
            with urlopen(f"{address}/metrics", timeout=PUSH_TIMEOUT_SECONDS) as answer:  # noqa: S310 - the operator's own
                text = answer.read().decode()
        families = list(text_string_to_metric_families(text))
    except (OSError, ValueError) as error:
        raise SetupError(f"metrics {name}: the last ones cannot be read: {error}", "GX_TEXTFILE_DIR") from None
    job = f"gx-backup-{name}"
    for family in families:  # a gateway also tells of others, and names the job of each
        family.samples = [sample for sample in family.samples if sample.labels.get("job", job) == job]
    return families


def _with_units(text: bytes) -> bytes:
    """Tell the unit of each figure whose name ends with it: the client library leaves that out of this format."""
    return re.sub(rb"^(# TYPE (\w+_(seconds|bytes)) )", rb"# UNIT \2 \3\n\1", text, flags=re.MULTILINE)


def textfile_dir() -> Path | None:
    """Return the folder of the textfile collector: GX_TEXTFILE_DIR, else node_exporter's where it exists."""
    named = os.environ.get("GX_TEXTFILE_DIR")
    if named:
        return Path(named)
    return DEFAULT_DIR if DEFAULT_DIR.is_dir() else None


def _put_condition(figures: _Figures, labels: tuple[str, str], one: Condition) -> None:
    named = dict(zip(_PROMISE, labels, strict=True))
    newest = layout.snapshot_time(one.newest).timestamp() if one.newest else 0.0
    age_seconds = one.age_hours * 3600 if one.age_hours is not None else float("inf")
    for name, help_text, value in (
        ("backup_last_success_timestamp", "When the newest good copy was made; 0: there is none.", newest),
        ("backup_age_seconds", "Age of the newest good copy when it was looked at.", age_seconds),
        ("backup_rpo_seconds", "At most this much may be lost.", one.rpo_hours * 3600),
        (
            "backup_overdue_after_seconds",
            "Age from which a copy is late.",
            one.rpo_hours * 3600 + GRACE.total_seconds(),
        ),
        ("backup_artifacts", "Artifacts of the newest good copy.", one.artifacts),
        ("backup_sealed_size_bytes", "Sealed size of the newest good copy.", one.size_bytes),
        ("backup_plain_size_bytes", "Plain size of the newest good copy.", one.plain_size_bytes),
        ("backup_duration_seconds", "How long the run that made it took.", one.run_seconds),
        ("backup_copies", "Good copies on the remote.", one.copies),
        ("backup_held_bytes", "Bytes that all its copies hold on the remote.", one.held_bytes),
        (
            "backup_expiring_certificates",
            "Certificates in the newest good copy that are about to end.",
            sum(finding.runbook == EXPIRING for finding in one.findings),
        ),
    ):
        figures.put(name, help_text, value, **named)
    odd = [finding.level for finding in one.findings if finding.runbook == SIZE_ANOMALY]
    if one.usual_size_bytes is not None:
        figures.put("backup_usual_size_bytes", "Median of its plain sizes before.", one.usual_size_bytes, **named)
    if one.usual_size_bytes is not None or odd:  # what is emptied is so whatever its sizes were
        anomaly = 2 if "failing" in odd else len(odd)
        figures.put("backup_size_anomaly", "1: half or double of its median; 2: emptied.", anomaly, **named)
    if one.restored_by is not None:
        at = one.proven.at.timestamp() if one.proven else 0.0
        help_text = "When it was last restored to scratch with equal evidence; 0: never."
        figures.put("backup_rehearsal_last_success_timestamp", help_text, at, **named)
        if one.unproven_since is not None:
            help_text = "From when its next rehearsal is due: the last that succeeded, else the first snapshot."
            since = one.unproven_since.timestamp()
            figures.put("backup_rehearsal_due_since_timestamp", help_text, since, **named)
        help_text = "Promised: back within this long."
        figures.put("backup_rto_promised_seconds", help_text, one.rto_hours * 3600, **named)
    if one.rehearsal is not None:
        succeeded = float(one.rehearsal.failure is None)
        figures.put("backup_rehearsal_success", "1: the newest rehearsal had equal evidence.", succeeded, **named)
    if one.proven is not None:
        help_text = "Download, unseal and restore, as the last rehearsal measured it."
        figures.put("backup_rto_seconds", help_text, one.proven.rto_seconds, **named)


class _Figures:
    """Gauges by name, each made when its first series comes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._gauges: dict[str, Gauge] = {}

    def put(self, name: str, help_text: str, value: float, **labels: str) -> None:
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, help_text, list(labels), registry=self.registry)
        gauge = self._gauges[name]
        (gauge.labels(**labels) if labels else gauge).set(value)


def _write(file: Path, content: bytes) -> Path:
    """Replace a file in one step; node_exporter runs as another user, and there is no secret in it."""
    fresh = file.with_suffix(f".{os.getpid()}.new")  # the collector reads *.prom alone
    try:
        with fresh.open("wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        fresh.chmod(0o644)
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)
    for left in file.parent.glob(f"{file.stem}.*.new"):  # by a writer that was killed: nobody else takes it away
        if not Path("/proc", left.name.split(".")[-2]).exists():
            left.unlink(missing_ok=True)
    return file
