"""What an earlier run of these tests left in the cluster when it was killed: it would be in this one's way."""

from __future__ import annotations

import re
from pathlib import Path

from tests.cluster.scratch_api import kubectl

# In this order: a claim's namespace goes before its volume does.
_KINDS = ("namespace", "persistentvolume", "clusterrolebinding", "clusterrole")
# All that these tests make outside a namespace of theirs is named by the process that made it.
_OF_A_PROCESS = re.compile(r"gxt-.+-(\d+)")


def sweep() -> None:
    """Delete what a process made that is gone: others may be testing on the same cluster."""
    for kind in _KINDS:
        for there in kubectl("get", kind, "-o", "name").splitlines():
            made = _OF_A_PROCESS.fullmatch(there.partition("/")[2])
            if made and not Path(f"/proc/{made[1]}").exists():
                kubectl("delete", there, "--ignore-not-found", "--timeout=180s")
