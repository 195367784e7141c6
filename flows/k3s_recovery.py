"""The recovery of a whole K3s cluster, as its runbook reads. No flow is defined here."""

from __future__ import annotations

from prefect.logging import get_run_logger

from flows.data_recipe import restore_data
from flows.recipes import tell
from gxbackup.errors import RestoreRefusedError
from gxbackup.locks import locked
from gxbackup.staging import staging_area
from tasks import host
from tasks.approval import approve_or_refuse
from tasks.choose import choose
from tasks.download import download
from tasks.k3s_recovery import (
    Step,
    begin,
    compare,
    datastore_of,
    finish,
    on_server,
    recover_first,
    require_reachable,
    step_here,
)
from tasks.pages import restore_page
from tasks.policy import speak_plainly
from tasks.restore_data import open_data, preview_data

KEY = "restore-k3s-cluster"


def recover_cluster(server: str, snapshot: str, mode: str, role: str, approve: bool) -> None:
    """
    Make a cluster anew from a snapshot: stop all servers, restore the first, let the others join it, compare.

    Before the first server is stopped, all is fetched, opened and proven, every other host can be reached, and a person
    approved. Every step is noted on its host: run again after a cut, it goes on.

    Raises: RestoreRefusedError, RestoreError, IntegrityError, SealingError, RemoteError, LockedError.
    """
    speak_plainly()
    data_type, source = datastore_of(server)
    if mode != "in-place":
        restore_data(server, data_type, snapshot, mode, approve)
        return
    host.identity_file()
    host.refuse_another_host(server)
    others = source.other_servers if role == "all" else ()
    if others:
        require_reachable(server, snapshot)
    with staging_area(f"restore-{server}") as area:
        chosen = choose(server, data_type, snapshot, area, {})
        download(chosen, area)
        work = open_data(server, chosen, area, {})
        target, changes = preview_data(server, work)
        page = restore_page([chosen], target, mode, changes)
        tell(KEY, page)
        approve_or_refuse(target, page, approve)
        with locked(host.inventory().remote.path, server, f"recovery of {server}"):
            recovery = begin(server, chosen.snapshot)
            get_run_logger().info("%s: every step is noted under this name", recovery)
            for name in others:
                on_server(server, name, "stop", recovery)
            done = recover_first(server, work, recovery)
            for name in others:
                done += on_server(server, name, "join", recovery)
            done += compare(server, work)
            finish(server, recovery)
    tell(KEY, page + "".join(f"- {line}\n" for line in done))


def recover_server(host_name: str, step: Step, server: str, recovery: str, approve: bool) -> None:
    """
    Do one step of a recovery on a server that is not the first: stop it, or let it join the restored one.

    Raises: RestoreRefusedError where this host is not that server, or it is the first one.
    """
    speak_plainly()
    _, source = datastore_of(server)
    if host_name not in source.other_servers:
        others = ", ".join(source.other_servers) or "none"
        raise RestoreRefusedError(
            f"{host_name}: is not one of the other K3s servers of {server} ({others})",
            "the first server is recovered by restore-k3s-cluster: its database is the one that the others join",
        )
    host.refuse_another_host(host_name)
    k3s = source.k3s()
    page = restore_page([], str(k3s.database_dir), step, [f"{step} K3s on {host_name}; its database is set aside"])
    if step == "look":
        tell("recover-k3s-server", f"{page}- nothing was touched\n")
        return
    approve_or_refuse(str(k3s.database_dir), page, approve)
    with locked(host.inventory().remote.path, f"k3s-{host_name}", f"recovery of K3s on {host_name}"):
        done = step_here(server, step, recovery)
    tell("recover-k3s-server", page + "".join(f"- {line}\n" for line in done))
