"""Faults in the middle of listing a cluster; what a real API server shows, `tests/cluster` asks one."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gxbackup.adapters import kubernetes_objects
from gxbackup.adapters.containers import Containers
from gxbackup.adapters.host import Host
from gxbackup.adapters.kubernetes_answers import refusal
from gxbackup.cluster_objects.cleaning import clean
from gxbackup.cluster_objects.naming import label_of
from gxbackup.errors import CollectError, EmptyArtifactError, IntegrityError, SetupError
from gxbackup.model import Capture
from gxbackup.ports import StreamEnd
from gxbackup.sources.base import Work
from gxbackup.sources.kubernetes_objects import KubernetesObjects
from tests.cluster.objects_estate import NAMESPACE, objects, with_ready_form, work
from tests.integration.faulty_api_server import FaultyApiServer, faulty_api_server
from tests.kubeconfigs import turn_to

CONFIG_MAPS = "/api/v1/configmaps"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyApiServer]:
    monkeypatch.setattr(kubernetes_objects, "RETRY_DELAYS_SECONDS", (0.001, 0.001))
    monkeypatch.setattr(kubernetes_objects, "FIRST_PAGE_OBJECTS", 4)
    with faulty_api_server(tmp_path) as (started, kubeconfig):
        turn_to(kubeconfig, monkeypatch)
        started.objects["configmaps"] = [f"map-{number:03d}" for number in range(30)]
        started.objects["secrets"] = ["password"]
        started.objects["channels"] = ["one"]
        yield started


def host() -> Host:
    return Host(containers=Containers())


def collect() -> Capture:
    return KubernetesObjects().collect(host(), "k8s-manifests")[0]


def read(capture: Capture) -> tuple[list[str], StreamEnd]:
    buffer = memoryview(bytearray(100))
    plain = bytearray()
    with KubernetesObjects().open(host(), capture) as stream:
        while count := stream.readinto(buffer):
            plain += buffer[:count]
        found = [json.loads(line) for line in plain.decode().splitlines()]
        return [f"{one['kind']} {one['metadata']['name']}" for one in found], stream.finish()


def everything() -> list[str]:
    return [
        "Namespace fabric",
        *(f"ConfigMap map-{number:03d}" for number in range(30)),
        "Secret password",
        "Channel one",
    ]


def test_pages_grow_and_every_object_is_read_once(server: FaultyApiServer) -> None:
    names, ending = read(collect())

    assert names == everything()
    assert ending.shortfalls == ()
    pages = [
        asked for asked in server.asked if asked.startswith(CONFIG_MAPS) and ("continue=" in asked or "Exact" in asked)
    ]
    assert [page.partition("limit=")[2].partition("&")[0] for page in pages] == ["4", "8", "16", "32"]


def test_a_list_that_expired_on_the_way_begins_again_and_repeats_nothing(server: FaultyApiServer) -> None:
    capture = collect()
    server.faults[CONFIG_MAPS] = [200, 200, "expired", 200, 200, "expired"]

    names, ending = read(capture)

    assert names == everything()
    assert ending.shortfalls == ()
    assert ending.evidence["listed_later_than_revision"] == ["v1 ConfigMap"]


def test_a_revision_that_the_server_no_longer_has_is_no_obstacle(server: FaultyApiServer) -> None:
    capture = collect()
    server.faults[CONFIG_MAPS] = ["expired"]

    names, ending = read(capture)

    assert names == everything()
    assert ending.evidence["listed_later_than_revision"] == ["v1 ConfigMap"]


def test_a_list_that_expires_again_and_again_is_a_shortfall(server: FaultyApiServer) -> None:
    server.objects["configmaps"] = [f"map-{number:03d}" for number in range(400)]
    capture = collect()
    server.faults[CONFIG_MAPS] = [200, "expired"] * 5

    names, ending = read(capture)

    assert names[-2:] == ["Secret password", "Channel one"]
    assert len(names) < 400
    (shortfall,) = ending.shortfalls
    assert shortfall.startswith("v1 ConfigMap: cannot be listed: GET /api/v1/configmaps: seen 410 Expired")


def test_a_kind_that_may_not_be_listed_is_named_and_the_others_are_captured(server: FaultyApiServer) -> None:
    capture = collect()
    server.faults["/api/v1/secrets"] = [403]

    names, ending = read(capture)

    assert names == [name for name in everything() if name != "Secret password"]
    (shortfall,) = ending.shortfalls
    assert shortfall.startswith("v1 Secret: cannot be listed: GET /api/v1/secrets: seen 403 Forbidden")
    assert ending.evidence["objects"]["v1 Secret"] == 0  # type: ignore[index,call-overload]


def test_a_kind_whose_list_keeps_failing_is_named(server: FaultyApiServer) -> None:
    capture = collect()
    server.faults[CONFIG_MAPS] = [500] * 20

    names, ending = read(capture)

    assert names == ["Namespace fabric", "Secret password", "Channel one"]
    assert ending.shortfalls[0].startswith("v1 ConfigMap: cannot be listed: GET /api/v1/configmaps: seen 500")


def test_an_answer_that_fails_once_is_asked_for_again(server: FaultyApiServer) -> None:
    capture = collect()
    server.faults[CONFIG_MAPS] = [200, 503, 200, "cut"]

    names, ending = read(capture)

    assert names == everything()
    assert ending.shortfalls == ()


def test_a_group_that_does_not_tell_its_kinds_is_named(server: FaultyApiServer) -> None:
    capture = collect()
    server.faults["/apis/gx.example/v1"] = [503] * 20

    names, ending = read(capture)

    assert names == everything()[:-1]
    assert ending.shortfalls[0].startswith("gx.example/v1: its kinds cannot be told: GET /apis/gx.example/v1: seen 503")


def test_a_server_that_goes_away_in_the_middle_ends_the_stream(server: FaultyApiServer) -> None:
    capture = collect()
    server.faults[CONFIG_MAPS] = [200, *["cut"] * 20]

    with pytest.raises(
        CollectError, match="kubernetes API /api/v1/configmaps: the API server cannot be reached"
    ) as caught:
        read(capture)

    assert caught.value.retryable


def test_nothing_at_all_is_no_backup(server: FaultyApiServer) -> None:
    capture = collect()
    for path in ("/api/v1/namespaces", CONFIG_MAPS, "/api/v1/secrets", "/apis/gx.example/v1/channels"):
        server.faults[path] = [403]

    with pytest.raises(EmptyArtifactError, match="expected some, seen none: v1 Namespace: cannot be listed"):
        read(capture)


@contextmanager
def gone_api_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Turn to an API server that nobody is any more; the port is kept, so that nobody else takes it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with faulty_api_server(folder) as (started, kubeconfig):
            port = started.server_address[1]
        kubeconfig.write_text(kubeconfig.read_text().replace(str(port), str(taken.getsockname()[1])))
        turn_to(kubeconfig, monkeypatch)
        yield


def test_no_api_server_is_an_error_that_says_where_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "kubernetes API /version: the API server cannot be reached"
    with gone_api_server(tmp_path, monkeypatch), pytest.raises(CollectError, match=said) as caught:
        collect()

    assert caught.value.retryable
    assert "KUBECONFIG" in caught.value.hints[0]


def test_no_kubeconfig_is_a_matter_of_setting_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turn_to(tmp_path / "none", monkeypatch)

    with pytest.raises(SetupError, match="kubeconfig: cannot be used"):
        collect()


def test_what_is_said_of_a_secret_names_its_fields_only() -> None:
    told = {"reason": "Invalid", "message": 'Invalid value: "hunter2"', "details": {"causes": [{"field": "data[x]"}]}}

    error = refusal("PATCH /secrets/x", 422, json.dumps(told).encode(), is_secret=True)

    assert error.message == "PATCH /secrets/x: seen 422 Invalid: data[x]"
    assert "hunter2" not in refusal("PATCH /secrets/x", 400, b'"hunter2"', is_secret=True).message


DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "fabricchannels.gx-test.example", "uid": "1"},
    "spec": {"group": "gx-test.example", "names": {"kind": "FabricChannel"}, "versions": []},
}


def blank_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    turn_to(tmp_path / "none", monkeypatch)
    monkeypatch.delenv("KUBECONFIG")


def snapshot(folder: Path, raw: list[dict[str, Any]], ready: list[dict[str, Any]], **told: int) -> Work:
    """Return work on a snapshot of these objects; `told` is what the evidence says more of a kind than there is."""

    def ending(held: list[dict[str, Any]]) -> StreamEnd:
        counts = Counter(label_of(one) for one in held)
        counts.update({f"v1 {kind}": count for kind, count in told.items()})
        return StreamEnd({"objects": dict(counts)})

    plain = "".join(f"{json.dumps(one)}\n" for one in raw).encode()
    applied = "".join(f"---\n{json.dumps(one)}\n" for one in ready).encode()
    return with_ready_form(work(folder, plain, ending(raw)), applied, ending(ready))


def held() -> list[dict[str, Any]]:
    return [DEFINITION, *({**one, "metadata": {**one["metadata"], "uid": "1"}} for one in objects())]


def cleaned() -> list[dict[str, Any]]:
    return [one for one in map(clean, held()) if one is not None]


def test_on_a_blank_machine_both_forms_prove_themselves_and_it_says_that_no_server_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blank_machine(tmp_path, monkeypatch)

    counted, ready, judged = KubernetesObjects().rehearse(host(), snapshot(tmp_path / "work", held(), cleaned()))

    assert counted.startswith(f"{len(held())} objects, as many of each kind as were captured: 1 apiextensions")
    assert ready.startswith(f"{len(held())} of them ready to apply")
    assert judged.startswith("no API server judged them, GX_SCRATCH_KUBECONFIG names none: kubeconfig: cannot be used")


def test_an_api_server_that_is_gone_as_in_a_disaster_fails_no_rehearsal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gone_api_server(tmp_path, monkeypatch):
        told = KubernetesObjects().rehearse(host(), snapshot(tmp_path / "work", held(), cleaned()))

    assert told[2].startswith("no API server judged them, GX_SCRATCH_KUBECONFIG names none: kubernetes API /version: ")


def without(kind: str) -> list[dict[str, Any]]:
    return [one for one in cleaned() if one["kind"] != kind]


@pytest.mark.parametrize(
    ("ready", "reason"),
    [
        (without("Namespace"), f"ServiceAccount {NAMESPACE}/one: expected its Namespace too, seen none"),
        (without("CustomResourceDefinition"), f"FabricChannel {NAMESPACE}/one: expected a CustomResourceDef"),
        (held(), "fabricchannels.gx-test.example: expected ready to apply, seen with uid"),
        ([*cleaned(), {"kind": "Secret"}], r"apply.yaml line \d+: expected an object, seen none"),
    ],
    ids=["no namespace", "no definition", "not cleaned", "no object"],
)
def test_what_no_server_would_take_is_found_without_one(
    ready: list[dict[str, Any]], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blank_machine(tmp_path, monkeypatch)
    job = snapshot(tmp_path / "work", held(), [one for one in ready if "apiVersion" in one])
    job.opened[1].file.write_text("".join(f"---\n{json.dumps(one)}\n" for one in ready))

    with pytest.raises(IntegrityError, match=reason):
        KubernetesObjects().rehearse(host(), job)


def test_one_object_fewer_than_was_captured_is_found_without_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blank_machine(tmp_path, monkeypatch)

    with pytest.raises(IntegrityError, match="v1 Secret: expected 2 objects, seen 1"):
        KubernetesObjects().rehearse(host(), snapshot(tmp_path / "work", held(), cleaned(), Secret=1))
