"""
What pruning would do, and why: a pure function from a catalog to a plan. No I/O, no clock; deletes nothing.

The unit is a copy: all artifacts of one data type in one snapshot. `docs/reference/retention.md` tells the rules.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from pydantic import Field

from gxbackup import deletions, keep_rules, layout, leftovers
from gxbackup.copies import NOTHING, Copy, Key, copies
from gxbackup.deletions import Folder
from gxbackup.errors import PruneRefusedError
from gxbackup.inventory import Inventory
from gxbackup.keep_rules import Kept, Promise, Rule, Rules
from gxbackup.leftovers import Judged
from gxbackup.model import Catalog, Frozen

LEFTOVERS = "(leftovers)"


class Question(Frozen):
    """All that a plan rests on beside the catalog; asked again of a fresh listing, it shows whether that changed."""

    server: str
    remote_dir: str
    now: datetime
    prune_limit: float
    rules: Rules
    running: bool
    confirm_sha256: str | None


class Decision(Frozen):
    """Whether one copy stays, and why, in words for people."""

    snapshot: str
    data_type: str = Field(description=f"{NOTHING} where the snapshot never held an artifact")
    keep: bool
    rule: Rule
    reason: str
    size_bytes: int = Field(description="of its files in this snapshot's folder; 0 once pruned, or held in another")


class Plan(Frozen):
    """What pruning would do to one server's folder on the remote, in order, and why."""

    question: Question
    decisions: tuple[Decision, ...] = Field(description="newest snapshot first")
    deletions: tuple[str, ...] = Field(description="exact files below the remote's root, in the order of deletion")
    emptied_folders: tuple[str, ...] = Field(description="outermost folders that the deletions leave without a file")
    freed_bytes: int
    kept: int = Field(description="copies that stay")
    dropped: int = Field(description="copies that this plan drops")
    rejected: tuple[str, ...] = Field(description="snapshots that are not trusted: never counted, never deleted")
    strangers: tuple[str, ...] = Field(description="files that we did not write: never deleted")
    waiting: tuple[str, ...] = Field(description="what stays although no promise needs it, and why")
    pins_without_snapshot: tuple[str, ...] = Field(description="what is pinned in the inventory and not there")
    refused: str | None = Field(description="why this plan may not be executed")
    sha256: str = Field(description="of the deletions: what a person confirms")

    def remade(self, held: Catalog) -> Plan:
        """Ask the same question of another listing; raises like `plan`."""
        return _answer(held, self.question)

    def snapshot_of(self, path: str) -> str:
        """Return the id of the snapshot that one of this plan's files or folders lies in."""
        return path.removeprefix(f"{self.question.remote_dir}/").partition("/")[0]


def plan(
    held: Catalog,
    inventory: Inventory,
    now: datetime,
    *,
    rehearsed: Mapping[str, str] | None = None,
    running: bool = False,
    confirm_sha256: str | None = None,
) -> Plan:
    """
    Decide for every copy whether it stays, and list the exact files that go.

    Age counts from the newest good copy of the same data type; `now` judges leftovers and the clock, nothing else.
    `rehearsed` is data type → newest rehearsed snapshot; `running` tells that another run for this server is on. A plan
    over the server's `prune_limit` comes back with `refused` set, unless `confirm_sha256` is its own sha256.

    Raises: PruneRefusedError where clock or listing cannot be trusted, InventoryError for an unknown server.

    Source: design, "Retention".
    """
    server = inventory.server(held.server)
    if held.remote_dir != server.remote_dir:
        raise PruneRefusedError(f"{held.server}: expected a listing of {server.remote_dir}, seen {held.remote_dir}")
    promises = {
        name: Promise(keep_days=entry.keep_days, keep_at_least=entry.keep_at_least, rpo_hours=entry.rpo_hours)
        for name, entry in server.data_types.items()
    }
    question = Question(
        server=held.server,
        remote_dir=held.remote_dir,
        now=now,
        prune_limit=server.prune_limit,
        rules=Rules(promises=promises, rehearsed=dict(rehearsed or {}), pinned=frozenset(server.pinned)),
        running=running,
        confirm_sha256=confirm_sha256,
    )
    return _answer(held, question)


def explain(plan: Plan) -> str:
    """Tell a plan in Markdown: what goes, what stays for another reason than its age, and the rest a line a type."""
    counts = f"{plan.dropped} copies go ({len(plan.deletions)} files, {plan.freed_bytes} bytes), {plan.kept} stay"
    lines = [f"{plan.question.server}: {counts}. Plan `{plan.sha256}`.", ""]
    if plan.refused:
        lines += [f"**Refused: nothing is deleted.** The plan {plan.refused}.", ""]
    shown = [each for each in plan.decisions if each.rule not in {"young", "pruned"}]
    if shown:
        lines += ["| snapshot | data type | decision | why | bytes |", "|---|---|---|---|---|"]
        lines += [
            f"| {each.snapshot} | {each.data_type} | {'keep' if each.keep else '**drop**'} | {each.reason} "
            f"| {each.size_bytes} |"
            for each in sorted(shown, key=lambda each: each.keep)
        ]
        lines.append("")
    young: dict[str, list[str]] = {}
    for each in plan.decisions:
        if each.rule == "young":
            young.setdefault(each.data_type, []).append(each.snapshot)
    lines += [
        f"- {data_type}: {len(snapshots)} more within their promise, {snapshots[-1]} to {snapshots[0]}"
        for data_type, snapshots in sorted(young.items())
    ]
    lines += [f"- not trusted, left alone: {line}" for line in plan.rejected]
    lines += [f"- not ours, left alone: `{path}`" for path in plan.strangers]
    lines += [
        f"- pinned in the inventory, and not on the remote: {snapshot}" for snapshot in plan.pins_without_snapshot
    ]
    lines += [f"- stays for now: {line}" for line in plan.waiting]
    return "\n".join(lines).rstrip() + "\n"


def _answer(held: Catalog, question: Question) -> Plan:
    _require_trust(held, question.now)
    found, rules = copies(held), question.rules
    stay = keep_rules.kept(found, rules, rules.promised)
    left = leftovers.judge(held, found, stay, rules, question.now, question.running)
    losing = deletions.folders(held, found, stay)
    losing += [Folder(each.snapshot, each.files, each.sweep, whole=True) for each in left if each.sweep]
    paths = _spelled(held, [(folder.snapshot, folder.going) for folder in losing])
    emptied = _spelled(held, [(folder.snapshot, folder.emptied()) for folder in losing])
    sha256 = hashlib.sha256(json.dumps([held.remote_dir, paths, emptied]).encode()).hexdigest()
    return Plan(
        question=question,
        decisions=tuple(_decisions(found, stay, losing, rules)),
        deletions=paths,
        emptied_folders=emptied,
        freed_bytes=sum(folder.freed_bytes() for folder in losing),
        kept=sum(1 for key in stay if not found[key].is_gone()),
        dropped=sum(len(folder.dropped) for folder in losing),
        rejected=tuple(f"{bad.snapshot}: {bad.reason}" for bad in held.rejected),
        strangers=tuple(
            dict.fromkeys([*held.strangers, *(f"{each.snapshot}/{path}" for each in left for path in each.strangers)])
        ),
        waiting=tuple(_waiting(held, stay, left)),
        pins_without_snapshot=tuple(sorted(rules.pinned - _ids(held).keys())),
        refused=None if question.confirm_sha256 == sha256 else _refusal(held, found, losing, question),
        sha256=sha256,
    )


def _spelled(held: Catalog, files: Sequence[tuple[str, Sequence[str]]]) -> tuple[str, ...]:
    return tuple(layout.in_snapshot(held.remote_dir, snapshot, path) for snapshot, paths in files for path in paths)


def _ids(held: Catalog) -> Counter[str]:
    found = Counter(each.snapshot for each in held.snapshots)
    found.update(each.snapshot for each in held.leftovers)
    found.update(each.snapshot for each in held.rejected)
    return found


def _require_trust(held: Catalog, now: datetime) -> None:
    for snapshot, times in _ids(held).items():
        if times > 1:
            raise PruneRefusedError(
                f"{held.remote_dir}/{snapshot}: expected one folder of this name, seen {times}",
                "one path names them all: merge or rename them by hand",
            )
    for each in held.snapshots:
        if (each.server, each.remote_dir) != (held.server, held.remote_dir):
            raise PruneRefusedError(
                f"{each.snapshot}: expected a snapshot of {held.server} in {held.remote_dir}, "
                f"seen one of {each.server} in {each.remote_dir}"
            )
    newest = max((layout.snapshot_time(each.snapshot) for each in held.snapshots), default=now)
    if newest > now + layout.NAMED_AHEAD:
        raise PruneRefusedError(
            f"clock: expected later than the newest snapshot of {held.server}, {newest:%Y-%m-%d %H:%M:%S} UTC, "
            f"seen {now:%Y-%m-%d %H:%M:%S} UTC",
            "is this host's clock slow, or was the one that named the snapshot fast? `timedatectl` tells",
        )


def _decisions(found: Mapping[Key, Copy], stay: Kept, losing: Sequence[Folder], rules: Rules) -> list[Decision]:
    dropped = {key for folder in losing for key in folder.dropped}
    newest = keep_rules.newest_good(found.values())
    decisions = []
    for key, copy in sorted(found.items(), reverse=True):
        rule: Rule
        if key in stay:
            rule, reason = stay[key]
            if copy.is_gone():
                rule, reason = "absent", f"absent: lost, or pruned under a shorter promise; {reason}"
        else:
            age = keep_rules.compare(newest[copy.data_type] - copy.time, rules.promised(copy))
            rule, reason = ("expired", f"expired: {age}") if key in dropped else ("pruned", f"pruned before: {age}")
        decisions.append(
            Decision(
                snapshot=copy.held.snapshot,
                data_type=copy.data_type,
                keep=key in stay,
                rule=rule,
                reason=reason,
                size_bytes=copy.size_bytes(),
            )
        )
    return decisions


def _waiting(held: Catalog, stay: Kept, left: Sequence[Judged]) -> list[str]:
    with_copies = {snapshot for snapshot, _ in stay}
    return [f"{each.snapshot}: no manifest: {each.waits}" for each in left if each.waits] + [
        f"{each.snapshot}: its manifest, for files lie there that are not ours: {', '.join(foreign[:3])}"
        for each in held.snapshots
        if each.snapshot not in with_copies and (foreign := deletions.foreign(each))
    ]


def _refusal(held: Catalog, found: Mapping[Key, Copy], losing: Sequence[Folder], question: Question) -> str | None:
    """
    Say why a plan may not be executed, or None.

    A drop is usual where the promise that its manifest was written under ran out within the last day and RPO: that is
    what time alone brings, also after a day's outage. Beside those, one drop of each data type needs no question.
    With more, the whole plan is held against the limit: bytes, snapshots, and the copies of each data type.
    """
    dropped = [key for folder in losing for key in folder.dropped]
    rules = question.rules
    by_promise = keep_rules.kept(found, rules, rules.written)
    a_day_ago = keep_rules.kept(found, rules, rules.written_and_caught_up)
    unusual = Counter(key[1] for key in dropped if key in by_promise or key not in a_day_ago)
    unusual[LEFTOVERS] = len({folder.snapshot for folder in losing} & {each.snapshot for each in held.leftovers})
    if max(unusual.values()) <= 1:
        return None
    sizes = [sum(each.files.values()) for each in held.snapshots]
    sizes += [sum(each.files.values()) for each in held.leftovers]
    shares = [
        ("bytes", sum(folder.freed_bytes() for folder in losing), sum(sizes)),
        ("snapshots", sum(1 for folder in losing if folder.whole), len(sizes)),
    ]
    copies_held = Counter(copy.data_type for copy in found.values() if not copy.is_gone())
    shares += [(f"copies of {name}", lost, copies_held[name]) for name, lost in Counter(k[1] for k in dropped).items()]
    over = [
        f"{part} of {whole} {what} ({part / whole:.0%})"
        for what, part, whole in shares
        if part > question.prune_limit * whole
    ]
    return f"would drop {', '.join(over)}; the limit is {question.prune_limit:.0%}" if over else None
