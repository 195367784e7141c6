"""
The order in which a lost system comes back, and what a drill measured beside what was promised. Pure.

Source: strategy, "Recovery procedures"; hosts and keys first, then the cluster, databases, the ledger in the order that
its heights need, and what stands on it last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from gxbackup.errors import InventoryError
from gxbackup.health import GRACE, TOO_SLOW, Finding
from gxbackup.inventory import Inventory
from gxbackup.model import Frozen
from gxbackup.proofs import Rehearsal

# A data type belongs to the first of these that its name begins with; one that is in none comes last.
ORDER = (
    "ssh-keys",
    "system-config",
    "k3s-config",
    "etcd-snapshots",
    "k8s-manifests",
    "compose-config",
    "postgres-ca",
    "fabric-crypto",
    "postgres-",
    "redis-",
    "orderer-ledger",
    "peer-ledger",
    "couchdb-",
    "chaincode-",
    "website",
)


class Step(Frozen):
    """One data type of a rehearsal or a drill, and how it went."""

    server: str
    data_type: str
    rpo_hours: float
    rto_hours: float
    age_hours: float | None
    rehearsal: Rehearsal | None
    failure: str | None
    told: tuple[str, ...] = ()

    def is_late(self) -> bool:
        """Tell whether what came back was older than promised, by the grace that the hourly look gives too."""
        return self.age_hours is not None and self.age_hours > self.rpo_hours + GRACE / timedelta(hours=1)

    def is_slow(self) -> bool:
        """Tell whether it came back, later than promised."""
        return self.failure is None and self.rehearsal is not None and self.rehearsal.is_slow(self.rto_hours)


def in_order(
    inventory: Inventory, only: Sequence[str] | None = None, *, dependency: bool = False
) -> list[tuple[str, str]]:
    """
    Return server and name of every data type that a flow restores, in the order of the inventory or of need.

    Raises: InventoryError where `only` names one that no flow restores: all the others would seem to be proven.
    """
    wanted = [
        (server, name)
        for server, settings in inventory.servers.items()
        for name, promise in settings.data_types.items()
        if promise.restore_flow is not None
    ]
    known = dict.fromkeys(name for _, name in wanted)
    if unknown := [name for name in only or () if name not in known]:
        raise InventoryError(
            f"data_types: expected data types that a flow restores, seen {', '.join(unknown)}",
            f"choose from: {', '.join(known)}",
        )
    wanted = [one for one in wanted if not only or one[1] in only]
    return sorted(wanted, key=lambda one: _rank(one[1])) if dependency else wanted


def findings(step: Step) -> list[Finding]:
    """Tell what is wrong with a step: it failed, or what came back was older, or came later, than promised."""
    subject = f"{step.server} {step.data_type}"
    if step.failure is not None:
        return [Finding(level="failing", subject=subject, message=step.failure, runbook="alert-RestoreRehearsalFailed")]
    found = []
    if step.is_late():
        message = f"what came back is {step.age_hours:g} h old, promised {step.rpo_hours:g} h"
        found.append(Finding(level="warning", subject=subject, message=message, runbook="alert-BackupJobFailed"))
    if step.rehearsal is not None and step.is_slow():
        message = step.rehearsal.slowness(step.rto_hours)
        found.append(Finding(level="warning", subject=subject, message=message, runbook=TOO_SLOW))
    return found


def total_seconds(steps: Iterable[Step]) -> float:
    """Return how long all steps took, one after the other."""
    return sum(step.rehearsal.rto_seconds for step in steps if step.rehearsal)


def _rank(data_type: str) -> int:
    return next((number for number, prefix in enumerate(ORDER) if data_type.startswith(prefix)), len(ORDER))
