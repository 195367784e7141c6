"""A whole real cluster, whatever is in it: captured over a bad line, judged by its server, put on an empty one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gxbackup.cluster_objects.cleaning import clean, is_built_in
from gxbackup.cluster_objects.naming import SYSTEM_NAMESPACES
from gxbackup.errors import IntegrityError, RestoreRefusedError
from gxbackup.ports import StreamEnd
from gxbackup.sources.kubernetes_objects import KubernetesObjects
from tests.cluster.conftest import CuttableApi
from tests.cluster.objects_estate import captured, host, lines, work
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


def test_everything_comes_back_on_an_empty_api_server(
    capture: tuple[bytes, StreamEnd], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, ending = capture
    wanted = {
        (one["apiVersion"], one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]): one
        for one in lines(read_ready(plain))
    }
    with scratch_api_server(tmp_path) as kubeconfig:
        turn_to(kubeconfig, monkeypatch)

        done = SOURCE.apply(host(), work(tmp_path / "work", plain, ending))

        again, _ = captured()
    assert done[0] == f"{len(wanted)} objects added, 0 changed, 0 were the same already"
    assert done[1] == f"all {len(wanted)} are there and equal the snapshot"
    there = {
        (one["apiVersion"], one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]): clean(one)
        for one in lines(again)
    }
    assert set(wanted) <= set(there)
    differing = [key for key, one in wanted.items() if substance(one) != substance(there[key])]
    assert differing == []


def read_ready(plain: bytes) -> bytes:
    """Return what a restore of all would apply, worked out anew from the raw form."""
    kept = [
        clean(one)
        for one in lines(plain)
        if not is_built_in(one) and one["metadata"].get("namespace") not in SYSTEM_NAMESPACES
    ]
    return "".join(f"{json.dumps(one)}\n" for one in kept if one).encode()


def substance(found: dict[str, Any] | None) -> dict[str, Any]:
    """Return what is the same in every cluster: a node port is given out anew, no controller has bound a claim."""
    assert found is not None
    return {key: value for key, value in found.items() if key not in ("metadata", "status")}
