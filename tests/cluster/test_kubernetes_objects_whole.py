"""A whole real cluster, whatever is in it: captured over a bad line, judged by its server, put on an empty one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gxbackup.cluster_objects.cleaning import clean
from gxbackup.errors import IntegrityError, RestoreRefusedError
from gxbackup.ports import StreamEnd
from gxbackup.sources.kubernetes_objects import KubernetesObjects
from tests.cluster.conftest import CuttableApi
from tests.cluster.objects_estate import captured, host, lines, read, work
from tests.cluster.scratch_api import kubectl, scratch_api_server
from tests.kubeconfigs import turn_to

pytestmark = pytest.mark.cluster
SOURCE = KubernetesObjects()
NAMESPACES = ["backend-mainnet", "backend-testnet", "fabric"]


@pytest.fixture(scope="module")
def capture() -> tuple[bytes, StreamEnd]:
    return captured()


def test_a_connection_that_is_cut_on_the_way_costs_nothing(
    capture: tuple[bytes, StreamEnd], cuttable: CuttableApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn_to(cuttable.kubeconfig, monkeypatch)
    buffer = memoryview(bytearray(4096))
    plain = bytearray()
    wanted = SOURCE.collect(host(), "k8s-manifests")[0]

    with SOURCE.open(host(), wanted) as stream:
        while count := stream.readinto(buffer):
            plain += buffer[:count]
            if len(plain) // 50_000 > (len(plain) - count) // 50_000:
                cuttable.cut()
        ending = stream.finish()

    assert ending.shortfalls == ()
    assert len(lines(plain)) == ending.evidence["objects_total"]
    ours = [one["metadata"]["name"] for one in lines(plain) if one["metadata"].get("namespace") in NAMESPACES]
    assert len(ours) == len(
        [one for one in lines(capture[0]) if one["metadata"].get("namespace") in NAMESPACES]
    )  # fmt: skip


def test_a_kind_that_the_cluster_does_not_serve_is_named(capture: tuple[bytes, StreamEnd], tmp_path: Path) -> None:
    plain = capture[0].replace(b'"gx-test.example/v1alpha1"', b'"gx-other.example/v1"')
    job = work(tmp_path / "work", plain, capture[1], kinds=["FabricChannel"])

    with pytest.raises(
        RestoreRefusedError, match="does not serve gx-other.example/v1 FabricChannel; it serves gx-test"
    ):
        SOURCE.preview(host(), job)


def test_a_snapshot_that_holds_fewer_objects_than_it_says_is_no_backup(
    capture: tuple[bytes, StreamEnd], tmp_path: Path
) -> None:
    plain, ending = capture
    lost = next(line for line in plain.splitlines(keepends=True) if b'"kind":"Secret"' in line)
    shorter = plain.replace(lost, b"")

    with pytest.raises(IntegrityError, match=r"v1 Secret: expected \d+ objects, seen \d+"):
        SOURCE.rehearse(host(), work(tmp_path / "work", shorter, ending))


def test_a_cluster_that_has_not_changed_shows_no_difference(tmp_path: Path) -> None:
    told = SOURCE.preview(host(), work(tmp_path / "work", *captured(), namespaces=[*NAMESPACES]))

    assert told[0].startswith("0 objects are added, 0 changed, "), told


def test_a_rehearsal_lets_the_server_judge_every_object(capture: tuple[bytes, StreamEnd], tmp_path: Path) -> None:
    told = SOURCE.rehearse(host(), work(tmp_path / "work", *capture))

    assert told[0].startswith(f"{capture[1].evidence['objects_total']} objects, as many of each kind as were captured")
    assert "accepted by the API server" in told[1]
    assert "gx-dry-run" not in kubectl(
        "get", "all,configmap,secret,persistentvolume", "--all-namespaces", "--output=name"
    )


def test_everything_comes_back_on_an_empty_api_server_by_kubectl_and_by_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One namespace comes with nothing but kubectl, as RECOVER.md says: the restore then finds it the same."""
    raw, ready = SOURCE.collect(host(), "k8s-manifests")
    plain, ending = read(raw)
    wanted = {key(one): one for one in (json.loads(text) for text in read(ready)[0].decode().split("---\n")[1:])}
    by_kubectl = [one for one in wanted.values() if "fabric" in str(key(one)) and one["kind"] != "PersistentVolume"]
    file = tmp_path / "fabric.yaml"
    file.write_text("".join(f"---\n{json.dumps(one)}\n" for one in by_kubectl))
    with scratch_api_server(tmp_path) as kubeconfig:
        for _ in ("definitions", "and the custom resources that need them"):
            words = ("apply", "--server-side", "--force-conflicts", f"--filename={file}")
            kubectl(*words, kubeconfig=kubeconfig, check=False)
        turn_to(kubeconfig, monkeypatch)

        done = SOURCE.apply(host(), work(tmp_path / "work", plain, ending))

        again, _ = captured()
    added, same = len(wanted) - len(by_kubectl), len(by_kubectl)
    assert done[0] == f"{added} objects added, 0 changed, {same} were the same already"
    assert done[1] == f"all {len(wanted)} are there and equal the snapshot"
    there = {key(one): clean(one) for one in lines(again)}
    assert set(wanted) <= set(there)
    assert [one for one in wanted if substance(wanted[one]) != substance(there[one])] == []


def key(found: dict[str, Any]) -> tuple[str, str, str | None, str]:
    metadata = found["metadata"]
    return found["apiVersion"], found["kind"], metadata.get("namespace"), metadata["name"]


def substance(found: dict[str, Any] | None) -> dict[str, Any]:
    """Return what is the same in every cluster: its metadata tells of its own life."""
    assert found is not None
    return {field: value for field, value in found.items() if field not in ("metadata", "status")}
