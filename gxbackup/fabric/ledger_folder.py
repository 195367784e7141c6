"""
Where a pod's ledger lies, and how this host reaches it: its claim's folder, or else its containers' own files.

A claim's folder is there also when the pod is not, so that it can be restored in place. What lies on no claim, or on
one that is mounted at no place known here, is read as its containers see it, while they run.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Literal

from gxbackup.adapters import volumes
from gxbackup.adapters.cluster import Pod
from gxbackup.adapters.container_folder import container_folder
from gxbackup.adapters.host import Host
from gxbackup.adapters.pod_mounts import innermost
from gxbackup.errors import SetupError, SourceMissingError
from gxbackup.fabric import layout as files
from gxbackup.frozen_copy import OURS, FrozenCopy
from gxbackup.model import Frozen

CLAIM, CONTAINER = "claim", "container"


class Home(Frozen):
    """The claim that a pod's ledger lies on."""

    claim: str
    below: str  # the ledger's folder, below the volume's

    def told(self) -> str:
        """Say which it is."""
        return f"claim {self.claim}" + (f", in {self.below}" if self.below else "")


class LedgerFolder(Frozen):
    """A pod's ledger as a folder of this host."""

    path: Path
    read_through: Literal["claim", "container"]
    home: Home | None  # None: it lies on no claim, and is gone with the pod
    volume: str | None = None  # the name of that claim's
    unread: tuple[str, ...] = ()  # other claims that are mounted within it, each with where


def claims_within(pod: Pod, role: str) -> tuple[str, ...]:
    """Return the claims that containers have mounted further in, upon a ledger's folder, each with where."""
    inner = {
        f"claim {mount.claim} at {mount.folder}"
        for mount in pod.mounts
        if mount.claim and mount.folder.startswith(f"{files.PRODUCTION[role]}/")
    }
    return tuple(sorted(inner))


@contextmanager
def ledger_folder(host: Host, pod: Pod, role: str, kubelet_dir: Path) -> Iterator[LedgerFolder]:
    """
    Give a pod's ledger, for the length of the block.

    Raises: SourceMissingError that names the pod and all that was tried.
    """
    home, volume, folder, why = None, None, None, None
    try:
        home = home_of(pod, role)
        volume = volumes.volume_of(host.cluster, pod.namespace, home.claim)
        folder = volumes.inside(volumes.mounted_at(volume, pod.uid, kubelet_dir), home.below)
        if not folder.is_dir():
            raise SourceMissingError(
                f"claim {home.claim}: expected a folder of this host at {folder}, seen none", "is its disk mounted?"
            )
    except SourceMissingError as error:
        folder, why = None, error
    name = volume.name if volume else None
    if folder:
        unread = claims_within(pod, role)
        yield LedgerFolder(path=folder, read_through=CLAIM, home=home, volume=name, unread=unread)
        return
    assert why
    with ExitStack() as stack:
        try:
            path = stack.enter_context(seen_in_containers(pod, role))
        except (SourceMissingError, SetupError) as error:
            raise SourceMissingError(
                f"{why.message}; nor as its containers see it: {error.message}",
                *why.hints, *error.hints, retryable=why.retryable or error.retryable,
            ) from None  # fmt: skip
        yield LedgerFolder(path=path, read_through=CONTAINER, home=home, volume=name)


def seen_in_containers(pod: Pod, role: str) -> AbstractContextManager[Path]:
    """Give a running pod's ledger as its containers see it; see `container_folder`."""
    return container_folder(pod.uid, files.PRODUCTION[role], files.CHAINS[role], f"pod {pod.namespace}/{pod.name}")


def home_of(pod: Pod, role: str) -> Home:
    """Return the claim that a pod's ledger lies on. Raises: SourceMissingError where it is none, or none is told."""
    production = files.PRODUCTION[role]
    over = innermost(pod.mounts, production)
    if over is None or over.claim is None or over.sub_path is None:
        seen = f"{over.claim or 'no claim'} at {over.folder}" if over else "none"
        what = f"pod {pod.namespace}/{pod.name}: expected a claim at {production}, seen {seen}"
        raise SourceMissingError(what)
    within = production.removeprefix(over.folder.rstrip("/")).strip("/")
    return Home(claim=over.claim, below="/".join(part for part in (over.sub_path, within) if part))


def made(volume: Path, below: str) -> Path:
    """Return a folder of a volume; one that lost all lacks it: it is made then as a kubelet makes a subPath's."""
    volumes.inside(volume, below)
    folder, like = volume, volume.stat()
    for part in Path(below).parts:
        folder /= part
        if not folder.exists():
            folder.mkdir(mode=0o700)
            os.chown(folder, like.st_uid, like.st_gid)
            folder.chmod(stat.S_IMODE(like.st_mode))
    return folder


def frozen_copy(folder: Path, role: str, read_through: str = CLAIM) -> FrozenCopy:
    """Return the copy that is kept beside a ledger's folder; within it, where nothing else of the pod's is known."""
    name = PurePosixPath(files.PRODUCTION[role]).name
    return FrozenCopy(
        folder,
        area=folder / f"{OURS}frozen-{name}" if read_through == CONTAINER else None,
        is_finished=files.is_finished(folder),
        is_appended=files.is_appended,
        is_left_out=files.is_left_out(role, folder),
    )
