"""The restore that a server's own programs carry out, as its runbook reads. No flow is defined here."""

from __future__ import annotations

from pydantic import JsonValue

from flows.recipes import locked_by_restore, tell
from gxbackup.staging import staging_area
from tasks import host
from tasks.approval import approve_or_refuse
from tasks.choose import choose
from tasks.download import download
from tasks.pages import restore_page
from tasks.policy import speak_plainly
from tasks.restore_data import (
    apply_data,
    look_at_registry,
    look_elsewhere,
    open_data,
    preview_data,
    rehearse_data,
)


def restore_data(
    server: str, data_type: str, snapshot: str, mode: str, approve: bool, options: dict[str, JsonValue] | None = None
) -> None:
    """
    Put back what a server's own programs restore: planned, rehearsed on a throwaway server, or in place.

    Nothing is replaced before all of it is fetched, opened and proven, and a person approved; what is overwritten is
    kept, and put back on failure.

    Raises: RestoreRefusedError, RestoreError, IntegrityError, SealingError, RemoteError, LockedError.
    """
    speak_plainly()
    host.identity_file()
    if mode == "in-place":
        host.refuse_another_host(server)
    key = f"restore-{data_type}"
    with staging_area(f"restore-{server}") as area:
        chosen = choose(server, data_type, snapshot, area, options)
        download(chosen, area)
        work = open_data(server, chosen, area, options or {})
        if mode == "scratch":
            told = rehearse_data(server, work)
            tell(key, restore_page([chosen], "a throwaway server", mode, [*told, "nothing else was touched"]))
            return
        work = look_at_registry(server, chosen.snapshot, look_elsewhere(server, work))
        target, changes = preview_data(server, work)
        page = restore_page([chosen], target, mode, changes)
        if mode == "plan":
            tell(key, f"{page}- nothing was touched\n")
            return
        tell(key, page)
        approve_or_refuse(target, page, approve)
        with locked_by_restore(server, data_type):
            done = apply_data(server, work)
    tell(key, page + "".join(f"- {line}\n" for line in done))
