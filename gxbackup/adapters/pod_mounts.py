"""
What a pod's containers mount where, as its specification tells: whole claims, folders within them, and all else.

Source: kubernetes.io/docs/concepts/storage/volumes, "Using subPath with expanded environment variables";
.../tasks/inject-data-application/define-interdependent-environment-variables, for how `$(NAME)` is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field

from gxbackup.model import Frozen

_VARIABLE = re.compile(r"\$(?:\$|\((?P<name>[^()]+)\))")
_KEYED = re.compile(r"metadata\.(?P<of>labels|annotations)\['(?P<key>[^']+)'\]")


class PodMount(Frozen):
    """A volume, or a folder of one, in a container of a pod."""

    folder: str = Field(description="where the container has it")
    claim: str | None = Field(description="whose volume; None: an emptyDir or another volume that is no claim's")
    sub_path: str | None = Field(description='below the volume\'s folder; "": all of it; None: the API does not tell')


def mounts_of(pod: Any) -> tuple[PodMount, ...]:
    """Return what the containers of a pod, as the API gives it, mount."""
    claims = {
        volume.name: volume.persistent_volume_claim.claim_name
        for volume in pod.spec.volumes or ()
        if volume.persistent_volume_claim
    }
    return tuple(
        PodMount(
            folder=mount.mount_path,
            claim=claims.get(mount.name),
            sub_path=_sub_path(pod, container, mount),
        )
        for container in pod.spec.containers
        for mount in container.volume_mounts or ()
    )


def innermost(mounts: Iterable[PodMount], folder: str) -> PodMount | None:
    """Return what a folder lies on: what is mounted further in hides what is mounted further out."""
    covering = [mount for mount in mounts if f"{folder}/".startswith(f"{mount.folder.rstrip('/')}/")]
    return max(covering, key=lambda mount: (len(mount.folder.rstrip("/")), mount.claim is not None), default=None)


def claims_of(pod: Any) -> dict[str, str]:
    """Return each claim of a pod → the folder where a container has all of it; empty where none has."""
    whole = {mount.claim: mount.folder for mount in mounts_of(pod) if mount.claim and mount.sub_path == ""}
    claims = [volume.persistent_volume_claim for volume in pod.spec.volumes or ()]
    return {claim.claim_name: whole.get(claim.claim_name, "") for claim in claims if claim}


def _sub_path(pod: Any, container: Any, mount: Any) -> str | None:
    told = _expanded(mount.sub_path_expr, _variables(pod, container)) if mount.sub_path_expr else mount.sub_path or ""
    return None if told is None else told.strip("/")


def _variables(pod: Any, container: Any) -> dict[str, str]:
    """Return a container's variables, but not those that a ConfigMap, a Secret or the kubelet alone tells."""
    found: dict[str, str] = {}
    for variable in container.env or ():
        if variable.value_from:
            reference = variable.value_from.field_ref
            value = _field(pod, reference.field_path) if reference else None
        else:
            value = _expanded(variable.value or "", found)
        found.pop(variable.name, None)
        if value is not None:
            found[variable.name] = value
    return found


def _field(pod: Any, path: str) -> str | None:
    """Return what the downward API gives a container under this path, as far as it keeps for the pod's life."""
    if match := _KEYED.fullmatch(path):
        named: dict[str, str] = getattr(pod.metadata, match["of"]) or {}
        return named.get(match["key"], "")
    values: dict[str, str | None] = {
        "metadata.name": pod.metadata.name,
        "metadata.namespace": pod.metadata.namespace,
        "metadata.uid": pod.metadata.uid,
        "spec.nodeName": pod.spec.node_name,
        "spec.serviceAccountName": pod.spec.service_account_name,
    }
    return values.get(path)


def _expanded(text: str, variables: Mapping[str, str]) -> str | None:
    """Return a text with its `$(NAME)` replaced, and `$$` by a dollar; None where one is not known."""
    if any(match["name"] not in {None, *variables} for match in _VARIABLE.finditer(text)):
        return None
    return _VARIABLE.sub(lambda match: variables[match["name"]] if match["name"] else "$", text)
