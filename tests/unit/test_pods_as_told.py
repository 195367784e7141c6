"""What the API tells of a pod, as sources see it."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes.client import (
    V1Container,
    V1EnvVar,
    V1EnvVarSource,
    V1ObjectFieldSelector,
    V1ObjectMeta,
    V1PersistentVolumeClaimVolumeSource,
    V1Pod,
    V1PodSpec,
    V1PodStatus,
    V1SecretKeySelector,
    V1Volume,
    V1VolumeMount,
)

from gxbackup.adapters.cluster import Pod, _pod


def told(*mounts: dict[str, Any], env: list[V1EnvVar] | None = None) -> Pod:
    containers = [
        V1Container(
            name=f"c{number}", image="one", env=env,
            volume_mounts=[V1VolumeMount(**{"name": "v", **mount})] if mount else None,
        )
        for number, mount in enumerate(mounts)
    ]  # fmt: skip
    claim = V1PersistentVolumeClaimVolumeSource(claim_name="data-one-0")
    volumes = [V1Volume(name="v", persistent_volume_claim=claim), V1Volume(name="empty")]
    return _pod(
        V1Pod(
            metadata=V1ObjectMeta(name="one-0", namespace="ns", uid="1", labels={"org": "org1"}),
            spec=V1PodSpec(containers=containers, volumes=volumes),
            status=V1PodStatus(phase="Running"),
        )
    )


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
    assert told(*mounts).claims == {"data-one-0": folder}


def test_a_folder_within_a_claim_is_told_as_its_containers_variables_name_it() -> None:
    def named(name: str, **source: Any) -> V1EnvVar:
        return V1EnvVar(name=name, value_from=V1EnvVarSource(**source))

    env = [
        named("POD", field_ref=V1ObjectFieldSelector(field_path="metadata.name")),
        named("ORG", field_ref=V1ObjectFieldSelector(field_path="metadata.labels['org']")),
        V1EnvVar(name="BOTH", value="$(ORG)-$(POD)"),
        named("HIDDEN", secret_key_ref=V1SecretKeySelector(name="s", key="k")),
        V1EnvVar(name="BY_IT", value="x$(HIDDEN)"),
    ]
    folders = ["/whole", "/plain", "/named", "/dollar", "/hidden", "/unknown"]
    asked: list[dict[str, str]] = [
        {}, {"sub_path": "a/b/"}, {"sub_path_expr": "peers/$(BOTH)"}, {"sub_path_expr": "$$(POD)"},
        {"sub_path_expr": "$(BY_IT)"}, {"sub_path_expr": "$(NOBODY)"},
    ]  # fmt: skip
    mounts = [{"mount_path": folder, **more} for folder, more in zip(folders, asked, strict=True)]

    seen = told(*mounts, {"name": "empty", "mount_path": "/empty"}, env=env).mounts

    below = ["", "a/b", "peers/org1-one-0", "$(POD)", None, None]
    expected = [(folder, "data-one-0", sub_path) for folder, sub_path in zip(folders, below, strict=True)]
    assert [(one.folder, one.claim, one.sub_path) for one in seen] == [*expected, ("/empty", None, "")]
