"""Restore: the steps that put file trees back, as tasks."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from gxbackup import exchange, kept_copies, overlay, restoring, safety, trees
from gxbackup.errors import RestoreRefusedError
from gxbackup.overlay import OverlayPlan
from gxbackup.restoring import Chosen
from gxbackup.staging import staging_root
from gxbackup.trees import TreeDifference
from tasks import host
from tasks.policy import ONCE


@task(task_run_name="preview {chosen.data_type}", **ONCE)
def preview(chosen: Chosen, area: Path, target: Path) -> TreeDifference:
    """Open the download, check all of it, and say what it would change; nothing is unpacked."""
    return restoring.preview(chosen.artifacts[0], area, host.identity_file(), target)


@task(task_run_name="unpack {chosen.data_type} into {into}", **ONCE)
def unpack(chosen: Chosen, area: Path, into: Path) -> None:
    """Unpack where nobody uses it yet, and prove it against the manifest's evidence."""
    restoring.unpack(chosen.artifacts[0], area, host.identity_file(), into)


@task(task_run_name="compare with {target}", **ONCE)
def difference(tree: Path, target: Path) -> TreeDifference:
    """Say what would change if the proven tree took the target's place."""
    return trees.difference(tree, target)


@task(task_run_name="exchange {target}", **ONCE)
def put_in_place(prepared: Path, target: Path) -> Path | None:
    """Put the proven tree in the target's place in one step; return where the old one lies now."""
    safety_dir = staging_root().parent / "safety"
    safety.require_private(safety_dir)
    kept_copies.note(target, safety_dir)
    return exchange.exchange(prepared, target)


@task(task_run_name="look for {container}", **ONCE)
def look_for_container(container: str, *, refuse: bool) -> list[str]:
    """Tell, before anything is replaced, where the container to be restarted is not there; or refuse to go on."""
    if not (absent := host.host().containers.why_absent(container)):
        return []
    hint = 'give `restart_container` empty where there is none (`--restart-container ""`)'
    if refuse:
        raise RestoreRefusedError(f"{absent}; nothing was replaced", "`docker ps --all` lists those there are", hint)
    return [f"in-place will be refused: {absent}; {hint}"]


@task(task_run_name="restart {container}", **ONCE)
def restart(container: str) -> None:
    """Restart a container and wait until it runs again."""
    host.host().containers.restart(container, timeout_seconds=120)


@task(task_run_name="plan {data_type} over {root}", **ONCE)
def plan_overlay(
    data_type: str,  # noqa: ARG001 - it names the task run
    prepared: Path,
    root: Path,
    only: list[str],
    without: list[str],
    with_identity: bool,
) -> OverlayPlan:
    """Say, file by file, what putting the proven tree over a live root would change."""
    return overlay.plan(prepared, root, only, without=without, with_identity=with_identity)


@task(task_run_name="overlay {data_type}", **ONCE)
def apply_overlay(
    data_type: str,  # noqa: ARG001 - it names the task run
    planned: OverlayPlan,
    safety_dir: Path,
    restore: str,
) -> Path:
    """Copy what will be overwritten to safety, put the files back one by one, prove them; undone on failure."""
    return overlay.apply(planned, safety_dir, restore)


@task(task_run_name="recover {root}", **ONCE)
def recover_overlay(root: Path, safety_dir: Path) -> list[Path]:
    """Put back first what a killed restore left half done."""
    return overlay.recover(root, safety_dir)
