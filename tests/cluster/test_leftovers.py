"""A killed run of these tests is in nobody's way."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.cluster.leftovers import sweep
from tests.cluster.scratch_api import kubectl

pytestmark = pytest.mark.cluster


def test_what_a_killed_run_left_is_swept_and_what_runs_beside_stays() -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    gone, runs = f"gxt-left-{ended.pid}", f"gxt-left-{os.getpid()}"
    volume = {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Mi"}, "hostPath": {"path": "/nowhere"}}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": gone}
    rbac = "rbac.authorization.k8s.io/v1"
    try:
        for one in (
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": gone}},
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": runs}},
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": gone}, "spec": volume},
            {"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": gone}, "rules": []},
            {"apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": {"name": gone}, "roleRef": role},
        ):
            kubectl("apply", "--filename=-", stdin=json.dumps(one))

        told = sweep()

        assert f'namespace "{gone}" deleted' in told
        there = kubectl("get", "namespace,persistentvolume,clusterrole,clusterrolebinding", "-o", "name")
        assert gone not in there
        assert f"namespace/{runs}" in there.splitlines()
    finally:
        kubectl("delete", "namespace", runs, "--wait=false")
