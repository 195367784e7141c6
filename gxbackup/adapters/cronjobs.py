"""CronJobs of the cluster, looked at and never touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from gxbackup.adapters.cluster import Cluster
from gxbackup.adapters.kubernetes_api import CALL_TIMEOUT_SECONDS, asking
from gxbackup.errors import SourceMissingError
from gxbackup.watch import CronJobSeen

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

_GROUP = "batch"
# Kubernetes before 1.21 knows CronJobs as v1beta1 alone; Jobs are v1 everywhere.
_VERSIONS = ("v1", "v1beta1")


def look(cluster: Cluster, namespace: str, name: str) -> CronJobSeen:
    """
    Return what the cluster tells of a CronJob and of its Jobs.

    Raises: SourceMissingError where there is none of that name, CollectError where the API does not answer.
    """
    what = f"CronJob {namespace}/{name}"
    with cluster.api() as api, asking(what):
        cronjob = next((one for one in _cronjobs(api, namespace) if one["metadata"]["name"] == name), None)
        if cronjob is None:
            raise SourceMissingError(f"{what}: expected, seen none", f"`kubectl get cronjobs -n {namespace}` lists all")
        jobs = _items(api, "v1", namespace, "jobs")
    told = cronjob.get("status", {}).get("lastSuccessfulTime")
    ends = [_moment(job["status"]["completionTime"]) for job in jobs if _is_success_of(cronjob, job)]
    return CronJobSeen(
        namespace=namespace,
        name=name,
        schedule=cronjob["spec"]["schedule"],
        time_zone=cronjob["spec"].get("timeZone"),
        suspended=bool(cronjob["spec"].get("suspend")),
        created_at=_moment(cronjob["metadata"]["creationTimestamp"]),
        last_success=max([*ends, *([_moment(told)] if told else [])], default=None),
    )


def _cronjobs(api: ApiClient, namespace: str) -> Iterable[Mapping[str, Any]]:
    from kubernetes.client import ApiException

    for version in _VERSIONS[:-1]:
        try:
            return _items(api, version, namespace, "cronjobs")
        except ApiException as error:
            if error.status != 404:
                raise
    return _items(api, _VERSIONS[-1], namespace, "cronjobs")


def _items(api: ApiClient, version: str, namespace: str, plural: str) -> list[dict[str, Any]]:
    from kubernetes.client import CustomObjectsApi

    listed: Any = CustomObjectsApi(api).list_namespaced_custom_object(
        _GROUP, version, namespace, plural, _request_timeout=CALL_TIMEOUT_SECONDS
    )
    items: list[dict[str, Any]] = listed["items"]
    return items


def _is_success_of(cronjob: Mapping[str, Any], job: Mapping[str, Any]) -> bool:
    owners = [owner["uid"] for owner in job["metadata"].get("ownerReferences", ())]
    status = job.get("status", {})
    return cronjob["metadata"]["uid"] in owners and bool(status.get("succeeded")) and "completionTime" in status


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
