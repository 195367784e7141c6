"""What the API tells of a pod, as sources see it."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes.client import (
    V1Container,
    V1ObjectMeta,
    V1PersistentVolumeClaimVolumeSource,
    V1Pod,
    V1PodSpec,
    V1PodStatus,
    V1Volume,
    V1VolumeMount,
)

from gxbackup.adapters.cluster import _pod


def claims(*mounts: dict[str, Any]) -> dict[str, str]:
    containers = [
        V1Container(name=f"c{number}", image="one", volume_mounts=[V1VolumeMount(name="v", **mount)] if mount else None)
        for number, mount in enumerate(mounts)
    ]
    claim = V1PersistentVolumeClaimVolumeSource(claim_name="data-one-0")
    return _pod(
        V1Pod(
            metadata=V1ObjectMeta(name="one-0", namespace="ns", uid="1"),
            spec=V1PodSpec(containers=containers, volumes=[V1Volume(name="v", persistent_volume_claim=claim)]),
            status=V1PodStatus(phase="Running"),
        )
    ).claims


@pytest.mark.parametrize(
    ("mounts", "folder"),
    [
        ([{"mount_path": "/data"}], "/data"),
        ([{}, {"mount_path": "/data"}], "/data"),
        ([{"mount_path": "/data", "sub_path": "redis"}], ""),
        ([{"mount_path": "/data", "sub_path_expr": "$(POD)"}], ""),
    ],
    ids=["one container", "the second container", "by subPath", "by subPathExpr"],
)
def test_a_claims_folder_is_told_where_it_is_the_claims_own(mounts: list[dict[str, Any]], folder: str) -> None:
    assert claims(*mounts) == {"data-one-0": folder}
