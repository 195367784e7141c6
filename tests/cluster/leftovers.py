"""What an earlier run of these tests left in the cluster when it was killed: it would be in this one's way."""

from __future__ import annotations

import re
from pathlib import Path

from tests.cluster.scratch_api import kubectl

# In this order: a claim's namespace goes before its volume does.
_KINDS = ("namespace", "persistentvolume", "clusterrolebinding", "clusterrole")
# All that these tests make outside a namespace of theirs is named by the process that made it.
_OF_A_PROCESS = re.compile(r"gxt-.+-(\d+)")


def sweep() -> str:
    """Delete what a process made that is gone, and say so: others may be testing on the same cluster."""
    told = ""
    for kind in _KINDS:
        there = [name.partition("/")[2] for name in kubectl("get", kind, "-o", "name").splitlines()]
        left = [name for name in there if (made := _OF_A_PROCESS.fullmatch(name)) and not _runs(made[1])]
        if left:
            # What does not go stays in nobody's way: every run has names of its own.
            told += kubectl("delete", kind, *left, "--ignore-not-found", "--timeout=180s", check=False)
    return told


def _runs(process: str) -> bool:
    return Path(f"/proc/{process}").exists()
