"""Prefect's automations from deployments/automations.yaml, applied by name: again and again with the same result."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import notify_blocks
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.schemas.automations import Automation, AutomationCore
from pydantic import Field, ValidationError, model_validator

from gxbackup.documents import read_document
from gxbackup.errors import InventoryError
from gxbackup.model import Frozen

FILE = Path(__file__).resolve().parent.parent / "deployments" / "automations.yaml"
HINT = "deployments/automations.yaml: each has name, description, trigger, and notify or crash"
PREFIX = "gx-"


class Message(Frozen):
    """What a notification says; Prefect fills in the run."""

    subject: str
    body: str


class Wanted(Frozen):
    """One automation of the file."""

    name: str = Field(pattern=f"^{PREFIX}[a-z-]+$")
    description: str
    trigger: dict[str, Any]
    notify: Message | None = None
    crash: str | None = Field(default=None, description="mark the run Crashed, with this message")

    @model_validator(mode="after")
    def _do_one_thing(self) -> Self:
        if (self.notify is None) == (self.crash is None):
            raise ValueError(f"{self.name}: expected either notify or crash")
        return self


class AutomationsFile(Frozen):
    """deployments/automations.yaml."""

    automations: tuple[Wanted, ...]


def load(path: Path = FILE) -> tuple[Wanted, ...]:
    """Read the file; InventoryError with the path of the first fault in it."""
    return read_document(path, AutomationsFile, HINT).automations


def apply(client: SyncPrefectClient, wanted: tuple[Wanted, ...]) -> None:
    """
    Bring Prefect's automations in line with the file; whatever does not begin with `gx-` is left alone.

    Without GX_NOTIFY_URL nobody is notified, which is said.

    Raises: InventoryError for a trigger that Prefect does not understand; SetupError for an address of an unknown kind.
    """
    block_ids = notify_blocks.store(os.environ.get("GX_NOTIFY_URL", ""))
    if not block_ids:
        print("automations: GX_NOTIFY_URL is not set: what goes wrong shows in the UI, and nobody is notified")
    held: dict[str, list[Automation]] = {}
    for automation in client.read_automations():
        held.setdefault(automation.name, []).append(automation)
    for one in wanted:
        there = held.pop(one.name, [])
        if not there:
            client.create_automation(_core(one, block_ids, enabled=True))
            print(f"automation {one.name}: made")
            continue
        client.update_automation(there[0].id, _core(one, block_ids, enabled=there[0].enabled))
        if not there[0].enabled:
            print(f"automation {one.name}: switched off by an operator, left off")
        for double in there[1:]:
            client.delete_automation(double.id)
    for name, left in held.items():
        for automation in left if name.startswith(PREFIX) else []:
            client.delete_automation(automation.id)
            print(f"automation {name}: no longer in deployments/automations.yaml, removed")


def _core(wanted: Wanted, block_ids: Sequence[UUID], *, enabled: bool) -> AutomationCore:
    try:
        return AutomationCore.model_validate(
            {
                "name": wanted.name,
                "description": wanted.description,
                "enabled": enabled,
                "trigger": wanted.trigger,
                "actions": _actions(wanted, block_ids),
            }
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise InventoryError(f"automation {wanted.name}: {where}: {first['msg']}", HINT) from None


def _actions(wanted: Wanted, block_ids: Sequence[UUID]) -> list[dict[str, Any]]:
    if wanted.notify is None:
        return [{"type": "change-flow-run-state", "state": "CRASHED", "message": wanted.crash}]
    said = {"subject": wanted.notify.subject, "body": wanted.notify.body}
    told = [{"type": "send-notification", "block_document_id": str(block_id), **said} for block_id in block_ids]
    return told or [{"type": "do-nothing"}]
