"""Every object of a real cluster: captured whole, compared, and put back in its own namespace."""

from __future__ import annotations

import base64
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gxbackup.adapters import kubernetes_objects
from gxbackup.cluster_objects.cleaning import clean
from gxbackup.errors import RestoreError, RestoreRefusedError
from gxbackup.ports import StreamEnd
from gxbackup.sources.kubernetes_objects import KubernetesObjects
from tests.cluster.objects_estate import (
    BINARY,
    CONFIG_MAPS,
    NAMESPACE,
    SECRET,
    captured,
    create,
    delete_namespace,
    estate,
    find,
    host,
    lines,
    live,
    objects,
    read,
    work,
)
from tests.cluster.scratch_api import kubectl

pytestmark = pytest.mark.cluster
SOURCE = KubernetesObjects()
SKIPPED = {
    ("v1", "Event"),
    ("events.k8s.io/v1", "Event"),
    ("coordination.k8s.io/v1", "Lease"),
    ("v1", "ComponentStatus"),
}
SERVED_TWICE = {("extensions/v1beta1", "Ingress")}


@pytest.fixture(scope="module", autouse=True)
def _namespace() -> Iterator[None]:
    with estate():
        yield


@pytest.fixture(scope="module")
def capture(_namespace: None) -> tuple[bytes, StreamEnd]:
    return captured()


@pytest.fixture
def whole(capture: tuple[bytes, StreamEnd]) -> None:
    """Give the namespace as it was captured, whatever the test before did to it."""
    create(objects())


def own(options: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"namespaces": [NAMESPACE], **(options or {})}


def test_every_listable_kind_is_captured_with_all_its_objects(capture: tuple[bytes, StreamEnd]) -> None:
    plain, ending = capture
    listed = [line.split() for line in kubectl("api-resources", "--verbs=list", "--no-headers").splitlines()]
    kinds = {(words[-3], words[-1]) for words in listed}

    told = {tuple(label.split()) for label in ending.evidence["objects"]}  # type: ignore[union-attr]

    assert kinds - told == (SKIPPED | SERVED_TWICE) & kinds
    assert ending.shortfalls == ()
    found = lines(plain)
    assert len(found) == ending.evidence["objects_total"]
    mine = {(one["kind"], one["metadata"]["name"]) for one in found if one["metadata"].get("namespace") == NAMESPACE}
    assert {(one["kind"], one["metadata"]["name"]) for one in objects()[1:]} <= mine


def test_binary_data_and_custom_resources_are_captured_as_they_are(capture: tuple[bytes, StreamEnd]) -> None:
    found = lines(capture[0])

    assert base64.b64decode(find(found, "Secret", "binary")["data"]["key"]) == BINARY
    assert base64.b64decode(find(found, "ConfigMap", "text")["binaryData"]["bytes"]) == BINARY
    assert find(found, "ConfigMap", "text")["data"]["text"] == "Zürich\n"
    assert find(found, "FabricChannel", "one")["spec"] == {"channel": "channel1", "peers": ["p0"]}
    assert find(found, "Endpoints", "outside")["subsets"][0]["addresses"] == [{"ip": "192.0.2.7"}]
    kinds = [one["kind"] for one in found]
    assert kinds[0] == "CustomResourceDefinition"
    assert kinds.index("FabricChannel") < kinds.index("StatefulSet")


def test_both_forms_show_the_same_moment_and_kubectl_takes_the_ready_one(tmp_path: Path) -> None:
    raw, ready = SOURCE.collect(host(), "k8s-manifests")
    kubectl("create", "configmap", "too-late", f"--namespace={NAMESPACE}")

    plain, ending = read(raw)
    applied, told = read(ready)

    kubectl("delete", "configmap", "too-late", f"--namespace={NAMESPACE}")
    assert b"too-late" not in plain + applied
    assert "listed_later_than_revision" not in ending.evidence
    documents = [json.loads(document) for document in applied.decode().split("---\n")[1:]]
    wanted = [clean(one) for one in lines(plain) if one["metadata"].get("namespace") == NAMESPACE]
    assert [one for one in documents if one["metadata"].get("namespace") == NAMESPACE] == [one for one in wanted if one]
    assert len(documents) == told.evidence["objects_total"]
    file = tmp_path / "own.yaml"
    file.write_text("".join(f"---\n{json.dumps(one)}\n" for one in documents if one["kind"] != "ConfigMap"
                            and NAMESPACE in (one["metadata"]["name"], one["metadata"].get("namespace"))))  # fmt: skip
    said = kubectl("apply", "--server-side", "--force-conflicts", "--dry-run=server", f"--filename={file}")
    assert said.count("serverside-applied") == len(objects()) - CONFIG_MAPS - 1 + 1  # with the default ServiceAccount


def test_pages_of_five_hold_the_same_objects(capture: tuple[bytes, StreamEnd], monkeypatch: pytest.MonkeyPatch) -> None:
    with host().cluster.api() as client:
        api = kubernetes_objects.ObjectApi(client, largest_page_objects=5)
        kind = api.discover().served["v1", "ConfigMap"]

        names = [one["metadata"]["name"] for one in api.listing(kind) if one["metadata"]["namespace"] == NAMESPACE]

    expected = [one["metadata"]["name"] for one in objects() if one["kind"] == "ConfigMap"]
    assert sorted(names) == sorted([*expected, "kube-root-ca.crt"])


def test_a_namespace_that_was_deleted_comes_back_whole(capture: tuple[bytes, StreamEnd], tmp_path: Path) -> None:
    before = {name: live(kind, name) for kind, name in (("configmap", "text"), ("statefulset", "one"))}
    delete_namespace()
    job = work(tmp_path / "work", *capture, **own())

    told = SOURCE.preview(host(), job)
    done = SOURCE.apply(host(), job)

    restored = len(objects()) + 1  # the default ServiceAccount too, which the new namespace may bring first
    assert told[0] == f"{restored} objects are added, 0 changed, 0 are the same; none is deleted"
    assert int(done[0].split()[0]) in (restored, restored - 1)
    assert f"all {restored} are there" in done[1]
    assert live("secret", "binary")["data"] == {"key": SECRET}
    assert live("configmap", "text")["binaryData"] == before["text"]["binaryData"]
    assert live("fabricchannel", "one")["spec"] == {"channel": "channel1", "peers": ["p0"]}
    assert live("statefulset", "one")["spec"] == before["one"]["spec"]
    assert live("endpoints", "outside")["subsets"][0]["addresses"] == [{"ip": "192.0.2.7"}]
    assert SOURCE.preview(host(), job)[0] == f"0 objects are added, 0 changed, {restored} are the same; none is deleted"


@pytest.mark.usefixtures("whole")
def test_what_drifted_is_shown_by_path_and_put_back_and_strangers_stay(
    capture: tuple[bytes, StreamEnd], tmp_path: Path
) -> None:
    drifted = base64.b64encode(b"another-password").decode()
    kubectl("patch", "secret", "binary", "-n", NAMESPACE, "-p", json.dumps({"data": {"key": drifted}}))
    kubectl("patch", "cronjob", "one", "-n", NAMESPACE, "-p", '{"spec":{"schedule":"5 5 * * *"}}')
    kubectl("create", "configmap", "stranger", "-n", NAMESPACE)
    kubectl("annotate", "configmap", "text", "-n", NAMESPACE, "example.org/owner=somebody-else")
    job = work(tmp_path / "work", *capture, **own())

    told = SOURCE.preview(host(), job)
    done = SOURCE.apply(host(), job)

    assert told[0].startswith("0 objects are added, 2 changed")
    assert f"changed: Secret {NAMESPACE}/binary: data.key" in told
    assert f"changed: CronJob {NAMESPACE}/one: spec.schedule" in told
    assert drifted not in str(told) + str(done)
    assert done[1].endswith(" are there with all that the snapshot holds")
    for said in (told, done):
        [line] = [one for one in said if one.startswith("there now and not in the snapshot: ")]
        assert f"ConfigMap {NAMESPACE}/text: metadata.annotations.example.org/owner; " in line
        assert "somebody-else" not in str(said)
    assert live("secret", "binary")["data"] == {"key": SECRET}
    kubectl("annotate", "configmap", "text", "-n", NAMESPACE, "example.org/owner-")
    assert live("cronjob", "one")["spec"]["schedule"] == "0 0 1 1 *"
    assert live("configmap", "stranger")["metadata"]["name"] == "stranger"
    (copies,) = (tmp_path / "work" / "safety").glob("objects-*/before.jsonl")
    assert stat.S_IMODE(copies.stat().st_mode) == 0o600
    assert find(lines(copies.read_bytes()), "Secret", "binary")["data"] == {"key": drifted}


@pytest.mark.usefixtures("whole")
def test_one_object_is_restored_by_its_kind_and_name(capture: tuple[bytes, StreamEnd], tmp_path: Path) -> None:
    kubectl("delete", "secret/binary", "configmap/text", f"--namespace={NAMESPACE}")
    job = work(tmp_path / "work", *capture, kinds=["secret"], names=[f"{NAMESPACE}/binary"])

    done = SOURCE.apply(host(), job)

    assert done[0] == "1 objects added, 0 changed, 0 were the same already"
    assert live("secret", "binary")["data"] == {"key": SECRET}
    assert "NotFound" in kubectl("get", "configmap", "text", f"--namespace={NAMESPACE}", check=False)
    assert SOURCE.target(job) == f"kubernetes objects: namespaces all; kinds secret; names {NAMESPACE}/binary"


@pytest.mark.usefixtures("whole")
def test_an_invalid_object_is_refused_before_anything_is_touched(
    capture: tuple[bytes, StreamEnd], tmp_path: Path
) -> None:
    plain, ending = capture
    broken = lines(plain)
    find(broken, "Ingress", "one")["spec"] = {"rules": "none"}
    find(broken, "ConfigMap", "text")["data"] = {"text": "changed"}
    job = work(tmp_path / "work", "".join(f"{json.dumps(one)}\n" for one in broken).encode(), ending, **own())

    with pytest.raises(
        RestoreRefusedError, match=f"1 of them cannot be applied, so nothing was touched: Ingress {NAMESPACE}"
    ):
        SOURCE.apply(host(), job)

    with pytest.raises(RestoreRefusedError, match="cannot be applied"):
        SOURCE.preview(host(), job)
    with pytest.raises(RestoreError, match=f"refuses 1 of them: Ingress {NAMESPACE}/one"):
        SOURCE.rehearse(host(), job)
    assert live("configmap", "text")["data"]["text"] == "Zürich\n"
    without = job.model_copy(update={"options": {**job.options, "leave_out": [f"Ingress/{NAMESPACE}/one"]}})
    planned = SOURCE.preview(host(), without)
    SOURCE.apply(host(), without)
    assert f"left out, as asked for: 1 objects: Ingress {NAMESPACE}/one" in planned
    assert live("configmap", "text")["data"]["text"] == "changed"


@pytest.mark.usefixtures("whole")
def test_a_restore_that_fails_half_way_is_undone(capture: tuple[bytes, StreamEnd], tmp_path: Path) -> None:
    """Each ConfigMap alone is within the quota, so the trial passes; both together are not."""
    kubectl("delete", "configmap/many-001", "configmap/many-002", f"--namespace={NAMESPACE}")
    kubectl("patch", "secret", "binary", "-n", NAMESPACE, "-p", '{"data":{"key":"AAAA"}}')
    kubectl("patch", "configmap", "many-000", "-n", NAMESPACE, "-p", '{"data":{"n":"drifted"}}')
    count = len(kubectl("get", "configmap", "-n", NAMESPACE, "--output=name").split())
    kubectl("create", "quota", "tight", f"--hard=count/configmaps={count + 1}", f"--namespace={NAMESPACE}")
    kubectl("wait", "--for=jsonpath={.status.used}", "quota/tight", "-n", NAMESPACE, check=False)
    await_used("tight")
    before = live("secret", "binary")
    job = work(tmp_path / "work", *capture, **own())

    with pytest.raises(RestoreError, match=f"ConfigMap {NAMESPACE}/many-002: .*exceeded quota") as caught:
        SOURCE.apply(host(), job)

    kubectl("delete", "quota", "tight", f"--namespace={NAMESPACE}")
    assert "all was put back as it was" in str(caught.value)
    assert live("secret", "binary")["data"] == before["data"] == {"key": "AAAA"}
    assert live("configmap", "many-000")["data"] == {"n": "drifted"}
    assert "NotFound" in kubectl("get", "configmap", "many-001", "-n", NAMESPACE, check=False)


def await_used(quota: str) -> None:
    deadline = time.monotonic() + 30
    while not live("quota", quota).get("status", {}).get("used"):
        assert time.monotonic() < deadline, "the quota is never counted"
        time.sleep(0.05)


def test_a_restore_that_is_killed_ends_well_when_it_is_run_again(
    capture: tuple[bytes, StreamEnd], tmp_path: Path
) -> None:
    create(objects())
    kubectl("delete", "configmap", "--all", f"--namespace={NAMESPACE}")
    job = work(tmp_path / "work", *capture, **own({"kinds": ["ConfigMap"]}))
    program = (
        "import sys; from tests.cluster.objects_estate import host; from gxbackup.sources.base import Work;"
        "from gxbackup.sources.kubernetes_objects import KubernetesObjects;"
        "KubernetesObjects().apply(host(), Work.model_validate_json(sys.stdin.read()))"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as child:
        assert child.stdin
        child.stdin.write(job.model_dump_json().encode())
        child.stdin.close()
        while restored(6) < 5:
            assert child.poll() is None, "it ended before it could be killed"
        os.kill(child.pid, signal.SIGKILL)
    half = restored(500)
    assert 5 <= half < CONFIG_MAPS + 1

    done = SOURCE.apply(host(), work(tmp_path / "again", *capture, **own({"kinds": ["ConfigMap"]})))

    assert done[0] == f"{CONFIG_MAPS + 1 - half} objects added, 0 changed, {half} were the same already"
    assert live("configmap", "text")["binaryData"] == {"bytes": SECRET}


def restored(limit: int) -> int:
    """Count the ConfigMaps of the namespace that a restore has made."""
    path = f"/api/v1/namespaces/{NAMESPACE}/configmaps?limit={limit}"
    found = json.loads(kubectl("get", "--raw", path))["items"]
    return sum(one["metadata"]["name"] != "kube-root-ca.crt" for one in found)


@pytest.mark.usefixtures("whole")
def test_a_namespace_that_is_not_there_and_not_chosen_is_named(
    capture: tuple[bytes, StreamEnd], tmp_path: Path
) -> None:
    elsewhere = capture[0].replace(NAMESPACE.encode(), b"gxt-nowhere")
    job = work(tmp_path / "work", elsewhere, capture[1], namespaces=["gxt-nowhere"], kinds=["Secret"])

    with pytest.raises(RestoreRefusedError, match="there is no namespace gxt-nowhere; restore the Namespace too"):
        SOURCE.preview(host(), job)
