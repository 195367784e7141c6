"""Figures for Prometheus, published where a run ends; a collector that is away never costs a backup."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from prefect.logging import get_run_logger
from prometheus_client import CollectorRegistry, Metric

from gxbackup import clock, metrics, watch
from gxbackup.errors import SetupError
from gxbackup.health import Condition, Finding
from gxbackup.metrics import Unread
from gxbackup.model import Manifest
from gxbackup.retention import Plan
from gxbackup.verifying import RUNBOOK
from gxbackup.watch import CRONJOB_OVERDUE, REMOTE_FULL_PAGE, Surroundings
from tasks import host

_ROTTEN = (RUNBOOK, "broken-chain")


def of_health(
    conditions: Sequence[Condition], proven: Collection[str], findings: Sequence[Finding], seen: Surroundings
) -> None:
    """Publish the figures of all promises; `proven` names the servers whose proofs could be read."""
    unread = _unread(conditions, proven, seen)
    _publish(metrics.of_health(conditions, findings, seen, clock.now(), unread), "health")


def _unread(conditions: Sequence[Condition], proven: Collection[str], seen: Surroundings) -> Unread:
    """Tell what this look could not read, with what was published of it before."""
    published = _published("health")
    inventory = host.inventory()
    read = {(one.server, one.data_type) for one in conditions}
    promised = {(name, data_type) for name, server in inventory.servers.items() for data_type in server.data_types}
    pages = (
        (REMOTE_FULL_PAGE, seen.remote is None),
        (CRONJOB_OVERDUE, len(seen.cronjobs) < len(inventory.watch.cronjobs)),
    )
    return Unread(
        published=published,
        promises=promised - read,
        proofs={one for one in read if one[0] not in proven},
        runbooks={page for page, unseen in pages if unseen},
    )


def of_verification(flow: str, findings: Sequence[Finding]) -> None:
    """
    Publish how many files a look at the remote's bytes found rotten, lost, or without a trusted manifest.

    A look that could not be made at all of it ends no alert: what was seen before still stands, and it is overdue then.
    """
    failures = sum(finding.runbook in _ROTTEN for finding in findings)
    unread = _published(flow) if any(finding.runbook == watch.RUNBOOK for finding in findings) else None
    _publish(metrics.of_verification(flow, failures, clock.now(), unread), flow)


def of_run(server: str, manifest: Manifest | None, plan: Plan | None, *, succeeded: bool) -> None:
    """Publish the figures of a backup run that ends now."""
    dropped, freed_bytes = (plan.dropped, plan.freed_bytes) if plan else (0, 0)
    registry = metrics.of_run(
        server, manifest, succeeded=succeeded, dropped=dropped, freed_bytes=freed_bytes, now=clock.now()
    )
    _publish(registry, f"run-{server}")


def _published(name: str) -> list[Metric]:
    try:
        return metrics.published(name)
    except SetupError as error:
        get_run_logger().warning("%s", error)
        return []


def _publish(registry: CollectorRegistry, name: str) -> None:
    try:
        metrics.publish(registry, name)
    except SetupError as error:
        get_run_logger().warning("%s", error)
