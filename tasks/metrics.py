"""Figures for Prometheus, published where a run ends; a collector that is away never costs a backup."""

from __future__ import annotations

from collections.abc import Sequence

from prefect.logging import get_run_logger
from prometheus_client import CollectorRegistry

from gxbackup import clock, metrics
from gxbackup.errors import SetupError
from gxbackup.health import Condition, Finding
from gxbackup.model import Manifest
from gxbackup.retention import Plan
from gxbackup.verifying import RUNBOOK
from gxbackup.watch import Surroundings

_ROTTEN = (RUNBOOK, "broken-chain")


def of_health(conditions: Sequence[Condition], findings: Sequence[Finding], seen: Surroundings) -> None:
    """Publish the figures of all promises."""
    _publish(metrics.of_health(conditions, findings, seen, clock.now()), "health")


def of_verification(flow: str, findings: Sequence[Finding]) -> None:
    """Publish how many files a look at the remote's bytes found rotten, lost, or without a trusted manifest."""
    failures = sum(finding.runbook in _ROTTEN for finding in findings)
    _publish(metrics.of_verification(flow, failures, clock.now()), flow)


def of_run(server: str, manifest: Manifest | None, plan: Plan | None, *, succeeded: bool) -> None:
    """Publish the figures of a backup run that ends now."""
    dropped, freed_bytes = (plan.dropped, plan.freed_bytes) if plan else (0, 0)
    registry = metrics.of_run(
        server, manifest, succeeded=succeeded, dropped=dropped, freed_bytes=freed_bytes, now=clock.now()
    )
    _publish(registry, f"run-{server}")


def _publish(registry: CollectorRegistry, name: str) -> None:
    try:
        metrics.publish(registry, name)
    except SetupError as error:
        get_run_logger().warning("%s", error)
