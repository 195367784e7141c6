"""Custom resources of several versions: captured with every field, and none taken from a live one by a restore."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from estate import await_condition

from gxbackup.ports import StreamEnd
from gxbackup.sources.kubernetes_objects import KubernetesObjects
from tests.cluster.objects_estate import captured, create, find, host, lines, work
from tests.cluster.scratch_api import kubectl

pytestmark = pytest.mark.cluster
SOURCE = KubernetesObjects()
GROUP = f"gxt-versions-{os.getpid()}.example"
PATH = f"/apis/{GROUP}/v1beta1/probes/one"
STORED = {"a": "1", "legacy": "kept"}


def version(name: str, *fields: str, served: bool = True, storage: bool = False) -> dict[str, Any]:
    spec = {"type": "object", "properties": {field: {"type": "string"} for field in fields}}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}
    return {"name": name, "served": served, "storage": storage, "schema": schema}


def define(*versions: dict[str, Any]) -> None:
    names = {"plural": "probes", "kind": "Probe"}
    spec = {"group": GROUP, "scope": "Cluster", "names": names, "versions": [*versions]}
    metadata = {"name": f"probes.{GROUP}"}
    create([
        {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": metadata,
         "spec": spec},
    ])  # fmt: skip


def served() -> set[str]:
    """Return the versions in which Probes are served; the discovery of a group is behind its definition."""
    groups = json.loads(kubectl("get", "--raw", "/apis"))["groups"]
    return {one["version"] for group in groups if group["name"] == GROUP for one in group["versions"]}


@pytest.fixture
def probe() -> Iterator[None]:
    """Have an object whose preferred version lacks a field that it is stored with."""
    define(version("v1", "a"), version("v1beta1", "a", "legacy", storage=True))
    try:
        await_condition("it is served", lambda: served() == {"v1", "v1beta1"}, 30)
        stored = {"apiVersion": f"{GROUP}/v1beta1", "kind": "Probe", "metadata": {"name": "one"}, "spec": STORED}
        create([stored])
        yield
    finally:
        kubectl("delete", "crd", f"probes.{GROUP}")


def spec_of_live() -> Any:
    return json.loads(kubectl("get", "--raw", PATH))["spec"]


def change(field: str, value: str) -> None:
    kubectl("patch", f"probes.v1beta1.{GROUP}", "one", "--type=merge", "-p", json.dumps({"spec": {field: value}}))


@pytest.mark.usefixtures("probe")
def test_a_custom_resource_is_captured_and_restored_with_the_fields_it_is_stored_with(tmp_path: Path) -> None:
    plain, ending = captured()
    kubectl("delete", f"probes.v1beta1.{GROUP}", "one")

    done = SOURCE.apply(host(), work(tmp_path / "work", plain, ending, kinds=["Probe"]))

    assert find(lines(plain), "Probe", "one", None)["spec"] == STORED
    assert ending.shortfalls == ()
    assert done[1] == "all 1 are there and equal the snapshot"
    assert spec_of_live() == STORED


@pytest.mark.usefixtures("probe")
def test_a_snapshot_of_a_version_that_lacks_a_field_takes_it_from_no_live_object(tmp_path: Path) -> None:
    older = {"apiVersion": f"{GROUP}/v1", "kind": "Probe", "metadata": {"name": "one"}, "spec": {"a": "1"}}
    change("a", "2")
    job = work(tmp_path / "work", f"{json.dumps(older)}\n".encode(), StreamEnd({}))

    told = SOURCE.preview(host(), job)
    SOURCE.apply(host(), job)

    assert "changed: Probe one: spec.a" in told
    assert spec_of_live() == STORED
    (copies,) = (tmp_path / "work" / "safety").glob("objects-*/before.jsonl")
    assert find(lines(copies.read_bytes()), "Probe", "one", None)["spec"] == {"a": "2", "legacy": "kept"}


@pytest.mark.usefixtures("probe")
def test_a_stored_version_that_is_not_served_is_a_shortfall_that_names_the_fields() -> None:
    define(version("v2", "a"), version("v1", "a", "old"),
           version("v1beta1", "a", "old", storage=True, served=False))  # fmt: skip
    await_condition("it is served no more", lambda: served() == {"v1", "v2"}, 30)

    _, ending = captured()

    (shortfall,) = ending.shortfalls
    assert shortfall.startswith(f"{GROUP}/v2 Probe: expected all fields, seen without spec.old: ")
