"""The restore of Kubernetes objects."""

from __future__ import annotations

from typing import Literal

from prefect import flow
from pydantic import JsonValue

from flows.command_line import run
from flows.data_recipe import restore_data
from tasks.handover import went_on_elsewhere


@flow(flow_run_name="restore k8s-manifests of {server} {snapshot} ({mode})")
def restore_k8s_manifests(
    server: Literal["mainnet", "vps1", "vps2"],
    snapshot: str = "latest",
    namespaces: list[str] | None = None,
    kinds: list[str] | None = None,
    names: list[str] | None = None,
    leave_out: list[str] | None = None,
    mode: Literal["plan", "scratch", "in-place"] = "plan",
    approve: bool = False,
) -> None:
    """
    Put objects of a cluster back: Secrets, ConfigMaps, volumes and claims, workloads, custom resources.

    Protects: every listable kind of the cluster, as of the chosen snapshot.
    Promise:  tried dry as a whole, then applied in order; undone on failure; nothing is deleted.
    Restore:  docs/runbooks/restore-k8s-manifests.md

    Args:
        server: whose cluster; it runs on that server's own host, whose KUBECONFIG names the cluster
        snapshot: a snapshot id such as 20261122_040000, or latest: the newest good one
        namespaces: only these; empty: all but kube-system, kube-public and kube-node-lease
        kinds: only these, like Secret or Deployment.apps; empty: all
        names: only these, like postgres or backend-mainnet/postgres; empty: all
        leave_out: all but these: kinds, names, or one object as it is named in an error, like Secret/fabric/ca-root
        mode: plan shows the difference to the live cluster, scratch lets it judge every object, in-place applies
        approve: go on without asking in the UI
    """
    if went_on_elsewhere(server):
        return
    options: dict[str, JsonValue] = {
        "namespaces": [*(namespaces or [])],
        "kinds": [*(kinds or [])],
        "names": [*(names or [])],
        "leave_out": [*(leave_out or [])],
    }
    restore_data(server, "k8s-manifests", snapshot, mode, approve, options)


if __name__ == "__main__":
    run(restore_k8s_manifests)
