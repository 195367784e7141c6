"""What every test obeys: in CI (CI set in the environment) a skip is a failure, since nobody reads a list of skips."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# These read or change the namespaces that play production in the cluster: never two of them at once.
PRODUCTION = (
    "test_mainnet.py", "test_kubernetes_objects_whole.py", "test_postgres_pods.py", "test_testnet.py",
    "test_worker_rights.py",
)  # fmt: skip
# Begun last, one of these would run alone at the end, beside an idle processor; the browser not beside the workers.
LONGEST = (
    "test_mainnet.py",
    "test_worker.py",
    "test_five_hosts.py",
    "test_automations.py",
    "test_what_the_operator_sees.py",
    "test_disaster.py",
)
Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


class ByGroup(LoadScopeScheduling):
    """
    Gives a file's tests to one process, and those of a group of files.

    The groups of xdist 3.8 do nothing with pytest 9.2: it writes them into names that pytest no longer reads.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "production" if Path(file).name in PRODUCTION else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByGroup:
    """Have `-n` share tests out by group."""
    return ByGroup(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first; all others stay in their order."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


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
