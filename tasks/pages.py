"""The reports that people read, as Markdown. Pure text: no Prefect, no I/O."""

from __future__ import annotations

from collections.abc import Sequence

from gxbackup.contents import lines_told
from gxbackup.model import Artifact, Catalog, Manifest
from gxbackup.overlay import OverlayPlan
from gxbackup.restoring import Chosen
from gxbackup.retention import Plan, explain

CHANGES_TOLD = 40
_TOLD = {"Nobody could look into": "claims_unread", "Only the link is kept of": "folders_outside"}


def human_bytes(size_bytes: float) -> str:
    """Spell a size for people: `1.4 GiB`."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def backup_page(manifest: Manifest, faults: Sequence[str], plan: Plan | None, failure: Exception | None) -> str:
    """Tell how a backup ended, worst first: what is missing, what is safe, what was pruned and why."""
    seconds = (manifest.finished_at - manifest.started_at).total_seconds()
    good = "**Complete and proven.**" if manifest.complete else "**NOT complete.**"
    lines = [
        f"# {manifest.server} {manifest.snapshot}",
        "",
        f"{good} Captured by {manifest.host} in {seconds:.0f} s.",
        "",
    ]
    if faults:
        lines += ["## The past does not fit together", "", *(f"- {fault}" for fault in faults), ""]
    if manifest.missing:
        lines += ["## Missing", "", "| data type | why |", "|---|---|"]
        lines += [f"| {gap.data_type} | {cell(gap.reason)} |" for gap in manifest.missing] + [""]
    for title, key in _TOLD.items():
        if names := [name for artifact in manifest.artifacts for name in lines_told(artifact, key)]:
            lines += [f"## {title}", "", *(f"- {cell(name)}" for name in names), ""]
    lines += [
        "## Safe on the remote",
        "",
        "| data type | file | plain | sealed | evidence | kept |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {artifact.data_type} | {artifact.path} | {human_bytes(artifact.plain_size_bytes)} "
        f"| {human_bytes(artifact.sealed_size_bytes)} | {_evidence(artifact)} | {artifact.keep_days} d |"
        for artifact in manifest.artifacts
    ]
    lines += ["", "## Pruned", ""]
    if failure is not None:
        lines.append(f"Nothing more: {failure}")
    elif plan is not None:
        lines += ["Nothing was pruned while the past does not fit together. The plan would be:", ""] if faults else []
        lines.append(explain(plan))
    return "\n".join(lines) + "\n"


def catalog_page(catalogs: Sequence[Catalog]) -> str:
    """List what the remote holds, newest first, by server."""
    lines: list[str] = ["# Snapshots held", ""]
    for catalog in catalogs:
        lines += [
            f"## {catalog.server} ({catalog.remote_dir})",
            "",
            "| snapshot | state | holds | size |",
            "|---|---|---|---|",
        ]
        rows: dict[str, str] = {}
        for held in catalog.snapshots:
            state = "complete" if held.manifest.complete else "NOT complete"
            size = human_bytes(sum(held.files.values()))
            names = [
                name if all(held.holds(a) or a.held_in for a in held.manifest.of(name)) else f"~~{name}~~"
                for name in held.manifest.data_types()
            ]
            rows[held.snapshot] = f"| {held.snapshot} | {state} | {', '.join(names)} | {size} |"
        for bad in catalog.rejected:
            rows[bad.snapshot] = f"| {bad.snapshot} | **not trusted**: {cell(bad.reason)} | | |"
        for left in catalog.leftovers:
            rows[left.snapshot] = f"| {left.snapshot} | no manifest: running, or cut | {len(left.files)} files | |"
        lines += [rows[snapshot] for snapshot in sorted(rows, reverse=True)] or ["| none | | | |"]
        lines += [f"- not ours, left alone: `{path}`" for path in catalog.strangers] + [""]
    return "\n".join(lines) + "\n"


def prune_page(server: str, plan: Plan, dry_run: bool) -> str:
    """Tell what was, or would be, dropped from one server's folder, and why everything else stays."""
    return f"# Prune {server} ({'dry run: nothing was deleted' if dry_run else 'done'})\n\n{explain(plan)}\n"


def restore_page(chosen: Sequence[Chosen], target: str, mode: str, changes: Sequence[str]) -> str:
    """Tell what a restore would do, or did: which data, how old, how big, what it overwrites."""
    lines = [
        f"# Restore ({mode})",
        "",
        "The target, as it is to be typed for approval:",
        "",
        f"    {target}",
        "",
        "| data type | snapshot | age | download | size |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {choice.data_type} | {choice.server} {choice.snapshot} | {choice.age_hours} h "
        f"| {human_bytes(choice.sealed_size_bytes())} | {human_bytes(choice.plain_size_bytes())} |"
        for choice in chosen
    ]
    remarks = [remark for choice in chosen for remark in choice.remarks]
    lines += ["", *(f"- {cell(line)}" for line in remarks), *(f"- {cell(change)}" for change in changes)]
    return "\n".join(lines) + "\n"


def overlay_in_words(data_type: str, planned: OverlayPlan) -> list[str]:
    """Say what an overlay would do, or did, in a few lines."""
    told = [f"{data_type}: {len(planned.changes)} to put back, {planned.unchanged_count} the same already"]
    told += [change.described() for change in planned.changes[:CHANGES_TOLD]]
    if len(planned.changes) > CHANGES_TOLD:
        told.append(f"… and {len(planned.changes) - CHANGES_TOLD} more")
    if planned.left_alone:
        told.append(f"left alone, this host's identity: {', '.join(planned.left_alone[:CHANGES_TOLD])}")
    return told


def _evidence(artifact: Artifact) -> str:
    shown = {
        name: value for name, value in artifact.evidence.items()
        if isinstance(value, int) and not isinstance(value, bool) and value
    }  # fmt: skip
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def cell(text: str) -> str:
    """Make any text fit into one cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ").replace("\r", " ")
