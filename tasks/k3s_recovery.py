"""The recovery of a K3s cluster: its steps on this host, and those that other hosts do, as tasks."""

from __future__ import annotations

from typing import Literal

from prefect import task
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from gxbackup import k3s_recovery
from gxbackup.errors import InventoryError, RestoreRefusedError
from gxbackup.sources.base import Work
from gxbackup.sources.etcd import Etcd
from tasks import handover, host
from tasks.policy import ONCE

DEPLOYMENT = "recover-k3s-server"
Step = Literal["look", "stop", "join"]


def datastore_of(server: str) -> tuple[str, Etcd]:
    """Return the data type that holds a server's K3s datastore, and its source; InventoryError where there is none."""
    for name, promise in host.inventory().server(server).data_types.items():
        if isinstance(promise.source, Etcd):
            return name, promise.source
    raise InventoryError(f"server {server!r}: no data type of kind etcd is protected on it")


@task(task_run_name="look whether the other servers can be reached", **ONCE)
def require_reachable(server: str, snapshot: str) -> None:
    """Raise RestoreRefusedError with the way by hand unless a worker is online on every other server of the cluster."""
    others = datastore_of(server)[1].other_servers
    first = f"--role first --mode in-place --approve --server {server} --snapshot {snapshot}"
    by_hand = [
        *(f"on {name}: python -m flows.recover_k3s_server --host {name} --step stop --approve" for name in others),
        f"on this host: python -m flows.restore_k3s_cluster {first}",
        *(f"on {name}: python -m flows.recover_k3s_server --host {name} --step join --approve" for name in others),
    ]
    with get_client(sync_client=True) as client:
        try:
            client.read_deployment_by_name(f"{DEPLOYMENT}/{DEPLOYMENT}")
        except ObjectNotFound:
            raise RestoreRefusedError(
                f"{server}: {', '.join(others)} are reached through the Prefect server, and there is none here",
                "nothing was touched; one host after the other, in this order:",
                *by_hand,
            ) from None
        for name in others:
            handover.require_worker(client, name, f"{server}: {name} is one of its K3s servers")


@task(task_run_name="begin a recovery from {snapshot}", **ONCE)
def begin(server: str, snapshot: str) -> str:
    """Begin a recovery on this host, or go on with the one that was cut; return its name."""
    return k3s_recovery.begin(datastore_of(server)[1].k3s(), snapshot).name


@task(task_run_name="{step} K3s on {host_name}", **ONCE)
def on_server(server: str, host_name: str, step: Step, recovery: str) -> list[str]:
    """
    Have another server's own host do a step, unless it is done already.

    A stop is asked for each time: people may have started that server since. One that joined already is not stopped.
    """
    done = f"{step} {host_name}"
    if step == "stop" or not _recovery(server, recovery).has(done):
        parameters = {"host": host_name, "step": step, "server": server, "recovery": recovery, "approve": True}
        handover.run_on(host_name, DEPLOYMENT, parameters, done)
        _recovery(server, recovery).mark(done)
    return [f"{host_name}: {step} done"]


@task(task_run_name="make this host the first server of {server}", **ONCE)
def recover_first(server: str, work: Work, recovery: str) -> list[str]:
    """Put the database and its token into this host's K3s, and start it as a cluster of one."""
    return datastore_of(server)[1].recover_first(work, _recovery(server, recovery))


@task(task_run_name="compare the objects of {server}", **ONCE)
def compare(server: str, work: Work) -> list[str]:
    """Ask the recovered cluster for every kind of object that the snapshot holds, and compare the counts."""
    return datastore_of(server)[1].compare(work)


@task(task_run_name="end the recovery {recovery}", **ONCE)
def finish(server: str, recovery: str) -> None:
    """Note in the journal that all is done."""
    _recovery(server, recovery).finish()


@task(task_run_name="{step} K3s on this host", **ONCE)
def step_here(server: str, step: Step, recovery: str) -> list[str]:
    """Do a step of another server on this host; each is done once in a recovery."""
    under_way = k3s_recovery.resume(datastore_of(server)[1].k3s(), recovery, first_step=step == "stop")
    if under_way.finished:
        return [f"{under_way.name}: done already"]
    return under_way.stop() if step == "stop" else under_way.join()


def _recovery(server: str, recovery: str) -> k3s_recovery.Recovery:
    return k3s_recovery.resume(datastore_of(server)[1].k3s(), recovery)
