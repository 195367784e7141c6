"""The reports of the proof flows, as Markdown: a person reads the worst in the first line. No Prefect, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from gxbackup import drill, health
from gxbackup.drill import Step
from gxbackup.health import Condition, Finding, Level
from gxbackup.watch import Room, Surroundings
from tasks.pages import cell, human_bytes

_MARKS = {"failing": "🔴 failing", "warning": "🟡 warning", None: "🟢 well"}
_RANKS = {"failing": 0, "warning": 1, None: 2}


def health_page(conditions: Sequence[Condition], findings: Sequence[Finding], seen: Surroundings, now: datetime) -> str:
    """Tell what is wrong, worst first, then how every promise is kept."""
    lines = [f"# {verdict(findings)}", "", f"Looked at {now:%Y-%m-%d %H:%M} UTC.", ""]
    lines += [
        *_finding_rows(findings),
        (
            "| | promise | newest good copy | age | RPO | size | usually | copies | held "
            "| restored to scratch | RTO | RTO promised |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    ordered = sorted(conditions, key=lambda one: _RANKS[one.level()])
    lines += [_condition_row(one) for one in ordered] + [""]
    lines += _surroundings(seen)
    return "\n".join(lines) + "\n"


def verification_page(title: str, findings: Sequence[Finding], lines: Sequence[str]) -> str:
    """Tell what is rotten or missing, then what was looked at."""
    head = f"{title}: {'all is as it was sent' if not findings else f'{len(findings)} faults'}"
    return "\n".join([f"# {head}", "", *_finding_rows(findings), *(f"- {cell(line)}" for line in lines)]) + "\n"


def drill_page(title: str, steps: Sequence[Step], findings: Sequence[Finding]) -> str:
    """Tell for every data type what would be lost now and how long it takes to be back, worst first."""
    failed = sum(step.failure is not None for step in steps)
    word = "all restored, evidence equal" if not failed else f"{failed} of {len(steps)} could not be restored"
    late, slow = sum(step.is_late() for step in steps), sum(step.is_slow() for step in steps)
    lines = [
        f"# {title}: {word}",
        "",
        f"Back after {drill.total_seconds(steps):.0f} s, here. Beside the promises: {late} too old, {slow} too slow.",
        "",
        *_finding_rows(health.worst_first(findings)),
        "| | step | data type | snapshot | lost (RPO) | RPO promised | back within (RTO) | RTO promised | seen |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    numbered = sorted(enumerate(steps, 1), key=lambda one: _RANKS[_level(one[1])])
    return "\n".join([*lines, *(_step_row(number, step) for number, step in numbered)]) + "\n"


def _step_row(number: int, step: Step) -> str:
    lost = f"{step.age_hours:g} h" if step.age_hours is not None else "everything"
    snapshot, back = "none", "never"
    if step.rehearsal is not None:
        snapshot = step.rehearsal.snapshot
        back = f"{step.rehearsal.rto_seconds:.1f} s" if step.failure is None else "never"
    mark = _MARKS[_level(step)]
    seen = step.failure or "; ".join(step.told)
    name = f"{step.server} {step.data_type}"
    return (
        f"| {mark} | {number} | {name} | {snapshot} | {lost} | {step.rpo_hours:g} h | {back} "
        f"| {step.rto_hours:g} h | {cell(seen)} |"
    )


def _level(step: Step) -> Level | None:
    if step.failure is not None:
        return "failing"
    return "warning" if step.is_late() or step.is_slow() else None


def _finding_rows(findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return []
    return [
        "| | what | says | page |",
        "|---|---|---|---|",
        *(
            f"| {_MARKS[one.level]} | {cell(one.subject)} | {cell(one.message)} | docs/runbooks/{one.runbook}.md |"
            for one in findings
        ),
        "",
    ]


def verdict(findings: Sequence[Finding]) -> str:
    """Say in a few words how things stand."""
    failing = sum(one.level == "failing" for one in findings)
    warning = len(findings) - failing
    if not findings:
        return "All backups are well"
    told = [f"{count} {word}" for count, word in ((failing, "failing"), (warning, "to look at this week")) if count]
    return f"Backups: {', '.join(told)}"


def _condition_row(one: Condition) -> str:
    age = f"{one.age_hours:.1f} h" if one.age_hours is not None else "never"
    mark, name = _MARKS[one.level()], f"{one.server} {one.data_type}"
    usual = human_bytes(one.usual_size_bytes) if one.usual_size_bytes is not None else ""
    restored, rto, rto_limit = "never", "", f"{one.rto_hours:g} h"
    if one.restored_by is None:
        restored, rto_limit = "read by people", ""
    if one.proven is not None:
        restored, rto = f"{one.proven.at:%Y-%m-%d}", f"{one.proven.rto_seconds:.0f} s"
    if one.rehearsal is not None and one.rehearsal.failure is not None:
        restored = f"failed {one.rehearsal.at:%Y-%m-%d}"
    return (
        f"| {mark} | {name} | {one.newest or 'none'} | {age} | {one.rpo_hours:g} h "
        f"| {human_bytes(one.plain_size_bytes)} | {usual} | {one.copies} | {human_bytes(one.held_bytes)} "
        f"| {restored} | {rto} | {rto_limit} |"
    )


def _surroundings(seen: Surroundings) -> list[str]:
    lines = [f"- staging: {_room(seen.staging)}", f"- remote: {_room(seen.remote)}"]
    workers = ", ".join(f"{pool} {status.lower()}" for pool, status in seen.pools.items())
    lines.append(f"- workers: {workers or 'not asked: this run was started by hand'}")
    for cronjob in seen.cronjobs:
        last = f"{cronjob.last_success:%Y-%m-%d %H:%M} UTC" if cronjob.last_success else "none known"
        lines.append(f"- {cronjob.subject()}: last success {last}")
    if seen.clock_offset_seconds is not None:
        lines.append(f"- clock: {seen.clock_offset_seconds:+.0f} s")
    return lines


def _room(room: Room | None) -> str:
    if room is None or room.free_bytes is None:
        return "not told"
    total = f" of {human_bytes(room.total_bytes)}" if room.total_bytes else ""
    return f"{human_bytes(room.free_bytes)}{total} free"
