"""Faults in the middle of applying objects, and of asking what a cluster serves; a real API server shows the rest."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gxbackup.adapters import kubernetes_objects
from gxbackup.adapters.kubernetes_objects import ObjectApi
from gxbackup.cluster_objects import volumes
from gxbackup.errors import RestoreError
from gxbackup.ports import StreamEnd
from gxbackup.sources.base import Work
from gxbackup.sources.kubernetes_objects import KubernetesObjects
from tests.cluster.objects_estate import host, work
from tests.integration.faulty_api_server import FaultyApiServer, faulty_api_server
from tests.kubeconfigs import turn_to

SOURCE = KubernetesObjects()
PATH = "/api/v1/namespaces/fabric/configmaps/"
DEAD = "/apis/dead.example/v1"
DEFINED = {"group": "gx-new.example", "names": {"plural": "peers", "kind": "Peer"},
           "versions": [{"name": "v1", "served": True}]}  # fmt: skip


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyApiServer]:
    with faulty_api_server(tmp_path) as (started, kubeconfig):
        turn_to(kubeconfig, monkeypatch)
        yield started


@pytest.fixture
def dead_group(server: FaultyApiServer) -> FaultyApiServer:
    """Have one group whose own program is gone for good."""
    server.serve("dead.example/v1", "numbers", "Number")
    server.faults[DEAD] = [503] * 1000
    return server


def made(kind: str, name: str, api: str = "v1", **fields: Any) -> dict[str, Any]:
    return {"apiVersion": api, "kind": kind, "metadata": {"namespace": "fabric", "name": name}, **fields}


def snapshot(folder: Path, *held: dict[str, Any]) -> Work:
    return work(folder / "work", "".join(f"{json.dumps(one)}\n" for one in held).encode(), StreamEnd({}))


def test_what_a_try_without_an_answer_has_created_is_undone_too(server: FaultyApiServer, tmp_path: Path) -> None:
    server.faults[f"PATCH {PATH}one"] = ["lost"]
    server.faults[f"PATCH {PATH}two"] = [422]
    job = snapshot(tmp_path, made("ConfigMap", "one"), made("ConfigMap", "two"))

    with pytest.raises(RestoreError, match="ConfigMap fabric/two: .*seen 422") as caught:
        SOURCE.apply(host(), job)

    assert "all was put back as it was" in str(caught.value)
    assert [path for path in server.kept if path.startswith(PATH)] == []
    (created,) = (tmp_path / "work" / "safety").glob("objects-*/created.jsonl")
    assert json.loads(created.read_text())["metadata"]["name"] == "one"


def test_what_a_try_without_an_answer_has_created_is_told_as_added(server: FaultyApiServer, tmp_path: Path) -> None:
    server.faults[f"PATCH {PATH}one"] = ["lost"]

    done = SOURCE.apply(host(), snapshot(tmp_path, made("ConfigMap", "one")))

    assert done[:2] == [
        "1 objects added, 0 changed, 0 were the same already",
        "all 1 are there and equal the snapshot",
    ]


def test_where_a_volume_cannot_be_made_to_keep_its_data_nothing_that_holds_it_is_deleted(
    server: FaultyApiServer, tmp_path: Path
) -> None:
    server.serve("v1", "persistentvolumes", "PersistentVolume", namespaced=False)
    server.serve("v1", "persistentvolumeclaims", "PersistentVolumeClaim")
    volume = made("PersistentVolume", "disk", spec={"persistentVolumeReclaimPolicy": "Delete"})
    claim = made("PersistentVolumeClaim", "data", spec={"volumeName": "disk"})
    del volume["metadata"]["namespace"]
    server.faults["PATCH /api/v1/persistentvolumes/disk"] = [200, 403]
    server.faults[f"PATCH {PATH}two"] = [422]
    job = snapshot(tmp_path, volume, claim, made("ConfigMap", "one"), made("ConfigMap", "two"))

    with pytest.raises(RestoreError, match="ConfigMap fabric/two: .*seen 422") as caught:
        SOURCE.apply(host(), job)

    told = str(caught.value)
    assert "PersistentVolume disk: cannot be given reclaim policy Retain: PATCH /api/v1/persistentvolumes/disk" in told
    assert "PersistentVolumeClaim fabric/data: stays, so that no volume loses its data" in told
    assert "/api/v1/persistentvolumes/disk" in server.kept
    assert "/api/v1/namespaces/fabric/persistentvolumeclaims/data" in server.kept
    assert f"{PATH}one" not in server.kept


@pytest.mark.parametrize("faults", [[409, 409], ["lost", 409], [409, "lost", 409]], ids=str)
def test_a_volume_that_others_change_meanwhile_is_made_to_keep_its_data(
    faults: list[int | str], server: FaultyApiServer
) -> None:
    path = "/api/v1/persistentvolumes/disk"
    server.kept[path] = made("PersistentVolume", "disk", spec={"persistentVolumeReclaimPolicy": "Delete", "a": "b"})
    server.kept[path]["metadata"] |= {"uid": "1", "resourceVersion": "7"}
    server.faults[f"PATCH {path}"] = faults

    with host().cluster.api() as client:
        said = volumes.retain(ObjectApi(client), ["disk", "gone"])

    assert said == (["disk"], [])
    assert server.kept[path]["spec"] == {"persistentVolumeReclaimPolicy": "Retain", "a": "b"}


@pytest.mark.parametrize("faults", [[409], ["lost", 409]], ids=str)
def test_an_object_that_others_change_meanwhile_is_put_back(faults: list[int | str], server: FaultyApiServer) -> None:
    path, earlier = f"{PATH}one", made("ConfigMap", "one", data={"a": "earlier"})
    server.kept[path] = made("ConfigMap", "one", data={"a": "changed"})
    for one in (earlier, server.kept[path]):
        one["metadata"] |= {"uid": "1", "resourceVersion": "7"}
    server.faults[f"PUT {path}"] = faults

    with host().cluster.api() as client:
        api = ObjectApi(client)
        api.replace(api.discover().served["v1", "ConfigMap"], earlier)

    assert server.kept[path]["data"] == {"a": "earlier"}


def test_a_group_that_is_dead_for_good_holds_up_no_capture(dead_group: FaultyApiServer) -> None:
    begin = time.monotonic()

    SOURCE.collect(host(), "k8s-manifests")

    assert time.monotonic() - begin < sum(kubernetes_objects.RETRY_DELAYS_SECONDS) / 4
    assert dead_group.asked.count(DEAD) == len(kubernetes_objects.GROUP_DELAYS_SECONDS) + 2


def test_a_group_that_is_dead_for_good_fails_no_restore_of_definitions(
    dead_group: FaultyApiServer, tmp_path: Path
) -> None:
    dead_group.serve(
        "apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
    )
    definition = made("CustomResourceDefinition", "peers.gx-new.example", "apiextensions.k8s.io/v1", spec=DEFINED)
    del definition["metadata"]["namespace"]
    dead_group.faults["/apis/gx-new.example/v1"] = [404, 503]

    done = SOURCE.apply(host(), snapshot(tmp_path, definition, made("Peer", "p0", "gx-new.example/v1")))

    assert done[1] == "all 2 are there and equal the snapshot"
    asked_when_discovering = len(kubernetes_objects.GROUP_DELAYS_SECONDS) + 2
    assert dead_group.asked.count(DEAD) == asked_when_discovering


def test_a_namespace_of_which_it_cannot_be_told_what_it_holds_stays(
    dead_group: FaultyApiServer, tmp_path: Path
) -> None:
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "new"}}
    inside = [made("ConfigMap", name) for name in ("one", "two")]
    for one in inside:
        one["metadata"]["namespace"] = "new"
    dead_group.faults["PATCH /api/v1/namespaces/new/configmaps/two"] = [422]

    with pytest.raises(RestoreError, match="ConfigMap new/two: .*seen 422") as caught:
        SOURCE.apply(host(), snapshot(tmp_path, space, *inside))

    said = "Namespace new: what namespace new holds cannot be told: dead.example/v1: its kinds cannot be told"
    assert said in str(caught.value)
    assert [path for path in dead_group.kept if "/new" in path] == ["/api/v1/namespaces/new"]


def test_a_server_that_is_away_for_a_moment_is_waited_for_when_it_is_asked_for_its_groups(
    server: FaultyApiServer,
) -> None:
    """Behind a proxy it answers 503 then, also for the groups that it serves itself."""
    capture = SOURCE.collect(host(), "k8s-manifests")[0]
    server.faults["/apis/gx.example/v1"] = [503] * 3
    server.faults["/version"] = [503, 503]

    with SOURCE.open(host(), capture) as stream:
        while stream.readinto(memoryview(bytearray(1000))):
            pass
        assert stream.finish().shortfalls == ()


def test_a_kind_that_is_not_served_is_told_with_both_ways_in_which_it_can_be(
    server: FaultyApiServer, tmp_path: Path
) -> None:
    job = snapshot(tmp_path, made("PodMetrics", "one", "metrics.example/v1"))

    with pytest.raises(
        RestoreError, match="restore its CustomResourceDefinition too, or what its APIService points to"
    ):
        SOURCE.apply(host(), job)
