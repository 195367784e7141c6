"""The safety copies that restores left on this host, as a section of a report."""

from __future__ import annotations

from pathlib import Path

from gxbackup import clock, kept_copies
from gxbackup.sources.directory import Directory
from gxbackup.staging import staging_root
from tasks import host
from tasks.pages import human_bytes


def kept_copies_section(server: str) -> str:
    """List them with age and size; empty where there is none."""
    sources = [promise.source for promise in host.inventory().server(server).data_types.values()]
    roots = [Path(source.root) for source in sources if isinstance(source, Directory) and source.restores == "exchange"]
    found = kept_copies.find(roots, staging_root().parent / "safety")
    if not found:
        return ""
    now = clock.now()
    lines = ["", "## Safety copies on this host", "", "Left by restores; remove those that nobody needs any more.", ""]
    lines += [
        f"- `{copy.path}`: {(now - copy.made_at).days} days old, {human_bytes(copy.size_bytes)}" for copy in found
    ]
    return "\n".join(lines) + "\n"
