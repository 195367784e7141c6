"""The Secrets of a namespace, as objects to apply again. Values stay in memory and in sealed streams."""

from __future__ import annotations

from typing import Any

from gxbackup.adapters.cluster import Cluster
from gxbackup.adapters.kubernetes_api import CALL_TIMEOUT_SECONDS, asking, core

PAGE = 500
# Made by the cluster for its own accounts: another cluster makes its own.
ACCOUNT_TOKEN = "kubernetes.io/service-account-token"  # noqa: S105 - the name of a type
_KEPT_METADATA = ("name", "namespace", "labels", "annotations")
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

SecretObject = dict[str, Any]


def list_secrets(cluster: Cluster, namespace: str) -> list[SecretObject]:
    """Return a namespace's Secrets by name, without what the server added; CollectError where it may not be read."""
    found: list[SecretObject] = []
    with cluster.api() as api, asking(f"secrets of {namespace}"):
        more = None
        while more != "":
            page = core(api).list_namespaced_secret(
                namespace, limit=PAGE, _continue=more, _request_timeout=CALL_TIMEOUT_SECONDS
            )
            found += [_clean(api.sanitize_for_serialization(item)) for item in page.items]  # type: ignore[no-untyped-call]
            more = page.metadata._continue or ""  # noqa: SLF001 - the client's own name of the field
    return sorted(found, key=lambda one: str(one["metadata"]["name"]))


def put_secret(cluster: Cluster, secret: SecretObject) -> None:
    """Create a Secret, or replace the one of its name (an immutable one, or one of another type, is made anew)."""
    from kubernetes.client import ApiException

    namespace, name = secret["metadata"]["namespace"], secret["metadata"]["name"]
    limit = {"_request_timeout": CALL_TIMEOUT_SECONDS}
    with cluster.api() as api, asking(f"secret {namespace}/{name}"):
        client = core(api)
        try:
            client.replace_namespaced_secret(name, namespace, secret, **limit)
        except ApiException as error:
            if error.status not in (404, 422):
                raise
            if error.status == 422:
                client.delete_namespaced_secret(name, namespace, **limit)
            client.create_namespaced_secret(namespace, secret, **limit)


def _clean(item: SecretObject) -> SecretObject:
    metadata = {key: item["metadata"][key] for key in _KEPT_METADATA if item["metadata"].get(key)}
    metadata["annotations"] = {k: v for k, v in metadata.get("annotations", {}).items() if k != _LAST_APPLIED}
    if not metadata["annotations"]:
        del metadata["annotations"]
    rest = {key: item[key] for key in ("type", "immutable", "data") if item.get(key) is not None}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, **rest}
