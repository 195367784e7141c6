"""The runbooks as code: plain functions that every backup and every restore flow shares. No flow is defined here."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from secrets import token_hex

from prefect import runtime
from prefect.logging import get_run_logger

from gxbackup import clock, exchange, overlay, restoring, safety
from gxbackup.errors import BackupError, IntegrityError, RestoreError
from gxbackup.locks import locked
from gxbackup.staging import drop, require_room, staging_area, staging_root
from tasks import deadman, host, metrics
from tasks.approval import approve_or_refuse
from tasks.catalogs import list_catalog
from tasks.checksum import checksum
from tasks.choose import choose
from tasks.collect import collect
from tasks.commit import commit
from tasks.compress import compress
from tasks.download import download
from tasks.kept_copies import kept_copies_section
from tasks.outcome import Outcome
from tasks.pages import backup_page, catalog_page, overlay_in_words, prune_page, restore_page
from tasks.policy import speak_plainly
from tasks.prune import prune
from tasks.report import publish
from tasks.restore import (
    apply_overlay,
    difference,
    look_for_container,
    plan_overlay,
    preview,
    put_in_place,
    recover_overlay,
    restart,
    unpack,
)
from tasks.reuse import reuse
from tasks.survey import survey
from tasks.upload import upload
from tasks.verify import verify

# A person has approved by then, and a backup is no reason to ask again.
_SECONDS_FOR_A_BACKUP_TO_END = 30 * 60


def back_up(
    server: str, only: list[str] | None = None, rpo_hours: float | None = None, without: list[str] | None = None
) -> str:
    """
    Put one snapshot of a server on the remote and return its id; fail if anything is missing from it.

    One broken data type never costs the others their backup. Pruning comes last, after all is proven. With `rpo_hours`
    just the data types that are promised so often are taken, and one whose content equals its last good copy is
    recorded as such and not sent again. `without` names what another run of this server takes.

    Raises: LockedError at once where another run is at work; IncompleteBackupError, IntegrityError (a broken past)
    after everything that could be saved is saved.
    """
    speak_plainly()
    remote_path = host.inventory().remote.path
    only = _promised_so_often(server, rpo_hours) if only is None else only
    with locked(remote_path, server, f"backup of {server}"), staging_area(server) as area:
        seen = survey(server, only, without or [], area)
        if not seen.due:
            get_run_logger().info("%s: nothing is due today", server)
            return ""
        outcome = Outcome(seen)
        for data_type in seen.due:
            with outcome.of(data_type):
                for capture in collect(server, data_type, seen.last_good):
                    with outcome.of(data_type):
                        sealed = compress(server, data_type, capture, area, seen.last_sealed_bytes)
                        try:
                            artifact = checksum(server, data_type, seen.snapshot, sealed, area)
                            if rpo_hours is not None:
                                earlier = seen.last_good.get(artifact.path)
                                artifact = reuse(data_type, seen.remote_dir, artifact, earlier)
                            if artifact.held_in is None:
                                upload(data_type, seen.remote_dir, seen.snapshot, [artifact], area)
                                verify(data_type, seen.remote_dir, seen.snapshot, [artifact])
                        finally:
                            drop(area, [part.path for part in sealed.parts])
                        outcome.artifacts.append(artifact)
                        for shortfall in sealed.shortfalls:
                            outcome.miss(data_type, shortfall)

        manifest = outcome.manifest(runtime.flow_run.id, clock.now())
        commit(manifest, seen.remote_dir, area)
        plan = failure = None
        try:
            plan = prune(server, area, dry_run=bool(seen.faults))
        except BackupError as error:
            failure = error
        page = backup_page(manifest, seen.faults, plan, failure) + kept_copies_section(server)
        publish(f"backup-{server}", page, f"{server} {manifest.snapshot}")
        succeeded = manifest.complete and not seen.faults and failure is None
        metrics.of_run(server, manifest, None if seen.faults else plan, succeeded=succeeded)

    outcome.require_complete()
    if seen.faults:
        raise IntegrityError(
            f"{server}: the past does not fit together: {'; '.join(seen.faults)}",
            "this run's snapshot is good; nothing was pruned",
            "was a snapshot removed or edited by hand, or by a stranger? see docs/runbooks/broken-chain.md",
        )
    if failure is not None:
        raise failure
    get_run_logger().info("%s %s is complete and proven", server, manifest.snapshot)
    deadman.ping(runtime.flow_run.flow_name)
    return manifest.snapshot


def _promised_so_often(server: str, rpo_hours: float | None) -> list[str] | None:
    promised = host.inventory().server(server).data_types
    if rpo_hours is None:
        return None
    return [name for name, promise in promised.items() if promise.rpo_hours <= rpo_hours]


def restore_tree(
    server: str, data_type: str, snapshot: str, target: str, mode: str, approve: bool, restart_container: str = ""
) -> None:
    """
    Put one file tree back as a whole: planned, to scratch, or in place of what is there, in one step.

    Until that step nothing is touched; the tree that it replaces stays beside it. Where the container does not come
    back, the proven tree stays, and the error names what it replaced. What in-place would refuse, plan refuses too, or
    tells (no such container). Once approved it waits up to 30 min for a backup that is on.

    Raises: RestoreRefusedError, RestoreError, IntegrityError, SealingError, RemoteError, LockedError.
    """
    speak_plainly()
    host.identity_file()
    if mode == "in-place" and not target:
        host.refuse_another_host(server)
    with staging_area(f"restore-{server}") as area:
        chosen = choose(server, data_type, snapshot, area)
        where = Path(target or restoring.origin(chosen))
        restarts = restart_container if str(where) == restoring.origin(chosen) and mode != "scratch" else ""
        first = look_for_container(restarts, refuse=mode == "in-place") if restarts else []
        first += [] if target else restoring.not_mounted(chosen)
        key = f"restore-{data_type}"
        if mode == "scratch":
            into = restoring.scratch_directory(target)
            exchange.require_room(into, chosen.plain_size_bytes())
            download(chosen, area)
            unpack(chosen, area, into)
            tell(key, restore_page([chosen], str(into), mode, ["unpacked; evidence equal"]))
            return
        exchange.check(where, chosen.plain_size_bytes())
        download(chosen, area)
        if mode == "plan":
            changes = restoring.in_words(preview(chosen, area, where))
            tell(key, restore_page([chosen], str(where), mode, [*first, *changes, "nothing was touched"]))
            return
        with exchange.prepare(where, chosen.plain_size_bytes()) as prepared:
            unpack(chosen, area, prepared)
            page = restore_page([chosen], str(where), mode, first + restoring.in_words(difference(prepared, where)))
            tell(key, page)
            approve_or_refuse(str(where), page, approve)
            with locked_by_restore(server, data_type):
                before = put_in_place(prepared, where)
    kept = f"what was there lies in {before}" if before else "nothing was there before"
    if restarts:
        try:
            restart(restarts)
        except BackupError as error:
            raise RestoreError(
                f"{where}: restored and proven, but its container did not come back: {error.message}",
                kept, *error.hints, f"then restart it by hand: docker restart {restarts}",
            ) from None  # fmt: skip
    tell(key, f"{page}- restored; evidence equal; {kept}\n")


def restore_overlay(
    server: str,
    data_types: list[str] | None,
    snapshot: str,
    only: list[str] | None,
    target: str,
    mode: str,
    approve: bool,
    with_identity: bool,
) -> None:
    """
    Put a host's own files back over a live root, file by file; nothing is deleted.

    All data types are unpacked, proven and planned before the first file is touched; where one of them fails or all is
    killed, those before it are put back too. A killed one is told of on the page. What in-place would refuse, plan
    refuses too.

    Raises: RestoreRefusedError, RestoreError, IntegrityError, SealingError, RemoteError, LockedError.
    """
    speak_plainly()
    host.identity_file()
    promised = host.inventory().server(server).data_types
    if mode == "in-place" and not target:
        host.refuse_another_host(server)
    ours = [name for name, promise in promised.items() if promise.restore_flow == "restore-host-config"]
    with staging_area(f"restore-{server}") as area:
        names = restoring.select(list_catalog(server, area), ours, data_types, snapshot)
        chosen = {name: choose(server, name, snapshot, area) for name in names}
        root = Path(target or restoring.origin(chosen[names[0]]))
        scratch = restoring.scratch_directory(target) if mode == "scratch" else area / "trees"
        needed_bytes = sum(choice.plain_size_bytes() for choice in chosen.values())
        if mode == "scratch":
            exchange.require_room(scratch, needed_bytes)
        else:
            require_room(area, needed_bytes, "the unpacked trees")
        prepared = {name: scratch / name for name in names}
        for name, choice in chosen.items():
            download(choice, area)
            prepared[name].mkdir(mode=0o700, parents=True)
            unpack(choice, area, prepared[name])
        if mode == "scratch":
            tell("restore-host-config", restore_page(list(chosen.values()), target, mode, ["unpacked; evidence equal"]))
            return
        safety_dir = staging_root().parent / "safety"
        safety.require_private(safety_dir)
        wanted = restoring.share_out(only or [], prepared)
        without = restoring.more_specific(chosen)
        plans = {
            name: plan_overlay(name, tree, root, wanted[name], without[name], with_identity)
            for name, tree in prepared.items()
            if wanted[name] or not only
        }
        changes = [line for name, planned in plans.items() for line in overlay_in_words(name, planned)]
        first = [f"before anything else: {line}" for line in overlay.unended(root, safety_dir)]
        page = restore_page(list(chosen.values()), str(root), mode, first + changes)
        tell("restore-host-config", page)
        if mode == "plan":
            return
        approve_or_refuse(str(root), page, approve)
        kept: list[Path] = []
        restore = token_hex(8)
        with locked_by_restore(server, ", ".join(plans)):
            told = overlay.unended(root, safety_dir)
            if undone := recover_overlay(root, safety_dir):
                raise RestoreError(
                    f"{root}: a restore that was killed has been put back first, from {', '.join(map(str, undone))}",
                    *told,
                    f"what lay there until now, edits since too, is in {', '.join(map(str, safety.found(undone)))}",
                    "nothing else was touched; look at the plan again, then start once more",
                )
            try:
                for name, planned in plans.items():
                    kept.append(apply_overlay(name, planned, safety_dir, restore))
                overlay.finish(kept)
            except BaseException:
                # Not as a task: what stopped us may be the Prefect server, or a signal.
                overlay.undo(root, safety_dir, restore)
                raise
    tell("restore-host-config", f"{page}- put back; what was overwritten lies in {', '.join(map(str, kept))}\n")


def list_held(server: str) -> None:
    """Show the snapshots that the remote holds for one server, or for all."""
    speak_plainly()
    names = list(host.inventory().servers) if server == "all" else [server]
    for name in names:
        host.inventory().server(name)
    with staging_area("list") as area:
        tell("snapshots", catalog_page([list_catalog(name, area) for name in names]))


def prune_by_hand(server: str, dry_run: bool, confirm: str | None) -> None:
    """
    Plan what a server no longer needs to hold, and drop it unless it is a dry run.

    Raises: SetupError where this is not the server's own host, whose lock keeps prunes and backups apart.
    """
    speak_plainly()
    settings = host.inventory().server(server)
    if not dry_run:
        host.require_own_host(settings.runs_on)
    with locked(host.inventory().remote.path, server, f"prune of {server}"), staging_area(f"prune-{server}") as area:
        plan = prune(server, area, dry_run, confirm)
    tell(f"prune-{server}", prune_page(server, plan, dry_run) + kept_copies_section(server))


def locked_by_restore(server: str, what: str) -> AbstractContextManager[None]:
    """Hold a server for a restore that a person approved; a backup that is on is waited for."""
    return locked(
        host.inventory().remote.path, server, f"restore of {what}",
        wait_seconds=_SECONDS_FOR_A_BACKUP_TO_END, tell=get_run_logger().warning,
    )  # fmt: skip


def tell(key: str, page: str) -> None:
    """Show a page in the UI and in the log: at 3 a.m. there may be no UI."""
    publish(key, page, page.splitlines()[0].removeprefix("# "))
    get_run_logger().info("\n%s", page)
