"""The reports of the proof flows, as Markdown: a person reads the worst in the first line. No Prefect, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from gxbackup.health import Condition, Finding
from gxbackup.watch import Room, Surroundings
from tasks.pages import cell, human_bytes

_MARKS = {"failing": "🔴 failing", "warning": "🟡 warning", None: "🟢"}


def health_page(conditions: Sequence[Condition], findings: Sequence[Finding], seen: Surroundings, now: datetime) -> str:
    """Tell what is wrong, worst first, then how every promise is kept."""
    lines = [f"# {verdict(findings)}", "", f"Looked at {now:%Y-%m-%d %H:%M} UTC.", ""]
    if findings:
        lines += ["| | what | says | page |", "|---|---|---|---|"]
        lines += [
            f"| {_MARKS[one.level]} | {cell(one.subject)} | {cell(one.message)} | docs/runbooks/{one.runbook}.md |"
            for one in findings
        ] + [""]
    lines += [
        "| | promise | newest good copy | age | at most | size | usually | copies | held | restored to scratch | RTO |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    ordered = sorted(conditions, key=lambda one: {"failing": 0, "warning": 1, None: 2}[one.level()])
    lines += [_condition_row(one) for one in ordered] + [""]
    lines += _surroundings(seen)
    return "\n".join(lines) + "\n"


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
    restored, rto = ("read by people", "") if one.restored_by is None else ("never", "")
    if one.proven is not None:
        restored, rto = f"{one.proven.at:%Y-%m-%d}", f"{one.proven.rto_seconds:.0f} s"
    if one.rehearsal is not None and one.rehearsal.failure is not None:
        restored = f"failed {one.rehearsal.at:%Y-%m-%d}"
    return (
        f"| {mark} | {name} | {one.newest or 'none'} | {age} | {one.rpo_hours:g} h "
        f"| {human_bytes(one.plain_size_bytes)} | {usual} | {one.copies} | {human_bytes(one.held_bytes)} "
        f"| {restored} | {rto} |"
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
