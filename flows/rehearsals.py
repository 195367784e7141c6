"""Rehearsals and the drill as their runbooks read: every data type to scratch, measured. No flow is defined here."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path

from prefect.logging import get_run_logger

from flows.proofs import checking, end
from flows.recipes import tell
from gxbackup import clock, drill
from gxbackup.drill import Step
from gxbackup.errors import words
from gxbackup.health import Finding
from gxbackup.proofs import Rehearsal
from gxbackup.restoring import Chosen
from gxbackup.staging import staging_area
from tasks import deadman, host
from tasks.catalogs import list_catalog
from tasks.choose import choose
from tasks.download import download
from tasks.policy import speak_plainly
from tasks.proof_pages import drill_page
from tasks.proofs import record_proofs
from tasks.restore import unpack
from tasks.restore_data import open_data, rehearse_data


def rehearse_all(data_types: list[str] | None = None) -> None:
    """
    Restore the newest good copy of every data type to scratch, compare evidence, measure; fail where one does not.

    Raises: InventoryError for a named one that no flow restores, before anything is done; UnprovenError naming those
    that could not be restored; the others were.
    """
    _restore_all("rehearse-restores", "Rehearsal", data_types, dependency=False)


def drill_all() -> None:
    """
    Restore everything from the remote alone, in the order that a lost system needs, to scratch; one report.

    Raises: UnprovenError naming those that could not be restored; the others were.
    """
    _restore_all("drill-disaster-recovery", "Disaster recovery drill", None, dependency=True)


def _restore_all(key: str, title: str, only: list[str] | None, *, dependency: bool) -> None:
    speak_plainly()
    host.identity_file()
    found: list[Finding] = []
    steps: list[Step] = []
    for server, data_type in drill.in_order(host.inventory(), only, dependency=dependency):
        steps.append(_step(server, data_type))
        found += drill.findings(steps[-1])
    _record(steps, found)
    tell(key, drill_page(title, steps, found))
    end(found)
    if not only:  # some of them say nothing of the others
        deadman.ping(key)


def _step(server: str, data_type: str) -> Step:
    """Restore one data type to scratch; whatever goes wrong is in the step, and ends no other."""
    promise = host.inventory().data_type(server, data_type)
    chosen: Chosen | None = None
    told: list[str] = []
    failure = None
    started = time.monotonic()
    try:
        with staging_area(f"rehearse-{server}-{data_type}") as area:
            chosen = choose(server, data_type, "latest", area)
            download(chosen, area)
            told = _to_scratch(server, chosen, area)
    except Exception as error:  # noqa: BLE001 - it hides nothing: the step is failed, and so is the run
        failure = words(error)
        get_run_logger().warning("%s %s: %s", server, data_type, error)
    rehearsal = None
    if chosen is not None:
        seconds = round(time.monotonic() - started, 3)
        rehearsal = Rehearsal(snapshot=chosen.snapshot, at=clock.now(), rto_seconds=seconds, failure=failure)
    return Step(
        server=server,
        data_type=data_type,
        rpo_hours=promise.rpo_hours,
        rto_hours=promise.rto_hours,
        age_hours=chosen.age_hours if chosen else None,
        rehearsal=rehearsal,
        failure=failure,
        told=tuple(told),
    )


def _to_scratch(server: str, chosen: Chosen, area: Path) -> list[str]:
    if host.inventory().data_type(server, chosen.data_type).source.kind == "directory":
        into = area / "scratch"
        into.mkdir(mode=0o700)
        unpack(chosen, area, into)
        return ["unpacked; evidence equal"]
    return rehearse_data(server, open_data(server, chosen, area, {}))


def _record(steps: list[Step], found: list[Finding]) -> None:
    by_server: dict[str, dict[str, Rehearsal]] = defaultdict(dict)
    for step in steps:
        if step.rehearsal is not None:
            by_server[step.server][step.data_type] = step.rehearsal
    with staging_area("record") as area:
        for server, rehearsals in by_server.items():
            with checking(f"{server} proofs", found):
                record_proofs(list_catalog(server, area), [], rehearsals, area)
