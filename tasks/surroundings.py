"""Look at what may go wrong beside the backups: CronJobs, room, workers, the clock; as tasks."""

from __future__ import annotations

import shutil

from prefect import task
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from gxbackup import clock, layout
from gxbackup.adapters import cronjobs, ledger_pods, rclone_login
from gxbackup.errors import SetupError
from gxbackup.ledger_watch import LedgerPod, Watched
from gxbackup.staging import staging_root
from gxbackup.watch import CronJobSeen, Login, Room
from tasks import host
from tasks.policy import ONCE
from tasks.survey import prefect_server_time


@task(task_run_name="CronJob {namespace}/{name}", **ONCE)
def look_at_cronjob(namespace: str, name: str) -> CronJobSeen:
    """Ask the cluster when a CronJob succeeded last."""
    return cronjobs.look(host.host().cluster, namespace, name)


@task(task_run_name="{watched.role}s of {watched.namespace}", **ONCE)
def look_at_ledgers(watched: Watched) -> tuple[LedgerPod, ...]:
    """Ask the cluster which peers or orderers run, and where."""
    return ledger_pods.look(host.host().cluster, watched)


@task(task_run_name="room in staging", **ONCE)
def look_at_staging() -> Room:
    """Ask this host's disk what is free for staging."""
    usage = shutil.disk_usage(staging_root())
    return Room(total_bytes=usage.total, free_bytes=usage.free)


@task(task_run_name="room on the remote", **ONCE)
def look_at_remote() -> Room:
    """Ask the remote what is free; some do not tell."""
    quota = host.remote().about()
    return Room(total_bytes=quota.total_bytes, free_bytes=quota.free_bytes)


@task(task_run_name="folders of the remote", **ONCE)
def look_at_folders() -> dict[str, str]:
    """Return the folders in the remote's root that are no server's and hold snapshots: each with the newest."""
    ours = {server.remote_dir.partition("/")[0] for server in host.inventory().servers.values()}
    found: dict[str, str] = {}
    for folder in host.remote().list_folders(""):
        if folder not in ours:
            snapshots = [name for name in host.remote().list_folders(folder) if layout.is_snapshot_id(name)]
            found |= {folder: max(snapshots)} if snapshots else {}
    return found


@task(task_run_name="login of the remote", **ONCE)
def look_at_login() -> Login | None:
    """Read from rclone's configuration how the remote lets us in; None where by no token."""
    return rclone_login.look(host.inventory().remote.path)


@task(task_run_name="workers", **ONCE)
def look_at_pools() -> dict[str, str]:
    """Ask Prefect for the status of every host's work pool: READY where a worker is online."""
    found = {}
    with get_client(sync_client=True) as client:
        for name in dict.fromkeys(settings.pool for settings in host.inventory().hosts.values()):
            try:
                status = client.read_work_pool(name).status
            except ObjectNotFound:
                found[name] = "NOT THERE"
            else:
                found[name] = status.value if status else "UNKNOWN"
    return found


@task(task_run_name="clock", **ONCE)
def look_at_clock() -> float:
    """Return by how many seconds this host's clock is ahead of the Prefect server's; SetupError where none answers."""
    theirs = prefect_server_time()
    if theirs is None:
        raise SetupError("the Prefect server does not tell its time")
    return (clock.now() - theirs).total_seconds()
