"""What a real Kubernetes keeps in its etcd, and what its API lists: alike, object by object."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from gxbackup.adapters.cluster import Cluster
from gxbackup.adapters.k3s import K3s
from gxbackup.adapters.kubernetes_objects import ObjectApi
from gxbackup.cluster_objects.naming import Kind
from gxbackup.datastore_objects import uid, value_of
from gxbackup.etcd_snapshot import ObjectName, object_name, read_pairs, read_state, require_whole
from gxbackup.k3s_recovery import RESTLESS
from tests.cluster.scratch_api import ADMIN, kubectl, programs

# Nothing is kept of the state of components: it is asked for.
UNCOUNTED = RESTLESS | {"componentstatuses"}
pytestmark = pytest.mark.cluster
ETCD = f"https://127.0.0.1:{os.environ.get('GX_ETCD_PORT', '12379')}"


def api_counts() -> dict[str, int | None]:
    """Count what the API lists, spelled as a snapshot's count is: etcd's keys leave builtin groups out."""
    with Cluster().api() as client:
        api = ObjectApi(client)
        return {spelled(kind): api.count(kind) for kind in api.discover().kinds}


def api_uids(resources: set[str]) -> dict[ObjectName, str]:
    """Return every object that the API lists of these resources, with its uid."""
    found = {}
    with Cluster().api() as client:
        api = ObjectApi(client)
        for kind in api.discover().kinds:
            for item in api.listing(kind) if spelled(kind) in resources else ():
                one = item["metadata"]
                found[ObjectName(spelled(kind), one.get("namespace", ""), one["name"])] = one["uid"]
    return found


def spelled(kind: Kind) -> str:
    group = kind.api_version.rpartition("/")[0]
    builtin = "." not in group or group.endswith(".k8s.io")
    kept = group in ("apiextensions.k8s.io", "apiregistration.k8s.io") or kind.plural == "ingresses"
    return f"{kind.plural}.{group}" if kept or not builtin else kind.plural


def save(file: Path) -> None:
    pki = Path(os.environ["KUBECONFIG"]).parent / "pki"
    words = ["etcdctl", f"--endpoints={ETCD}", f"--cacert={pki / 'ca.crt'}", f"--cert={pki / 'etcd.crt'}",
             f"--key={pki / 'etcd.key'}", "snapshot", "save", str(file)]  # fmt: skip
    subprocess.run(words, check=True, capture_output=True, env={**os.environ, "ETCDCTL_API": "3"})


def test_the_revision_that_servers_agree_on_is_that_of_etcd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "k3s"
    script.write_text(f'#!/bin/sh\nshift; exec {programs()}/kubectl --kubeconfig={ADMIN} "$@"\n')  # `k3s kubectl …`
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    save(tmp_path / "before.db")
    kubectl("annotate", "namespace", "default", f"gx-test/{tmp_path.name}=now", "--overwrite")

    agreed = K3s(tmp_path, tmp_path).agreed_revision()

    save(tmp_path / "after.db")
    assert read_state(tmp_path / "before.db").revision < agreed <= read_state(tmp_path / "after.db").revision
    kubectl("annotate", "namespace", "default", f"gx-test/{tmp_path.name}-")


def test_the_objects_counted_in_a_snapshot_are_those_that_the_api_lists(tmp_path: Path) -> None:
    before = api_counts()
    save(tmp_path / "s.db")
    after = api_counts()

    require_whole(tmp_path / "s.db")
    seen = read_state(tmp_path / "s.db").objects

    counted = {name: count for name, count in before.items() if count and after[name] == count}
    compared = {name: count for name, count in counted.items() if name not in UNCOUNTED}
    assert len(compared) >= 10
    assert {name: seen.get(name) for name in compared} == compared
    assert [name for name in seen if name not in before] == []
    kept = {name: uid(value_of(pair)) for key, pair in read_pairs(tmp_path / "s.db") if (name := object_name(key))}
    listed = {name: told for name, told in api_uids(set(compared)).items() if name in kept}
    assert len(listed) >= 50
    assert {"customresourcedefinitions.apiextensions.k8s.io", "secrets", "clusterroles"} <= {
        name.resource for name in listed
    }
    assert {name: kept[name] for name in listed} == listed
