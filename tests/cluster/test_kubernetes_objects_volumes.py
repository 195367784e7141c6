"""Volumes, claims and what the cluster itself makes of them, when objects are restored and when that fails."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from estate import await_condition

from gxbackup.adapters.kubernetes_objects import ObjectApi
from gxbackup.cluster_objects import volumes
from gxbackup.cluster_objects.putting import Putting
from gxbackup.errors import RestoreError
from gxbackup.ports import StreamEnd
from gxbackup.sources.kubernetes_objects import KubernetesObjects
from tests.cluster.objects_estate import captured, create, host, live, work
from tests.cluster.scratch_api import kubectl

pytestmark = pytest.mark.cluster
SOURCE = KubernetesObjects()
NAMESPACE = f"gxt-volumes-{os.getpid()}"
SPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}


def volume_name(name: str) -> str:
    return f"gxt-volume-{name}-{os.getpid()}"


def volume(name: str, folder: Path, policy: str) -> dict[str, Any]:
    """Return a volume that is kept for the claim of its name; it holds a file."""
    (folder / name).mkdir(parents=True)
    (folder / name / "kept").write_text(name)
    spec = {
        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Mi"}, "storageClassName": "none",
        "persistentVolumeReclaimPolicy": policy, "hostPath": {"path": str(folder / name)},
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": NAMESPACE, "name": name},
    }  # fmt: skip
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume_name(name)}, "spec": spec}


def claim(name: str) -> dict[str, Any]:
    spec = {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}, "storageClassName": "none",
        "volumeName": volume_name(name),
    }  # fmt: skip
    metadata = {"namespace": NAMESPACE, "name": name}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def config_map(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": NAMESPACE, "name": name}}


def is_bound(name: str) -> bool:
    return phase("pvc", name) == "Bound"


def phase(kind: str, name: str) -> str:
    return str(live(kind, name, NAMESPACE)["status"].get("phase"))


def files(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/kept"))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Give the folder of the volumes, and the namespace; all of it is gone after the test, what they hold is not."""
    assert tmp_path.is_relative_to("/tmp"), "the cluster deletes what is in a volume only there"
    create([SPACE])
    try:
        yield tmp_path / "volumes"
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
        kubectl("delete", "pv", "--ignore-not-found", *(volume_name(one) for one in "abc"))


def test_a_restore_that_is_undone_costs_no_volume_its_data(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two volumes come with the restore, one waits there for its claim; each is bound when the undo begins."""
    held = [volume(name, folder, "Delete") for name in "abc"]
    create(held[2:])
    count = len(kubectl("get", "configmap", "-n", NAMESPACE, "--output=name").split())
    kubectl("create", "quota", "tight", f"--hard=count/configmaps={count + 1}", f"--namespace={NAMESPACE}")
    await_condition("the quota", lambda: bool(live("quota", "tight", NAMESPACE)["status"].get("used")), 30)
    held += [*map(claim, "abc"), config_map("one"), config_map("two")]
    policies: list[str] = []
    delete = ObjectApi.delete

    def seen(api: ObjectApi, *words: Any) -> None:
        if not policies:
            await_condition("the claims are bound", lambda: all(map(is_bound, "abc")), 30)
            found = [live("pv", volume_name(name))["spec"] for name in "abc"]
            policies.extend(spec["persistentVolumeReclaimPolicy"] for spec in found)
        delete(api, *words)

    monkeypatch.setattr(ObjectApi, "delete", seen)
    job = work(tmp_path / "work", "".join(f"{json.dumps(one)}\n" for one in held).encode(), StreamEnd({}))

    with pytest.raises(RestoreError, match="ConfigMap .*/two: .*exceeded quota") as caught:
        SOURCE.apply(host(), job)

    assert policies == ["Retain"] * 3
    told = f"all was put back as it was; reclaim policy Retain stays on PersistentVolume {volume_name('c')}"
    assert told in str(caught.value)
    for name in "ab":
        kubectl("wait", "--for=delete", f"pv/{volume_name(name)}", "--timeout=60s", check=False)
        assert "NotFound" in kubectl("get", "pv", volume_name(name), check=False)
    await_condition("the third is released", lambda: phase("pv", volume_name("c")) == "Released", 60)
    assert files(folder) == ["a", "b", "c"]


@pytest.fixture
def lost(folder: Path) -> tuple[bytes, StreamEnd]:
    """Give a capture of a namespace with a bound claim; the namespace was deleted since, its volume was retained."""
    create([volume("a", folder, "Retain"), claim("a")])
    await_condition("the claim is bound", lambda: is_bound("a"), 30)
    capture = captured()
    kubectl("delete", "namespace", NAMESPACE)
    await_condition("the volume is released", lambda: phase("pv", volume_name("a")) == "Released", 30)
    return capture


def test_a_claim_of_a_deleted_namespace_is_bound_to_its_retained_volume_again(
    lost: tuple[bytes, StreamEnd], folder: Path, tmp_path: Path
) -> None:
    job = work(tmp_path / "work", *lost, namespaces=[NAMESPACE])
    before = live("pv", volume_name("a"))

    told = SOURCE.preview(host(), job)
    done = SOURCE.apply(host(), job)

    assert ", 1 changed, 0 are the same" in told[0]
    assert f"changed: PersistentVolume {volume_name('a')}: spec.claimRef.uid" in told
    assert ", 1 changed, " in done[0]
    assert "equal the snapshot" in done[1]
    assert "not bound" not in str(done)
    now = live("pvc", "a", NAMESPACE)
    assert (now["status"]["phase"], now["spec"]["volumeName"]) == ("Bound", volume_name("a"))
    assert live("pv", volume_name("a"))["spec"]["claimRef"]["uid"] == now["metadata"]["uid"]
    assert live("pv", volume_name("a"))["metadata"]["uid"] == before["metadata"]["uid"]
    assert files(folder) == ["a"]
    assert "0 objects are added, 0 changed" in SOURCE.preview(host(), job)[0]


def test_a_volume_that_was_let_bind_anew_is_put_back_when_the_restore_fails(
    lost: tuple[bytes, StreamEnd], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = live("pv", volume_name("a"))["spec"]["claimRef"]["uid"]

    def failing(_: Putting) -> list[str]:
        raise RestoreError("told to fail")

    monkeypatch.setattr(Putting, "compare_all", failing)

    with pytest.raises(RestoreError, match="told to fail\nHINT: all was put back as it was; what was overwritten"):
        SOURCE.apply(host(), work(tmp_path / "work", *lost, namespaces=[NAMESPACE]))

    kubectl("wait", "--for=delete", f"namespace/{NAMESPACE}", "--timeout=120s", check=False)
    await_condition("the volume is released", lambda: phase("pv", volume_name("a")) == "Released", 30)
    assert live("pv", volume_name("a"))["spec"]["claimRef"]["uid"] == before
    assert files(folder) == ["a"]


@pytest.mark.usefixtures("folder")
def test_a_claim_that_does_not_get_its_volume_is_told(
    lost: tuple[bytes, StreamEnd], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volumes, "BOUND_TIMEOUT_SECONDS", 2)
    kinds = ["Namespace", "PersistentVolumeClaim"]

    done = SOURCE.apply(host(), work(tmp_path / "work", *lost, namespaces=[NAMESPACE], kinds=kinds))

    assert done[2] == (
        f"not bound after 2 s: PersistentVolumeClaim {NAMESPACE}/a is Pending, its volume is {volume_name('a')}"
    )
