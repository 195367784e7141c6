"""A whole real cluster, whatever is in it: captured over a bad line, judged by its server, put on an empty one."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gxbackup.cluster_objects import volumes
from gxbackup.cluster_objects.cleaning import clean
from gxbackup.errors import IntegrityError, RestoreError, RestoreRefusedError
from gxbackup.ports import StreamEnd
from gxbackup.sources.base import Work
from gxbackup.sources.kubernetes_objects import KubernetesObjects
from tests.cluster.conftest import CuttableApi
from tests.cluster.objects_estate import captured, create, host, in_both_forms, lines, read, with_ready_form, work
from tests.cluster.scratch_api import ADMIN, kubectl, scratch_api_server
from tests.kubeconfigs import turn_to

pytestmark = pytest.mark.cluster
SOURCE = KubernetesObjects()
NODE_PORT = f"gxt-node-port-{os.getpid()}"
NAMESPACES = ["backend-mainnet", "backend-testnet", "fabric"]


@pytest.fixture(scope="module")
def capture() -> tuple[bytes, StreamEnd]:
    return captured()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with scratch_api_server(tmp_path_factory.mktemp("scratch")) as kubeconfig:
        yield kubeconfig


@pytest.fixture
def on_scratch(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GX_SCRATCH_KUBECONFIG", str(scratch))
    return scratch


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


@pytest.fixture
def node_port() -> Iterator[None]:
    """Have a Service with a port that no other can have."""
    spec = {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30081, "protocol": "TCP"}]}
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NODE_PORT}}
    metadata = {"namespace": NODE_PORT, "name": "taken"}
    create([space, {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}])
    yield
    kubectl("delete", "namespace", NODE_PORT)


@pytest.mark.usefixtures("node_port")
def test_a_rehearsal_lets_the_server_judge_every_object(tmp_path: Path) -> None:
    raw, ready = in_both_forms()

    told = SOURCE.rehearse(host(), with_ready_form(work(tmp_path / "work", *raw), *ready))

    assert told[0].startswith(f"{raw[1].evidence['objects_total']} objects, as many of each kind as were captured")
    assert told[1].startswith(f"{ready[1].evidence['objects_total']} of them ready to apply")
    assert told[2:] == [f"{ready[1].evidence['objects_total']} of them accepted by the API server (dry run)"]
    assert "gx-dry-run" not in kubectl(
        "get", "all,configmap,secret,persistentvolume", "--all-namespaces", "--output=name"
    )


def test_a_rehearsal_says_so_where_the_account_may_have_nothing_judged(
    worker_kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn_to(worker_kubeconfig, monkeypatch)

    told = SOURCE.rehearse(host(), work(tmp_path / "work", *captured()))

    assert told[-1].startswith("no API server judged them: ")
    assert told[-1].endswith(" tries were forbidden, as they are to an account that may only list")
    assert "accepted" not in str(told)


def test_the_drill_puts_every_object_on_a_scratch_server_and_removes_it_with_nothing_of_the_lost_cluster(
    on_scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, ready = in_both_forms()
    turn_to(tmp_path / "none", monkeypatch)
    before = names_on(on_scratch)

    told = SOURCE.rehearse(host(), with_ready_form(work(tmp_path / "work", *raw), *ready))

    total = ready[1].evidence["objects_total"]
    assert told[1].startswith(f"{total} of them ready to apply")
    assert told[2] == f"{total} objects put on the scratch API server, equal to the snapshot, and removed again"
    assert names_on(on_scratch) == before


def test_the_protected_server_is_never_scratch(
    cuttable: CuttableApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by its own address nor, behind another one, by the uid that makes it this cluster."""
    job = small(tmp_path / "work")
    monkeypatch.setenv("GX_SCRATCH_KUBECONFIG", str(cuttable.kubeconfig))
    with pytest.raises(RestoreRefusedError, match="expected another server than the protected one"):
        SOURCE.rehearse(host(), job)

    monkeypatch.setenv("KUBECONFIG", ADMIN)
    with pytest.raises(RestoreRefusedError, match="expected another cluster than the protected one, seen the same"):
        SOURCE.rehearse(host(), job)

    turn_to(tmp_path / "none", monkeypatch)
    with pytest.raises(RestoreRefusedError, match="expected an empty one without nodes, seen .*"):
        SOURCE.rehearse(host(), job)
    assert "gxt-small" not in kubectl("get", "namespaces")


@pytest.mark.parametrize(
    "stranger",
    [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "somebodys"}},
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "somebodys"}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "somebodys", "namespace": "default"}},
    ],
    ids=lambda stranger: stranger["kind"],
)
def test_a_server_that_holds_anything_of_others_is_never_scratch(
    stranger: dict[str, Any], on_scratch: Path, tmp_path: Path
) -> None:
    kubectl("create", "--filename=-", kubeconfig=on_scratch, stdin=json.dumps(stranger))
    try:
        with pytest.raises(RestoreRefusedError, match=f"without nodes, seen {stranger['kind']} .*somebodys"):
            SOURCE.rehearse(host(), small(tmp_path / "work"))
        assert "gxt-small" not in kubectl("get", "namespaces", kubeconfig=on_scratch)
    finally:
        kubectl("delete", "--filename=-", "--wait=false", kubeconfig=on_scratch, stdin=json.dumps(stranger))
        if stranger["kind"] == "Namespace":  # this server has no controller that would let it go
            freed = json.dumps({**stranger, "spec": {"finalizers": []}})
            kubectl("replace", "--raw=/api/v1/namespaces/somebodys/finalize", "-f", "-", kubeconfig=on_scratch,
                    stdin=freed)  # fmt: skip


def test_what_fails_half_way_on_a_scratch_server_is_named_and_leaves_it_empty(on_scratch: Path, tmp_path: Path) -> None:
    """Each Service alone gets the port, so that the trial passes; both together do not."""
    before = names_on(on_scratch)
    spec = {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]}
    twice = [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "gxt-small", "name": name}, "spec": spec}
        for name in ("one", "two")
    ]

    with pytest.raises(RestoreError, match="scratch API server: Service gxt-small/two: .*port is already allocated"):
        SOURCE.rehearse(host(), small(tmp_path / "work", *twice))

    assert names_on(on_scratch) == before


def test_everything_comes_back_on_an_empty_api_server_by_kubectl_and_by_us(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One namespace comes with nothing but kubectl, as RECOVER.md says: the restore then finds it the same.

    The last one here: it leaves the scratch server full.
    """
    raw, ready = SOURCE.collect(host(), "k8s-manifests")
    plain, ending = read(raw)
    wanted = {key(one): one for one in (json.loads(text) for text in read(ready)[0].decode().split("---\n")[1:])}
    by_kubectl = [one for one in wanted.values() if "fabric" in str(key(one)) and one["kind"] != "PersistentVolume"]
    file = tmp_path / "fabric.yaml"
    file.write_text("".join(f"---\n{json.dumps(one)}\n" for one in by_kubectl))
    for _ in ("definitions", "and the custom resources that need them"):
        words = ("apply", "--server-side", "--force-conflicts", f"--filename={file}")
        kubectl(*words, kubeconfig=scratch, check=False)
    turn_to(scratch, monkeypatch)
    monkeypatch.setattr(volumes, "BOUND_TIMEOUT_SECONDS", 0)  # nobody binds claims there

    done = SOURCE.apply(host(), work(tmp_path / "work", plain, ending))

    again, _ = captured()
    added, same = len(wanted) - len(by_kubectl), len(by_kubectl)
    assert done[0] == f"{added} objects added, 0 changed, {same} were the same already"
    assert done[1] == f"all {len(wanted)} are there and equal the snapshot"
    assert done[2].startswith("not bound after 0 s: PersistentVolumeClaim ")
    assert done[3].startswith("another address than in the snapshot, which the server did not give: Service ")
    there = {key(one): clean(one) for one in lines(again)}
    assert set(wanted) <= set(there)
    assert [one for one in wanted if substance(wanted[one]) != substance(there[one])] == []


def small(folder: Path, *more: dict[str, Any]) -> Work:
    """Return work on a snapshot of one namespace with a ConfigMap and a claim, which waits for controllers to go."""
    place = {"namespace": "gxt-small"}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    held: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "gxt-small"}},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {**place, "name": "data"}, "spec": claim},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**place, "name": "one"}, "data": {"a": "b"}},
        *more,
    ]
    plain = "".join(f"{json.dumps(one)}\n" for one in held).encode()
    counts = Counter(f"{one['apiVersion']} {one['kind']}" for one in held)
    return work(folder, plain, StreamEnd({"objects": dict(counts)}))


def names_on(kubeconfig: Path) -> list[str]:
    """Return every object that a server holds, but for what tells of the moment."""
    kinds = kubectl("api-resources", "--verbs=list", "--output=name", kubeconfig=kubeconfig).split()
    asked = ",".join(kind for kind in kinds if not kind.startswith(("events", "leases", "componentstatuses")))
    return sorted(kubectl("get", asked, "--all-namespaces", "--output=name", kubeconfig=kubeconfig).split())


def key(found: dict[str, Any]) -> tuple[str, str, str | None, str]:
    metadata = found["metadata"]
    return found["apiVersion"], found["kind"], metadata.get("namespace"), metadata["name"]


def substance(found: dict[str, Any] | None) -> dict[str, Any]:
    """Return what is the same in every cluster: its metadata tells of its own life."""
    assert found is not None
    return {field: value for field, value in found.items() if field not in ("metadata", "status")}
