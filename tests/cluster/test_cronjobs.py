"""CronJobs on a real Kubernetes: what succeeded, what is suspended, what is not there; nothing of them is touched."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.backup_vps1 import backup_vps1
from flows.check_backup_health import check_backup_health
from gxbackup import clock, watch
from gxbackup.adapters import cronjobs
from gxbackup.adapters.cluster import Cluster
from gxbackup.errors import SourceMissingError, UnprovenError
from tests.flows.conftest import Place

pytestmark = pytest.mark.cluster
NAMESPACE = f"gxt-cronjobs-{os.getpid()}"


def kubectl(*words: str, stdin: str | None = None) -> str:
    return subprocess.run(["kubectl", *words], input=stdin, text=True, check=True, stdout=subprocess.PIPE).stdout


def manifest(name: str, command: str, suspend: bool = False) -> dict[str, Any]:
    container = {
        "name": "one", "image": "gx-test/base:1", "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", command],
    }  # fmt: skip
    pod = {"restartPolicy": "Never", "hostNetwork": True, "containers": [container]}
    job = {"backoffLimit": 0, "template": {"spec": pod}}
    return {
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"schedule": "0 2 * * *", "suspend": suspend, "jobTemplate": {"spec": job}},
    }  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _three_cronjobs() -> Iterator[None]:
    kubectl("create", "namespace", NAMESPACE)
    try:
        wanted = [manifest("good", "true"), manifest("bad", "exit 1"), manifest("paused", "true", suspend=True)]
        kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": wanted}))
        for name, condition in (("good", "complete"), ("bad", "failed")):
            kubectl("create", "job", f"{name}-now", f"--from=cronjob/{name}", "-n", NAMESPACE)
            kubectl("wait", "--timeout=60s", f"--for=condition={condition}", f"job/{name}-now", "-n", NAMESPACE)
        yield
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def test_the_last_success_is_that_of_its_own_jobs() -> None:
    seen = cronjobs.look(Cluster(), NAMESPACE, "good")

    assert seen.schedule == "0 2 * * *"
    assert not seen.suspended
    assert seen.last_success is not None
    assert timedelta(0) <= clock.now() - seen.last_success < timedelta(minutes=5)


def test_a_job_that_failed_is_no_success_and_is_told_once_it_was_due() -> None:
    seen = cronjobs.look(Cluster(), NAMESPACE, "bad")

    assert seen.last_success is None
    assert watch.cronjob_findings(seen, clock.now()) == []
    (finding,) = watch.cronjob_findings(seen, clock.now() + timedelta(days=2))
    assert finding.message.endswith("no success is known")


def test_a_suspended_one_is_failing_although_it_succeeded() -> None:
    (finding,) = watch.cronjob_findings(cronjobs.look(Cluster(), NAMESPACE, "paused"), clock.now())

    assert (finding.level, finding.message) == ("failing", "is suspended")


def test_one_that_is_not_there_is_named() -> None:
    with pytest.raises(SourceMissingError, match=f"CronJob {NAMESPACE}/redis-backup: expected, seen none"):
        cronjobs.look(Cluster(), NAMESPACE, "redis-backup")


@pytest.mark.usefixtures("prefect_server")
def test_the_hourly_look_sees_those_that_are_there_and_fails_for_one_suspended_and_one_gone_until_they_are_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    there = [("backend-mainnet", "postgres-backup"), ("backend-mainnet", "redis-backup")]
    broken = [(NAMESPACE, "paused"), (NAMESPACE, "gone")]

    def edit(document: dict[str, Any]) -> None:
        document["servers"] = {"vps1": document["servers"]["vps1"]}
        document["watch"] = {"cronjobs": [{"namespace": where, "name": name} for where, name in there + broken]}

    place = Place(tmp_path, monkeypatch)
    place.site.mkdir(parents=True)
    place.etc.mkdir()
    for folder in (place.site, place.etc):
        (folder / "file").write_text("one")
    place.create(edit)
    backup_vps1()

    with pytest.raises(UnprovenError, match=f"2 failing: CronJob {NAMESPACE}/paused; CronJob {NAMESPACE}/gone\n"):
        check_backup_health()

    assert (
        f"| 🔴 failing | CronJob {NAMESPACE}/paused | is suspended | docs/runbooks/alert-BackupCronJobOverdue.md |"
        in (caplog.text)
    )
    assert f"CronJob {NAMESPACE}/gone: expected, seen none" in caplog.text
    seen = (place.metrics / "gx-backup-health.prom").read_text()
    for where, name in there:
        assert f'backup_cronjob_last_success_timestamp{{cronjob="{name}",namespace="{where}"}}' in seen

    kubectl("patch", "cronjob", "paused", "-n", NAMESPACE, "--patch", '{"spec": {"suspend": false}}')
    kubectl("apply", "-f", "-", stdin=json.dumps(manifest("gone", "true")))
    check_backup_health()
