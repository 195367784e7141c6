"""What every test obeys: in CI (CI set in the environment) a skip is a failure, since nobody reads a list of skips."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TypeVar

import pytest

# These read or change the namespaces that play production in the cluster: never two of them at once.
PRODUCTION = (
    "test_mainnet.py", "test_kubernetes_objects_whole.py", "test_postgres_pods.py", "test_testnet.py",
    "test_worker_rights.py",
)  # fmt: skip
# Begun last, one of these would run alone at the end, beside an idle processor.
LONGEST = (
    "test_mainnet.py",
    "test_worker.py",
    "test_what_the_operator_sees.py",
    "test_five_hosts.py",
    "test_automations.py",
)
Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first, all others in their order; a file's tests stay together."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    for item in items:
        group = "production" if item.path.name in PRODUCTION else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


def _no_skip(report: Report) -> Report:
    if report.skipped and os.environ.get("CI"):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a test's skip into a failure in CI; an expected failure is a skip too."""
    return _no_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a whole module's skip into a failure in CI."""
    return _no_skip((yield))
