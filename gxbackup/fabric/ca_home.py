"""Where a CA's home lies: on which claim, and where in it, as its pod's specification tells."""

from __future__ import annotations

from typing import NamedTuple

from gxbackup.adapters.cluster import Pod
from gxbackup.adapters.pod_mounts import innermost


class CaHome(NamedTuple):
    """A folder as the CA's container sees it; its claim, where that is mounted, and what of it; else empty."""

    folder: str
    claim: str = ""
    mount: str = ""
    sub_path: str = ""


def home_of(pod: Pod, folder: str) -> CaHome:
    """
    Return where a home lies; only as much of it as a claim holds, where that is mounted further in.

    Without a claim such a CA is kept, and a restore says that it cannot be stopped.
    """
    over = innermost(pod.mounts, folder)
    if over is not None:
        known = over.claim is not None and over.sub_path is not None
        return (
            CaHome(folder, over.claim or "", over.folder.rstrip("/"), over.sub_path or "") if known else CaHome(folder)
        )
    for mount in pod.mounts:
        if mount.claim and mount.sub_path is not None and mount.folder.startswith(f"{folder}/"):
            return CaHome(mount.folder, mount.claim, mount.folder, mount.sub_path)
    return CaHome(folder)
