"""The runbooks as code: plain functions that every backup and every restore flow shares. No flow is defined here."""

from __future__ import annotations

from prefect import runtime
from prefect.logging import get_run_logger

from gxbackup import clock
from gxbackup.errors import BackupError, IntegrityError
from gxbackup.locks import locked
from gxbackup.staging import staging_area
from tasks import host
from tasks.checksum import checksum
from tasks.collect import collect
from tasks.commit import commit
from tasks.compress import compress
from tasks.outcome import Outcome
from tasks.pages import backup_page
from tasks.policy import speak_plainly
from tasks.prune import prune
from tasks.report import publish
from tasks.survey import survey
from tasks.upload import upload
from tasks.verify import verify


def back_up(server: str, only: list[str] | None = None) -> str:
    """
    Put one snapshot of a server on the remote and return its id; fail if anything is missing from it.

    One broken data type never costs the others their backup. Pruning comes last, after all is proven.

    Raises: LockedError at once where another run is at work; IncompleteBackupError, IntegrityError (a broken past)
    after everything that could be saved is saved.
    """
    speak_plainly()
    remote_path = host.inventory().remote.path
    host.inventory().server(server)
    with locked(remote_path, server, f"backup of {server}"), staging_area(server) as area:
        seen = survey(server, only, area)
        outcome = Outcome(seen)
        for data_type in seen.due:
            with outcome.of(data_type):
                for capture in collect(server, data_type):
                    with outcome.of(data_type):
                        sealed = compress(server, data_type, capture, area, seen.last_sealed_bytes)
                        artifact = checksum(server, data_type, sealed, area)
                        upload(data_type, seen.remote_dir, seen.snapshot, [artifact], area)
                        verify(data_type, seen.remote_dir, seen.snapshot, [artifact])
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
        publish(f"backup-{server}", backup_page(manifest, seen.faults, plan, failure), f"{server} {manifest.snapshot}")

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
    return manifest.snapshot
