"""What a restore of objects would change, and whether the server would take it: it is asked, and keeps nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from gxbackup.adapters.kubernetes_answers import ApiRefusalError
from gxbackup.cluster_objects.choosing import ChosenObjects, Verdict
from gxbackup.cluster_objects.cleaning import without_node_ports
from gxbackup.cluster_objects.naming import Kind, Object, listed, name_of
from gxbackup.errors import RestoreError, RestoreRefusedError

LINES_SHOWN = 200
PATHS_SHOWN = 5


@dataclass
class Survey:
    """What applying would do, as the server itself says."""

    added: int = 0
    changed: int = 0
    same: int = 0
    not_for_restore: int = 0
    left_out: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def note(self, line: str) -> None:
        """Keep a line for people; only so many."""
        if len(self.lines) < LINES_SHOWN:
            self.lines.append(line)

    def require_applicable(self) -> None:
        """Raise RestoreRefusedError naming what the server would not take."""
        if self.refused:
            raise RestoreRefusedError(
                f"kubernetes objects: {len(self.refused)} of them cannot be applied, so nothing was touched: "
                f"{listed(self.refused)}",
                "go on without them by leave_out, each spelled as here but with a slash for the space; what cannot be "
                "changed in place, delete by hand first",
            )

    def in_words(self) -> list[str]:
        """Return what a person reads before approving."""
        words = [f"{self.added} objects are added, {self.changed} changed, {self.same} are the same; none is deleted"]
        if self.not_for_restore:
            words.append(
                f"{self.not_for_restore} objects of the snapshot stay out: made by the cluster itself, or ended Jobs"
            )
        if self.left_out:
            words.append(f"left out, as asked for: {len(self.left_out)} objects: {listed(self.left_out)}")
        words += self.lines
        if (hidden := self.added + self.changed - len(self.lines)) > 0:
            words.append(f"… and {hidden} more")
        if self.unchecked:
            words.append(f"not checked before they are applied: {listed(self.unchecked)}")
        if self.extra:
            words.append(extra_in_words(self.extra))
        return words


def survey(chosen: ChosenObjects) -> Survey:
    """
    Ask the server what applying each object would change.

    Raises: RestoreRefusedError where the options name what the snapshot does not hold.
    """
    seen = Survey()
    states: dict[str, str] = {}
    for wanted in chosen:
        kind = chosen.served(wanted)
        try:
            if kind is None:
                _look_at_unserved(chosen, wanted, seen)
            elif obstacle := _obstacle(chosen, wanted, states):
                seen.refused.append(f"{name_of(wanted)}: {obstacle}")
            else:
                _look_at(chosen, kind, wanted, seen, states)
        except ApiRefusalError as error:
            seen.refused.append(f"{name_of(wanted)}: {error.message}")
    chosen.choice.require_all_matched()
    seen.not_for_restore = chosen.not_for_restore
    seen.left_out = sorted(chosen.choice.left_out)
    return seen


def rehearse(chosen: ChosenObjects) -> list[str]:
    """
    Let the server judge each object as if it were new; say how many it accepts, and which it does not judge.

    Raises: RestoreError naming those it refuses.
    """
    verdicts: Counter[Verdict] = Counter()
    unchecked: list[str] = []
    refused: list[str] = []
    for wanted in chosen:
        kind = chosen.served(wanted)
        try:
            if kind is None and not chosen.is_defined(wanted):
                refused.append(chosen.unserved(wanted))
                continue
            # A port of the nodes is taken by the live Service itself.
            verdict = chosen.try_as_new(kind, without_node_ports(wanted)) if kind else Verdict.UNTRIED
            verdicts[verdict] += 1
            if verdict is not Verdict.ACCEPTED:
                unchecked.append(name_of(wanted))
        except ApiRefusalError as error:
            refused.append(f"{name_of(wanted)}: {error.message}")
    if refused:
        raise RestoreError(f"kubernetes objects: the API server refuses {len(refused)} of them: {listed(refused)}")
    accepted, forbidden = verdicts[Verdict.ACCEPTED], verdicts[Verdict.FORBIDDEN]
    if forbidden and not accepted:
        said = f"{forbidden} tries were forbidden, as they are to an account that may only list"
        return [f"no API server judged them: {said}"]
    judged = f"{accepted} of them accepted by the API server (dry run)"
    return [judged, *([f"not checked: {listed(unchecked)}"] if unchecked else [])]


def extra_in_words(extra: list[str]) -> str:
    """Say what a restore leaves as it is, though the snapshot does not hold it."""
    return f"there now and not in the snapshot: {listed(extra)}; a restore leaves that as it is"


def with_paths(wanted: Object, paths: list[str]) -> str:
    """Name an object with the first few of many paths in it."""
    more = f" and {len(paths) - PATHS_SHOWN} more" if len(paths) > PATHS_SHOWN else ""
    return f"{name_of(wanted)}: {', '.join(paths[:PATHS_SHOWN])}{more}"


def _obstacle(chosen: ChosenObjects, wanted: Object, states: dict[str, str]) -> str:
    """Say what stands in the way of an object before it is even tried; nothing: empty."""
    namespace = wanted["metadata"].get("namespace")
    if not namespace:
        return ""
    if namespace not in states:
        states[namespace] = chosen.namespace_state(namespace)
    if states[namespace] == "Terminating":
        return f"namespace {namespace} is being deleted; wait until it is gone"
    if states[namespace] == "absent" and namespace not in chosen.coming:
        return f"there is no namespace {namespace}; restore the Namespace too"
    return ""


def _look_at_unserved(chosen: ChosenObjects, wanted: Object, seen: Survey) -> None:
    if not chosen.is_defined(wanted):
        seen.refused.append(chosen.unserved(wanted))
        return
    seen.added += 1
    seen.note(f"added: {name_of(wanted)}")
    seen.unchecked.append(name_of(wanted))


def _look_at(chosen: ChosenObjects, kind: Kind, wanted: Object, seen: Survey, states: dict[str, str]) -> None:
    live = None if states.get(wanted["metadata"].get("namespace") or "") == "absent" else chosen.live(wanted)
    if live is None:
        seen.added += 1
        seen.note(f"added: {name_of(wanted)}")
        if chosen.try_as_new(kind, wanted) is not Verdict.ACCEPTED:
            seen.unchecked.append(name_of(wanted))
        return
    if live["metadata"].get("deletionTimestamp"):
        seen.refused.append(f"{name_of(wanted)}: it is being deleted; wait until it is gone")
        return
    paths = chosen.changes(kind, wanted, live)
    if paths is None:
        seen.changed += 1
        seen.unchecked.append(name_of(wanted))
        seen.note(f"changed: {name_of(wanted)}: what, cannot be told")
    elif paths:
        seen.changed += 1
        seen.note(f"changed: {with_paths(wanted, paths)}")
    else:
        seen.same += 1
    if extra := [path for path in chosen.additions(wanted, live) if path not in (paths or ())]:
        seen.extra.append(with_paths(wanted, extra))
