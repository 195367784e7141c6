"""
The ledgers of Fabric's peers and orderers, each read as a folder on the node that holds it; one artifact for each.

A node stands still for well under a second while its volume's copy of hard links is brought to that moment. Once a week
all of it is kept (level 0), on the other days what changed since, by GNU tar's listed incrementals.
Source: strategy rows Orderer Ledger, Peer Ledger; facts B11, B12.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, JsonValue

from gxbackup import incremental, sealing, trees
from gxbackup.adapters.cluster import Pod
from gxbackup.adapters.freezer import frozen
from gxbackup.adapters.host import Host
from gxbackup.adapters.volumes import inside, reached, used_at
from gxbackup.errors import BackupError, SourceMissingError
from gxbackup.fabric import blocks, derived, heights, orderer_sets
from gxbackup.fabric import layout as files
from gxbackup.fabric.ledger_evidence import blocks_seen, missed, unread
from gxbackup.fabric.ledger_folder import CLAIM, CONTAINER, frozen_copy, ledger_folder, seen_in_containers
from gxbackup.fabric.ledger_level import level_of, level_size_bytes
from gxbackup.fabric.ledger_restore import LedgerRestore
from gxbackup.fabric.ledgers_together import apply_together
from gxbackup.fabric.one_moment import settle, settle_alone
from gxbackup.fabric.selection import require_held
from gxbackup.frozen_copy import FrozenCopy
from gxbackup.model import Artifact, Capture
from gxbackup.opened import Opening
from gxbackup.ports import PlainStream
from gxbackup.sources.base import Restorable, Work
from gxbackup.sources.directory import AbsolutePath

HOW_READ = (
    "a ledger is read on the node that runs its pod: in its claim's folder, else as its running containers see it"
)


class Ledger(Restorable):
    """Peers' or orderers' volumes on one node."""

    default_folder: ClassVar[str] = "fabric"
    opens: ClassVar[Opening] = "sealed"

    kind: Literal["ledger"] = "ledger"
    role: Literal["orderer", "peer"] = Field(description="whose volumes: their files differ, and so do their rules")
    namespace: str = Field(default="fabric", description="where the pods are")
    selector: str | None = Field(default=None, description="labels of the pods; by default tier=peer or tier=orderer")
    node: str | None = Field(
        default=None, description="the Kubernetes node whose volumes are read; by default this host"
    )
    kubelet_dir: AbsolutePath = Field(
        default="/var/lib/kubelet", description="--root-dir of the node's kubelet, where CSI mounts volumes"
    )
    retired: tuple[str, ...] = Field(
        default=(), description="pods that are gone on purpose: that the last good copy knows them is no fault"
    )
    one_moment_seconds: int = Field(
        default=0, ge=0, le=900,
        description="all nodes here stand still at once, at the next full so many seconds of the clock, as those of the"
        " other hosts do: orderers' copies are worth something at one height alone; 0: one node after the other",
    )  # fmt: skip
    full_every_days: int = Field(default=7, ge=1, le=31, description="how often all of it is kept, not what changed")

    def collect(self, host: Host, data_type: str) -> list[Capture]:
        """See `collect_since`: all of it."""
        return self.collect_since(host, data_type, ())

    def collect_since(self, host: Host, data_type: str, last_good: Sequence[Artifact]) -> list[Capture]:
        """
        Find the volumes that lie on this node; one capture for each.

        `last_good` is the newest good copy: without the level 0 that tar remembers here, a capture is a level 0. A pod
        that it knows and that runs on no node now is a shortfall: its volume is not read. A ledger that this node
        reaches neither way fails where it is opened, alone. With `one_moment_seconds` the nodes stand still here.
        Raises: SourceMissingError where no volume lies on this node, or none of them can be read.
        """
        node = self._node()
        pods = host.cluster.pods(self.namespace, self._selector())
        ours = [pod for pod in pods if pod.node == node]
        if not ours:
            elsewhere = ", ".join(f"{pod.name} on {pod.node}" for pod in pods) or "none at all"
            raise SourceMissingError(
                f"{data_type}: expected pods {self.namespace} ({self._selector()}) on node {node}, seen {elsewhere}",
                "a volume is read on the node that holds it: move the entry, or name its node as source.node",
            )
        captures: list[Capture] = []
        faulty: list[Capture] = []
        for pod in ours:
            try:
                captures.append(self._capture(host, data_type, pod, last_good))
            except SourceMissingError as error:
                if len(faulty) == len(ours) - 1:
                    raise
                found = Capture(data_type=data_type, name=f"{pod.name}.tar", settings={"pod": pod.name})
                faulty.append(_failing(found, error))
        if self.one_moment_seconds:
            captures = self._at_one_moment(host, captures, ours)
        gone = missed(last_good, {pod.name for pod in pods if pod.node is not None}, self.retired)
        return [_with(captures[0], {"missed": gone}), *captures[1:], *faulty]

    @contextmanager
    def open(self, host: Host, capture: Capture) -> Iterator[PlainStream]:
        """Bring the copy to one moment, unless `collect` did; take its heights, read it. It stays for the next run."""
        label = f"{capture.data_type}: {capture.settings['pod']}"
        if fault := capture.settings.get("fault"):
            raise SourceMissingError(f"{label}: {fault}", HOW_READ)

        def running() -> Pod | None:
            pods = host.cluster.pods(self.namespace)
            return next((pod for pod in pods if pod.name == capture.settings["pod"]), None)

        with self._folder_now(host, capture, running(), label) as (folder, through):
            copy = frozen_copy(folder, self.role, through)
            stood_still, moment = (capture.settings.get(key) for key in ("stood_still_seconds", "settled_at"))
            if moment is None or not copy.tree.is_dir():  # else `collect` has brought the copy to the moment of all
                moment = None
                copy.approach(anew=capture.settings["level"] == 0)
                stood_still = settle_alone(copy, running, frozen, label)
            evidence, shortfalls = blocks_seen(copy.tree / files.CHAINS[self.role], label)
            shortfalls += unread(copy.tree, capture, label)
            evidence |= {"tree": trees.tally(copy.tree), "stood_still_seconds": stood_still, "moment": moment}
            with level_of(copy, capture, evidence, shortfalls, label) as level:
                yield level

    def select(self, artifacts: Sequence[Artifact], options: dict[str, JsonValue]) -> tuple[Artifact, ...]:
        """Return those of the pods in `pods`, or all. Raises: RestoreRefusedError where one of those is not held."""
        named = options.get("pods") or []
        assert isinstance(named, list)
        held = {str(one.settings["pod"]) for one in artifacts}
        require_held("pods", {str(name) for name in named} - held, held)
        return tuple(one for one in artifacts if not named or one.settings["pod"] in named)

    def target(self, work: Work) -> str:
        """See `Restorable`."""
        return ", ".join(f"{one.pod} of {self.namespace}" for one in self._restores(None, work))

    def preview(self, host: Host, work: Work) -> list[str]:
        """See `Restorable`. An older ledger over a newer one wants `allow_older`, one orderer beside others `alone`."""
        restores = self._restores(host, work)
        for one in restores:
            one.vet()
        return self._plan(host, work, restores)

    def _plan(self, host: Host, work: Work, restores: Sequence[LedgerRestore]) -> list[str]:
        """Say what `apply` would do now. Raises: RestoreRefusedError."""
        if self.role == "orderer" and not work.options.get("alone"):
            named = {one.pod for one in restores}
            pods = host.cluster.pods(self.namespace, self._selector())
            orderer_sets.refuse_beside([pod.name for pod in pods if pod.ready and pod.name not in named])
        told = [line for one in restores for line in one.plan()]
        kept = heights.copies_of(restore.artifact for restore in restores)
        neighbours = self._neighbours(host)
        orderer_sets.require_even(kept, work, neighbours)
        if not (self.role == "orderer" and work.options.get("allow_older")):
            heights.require_set([*kept, *neighbours])
        told += [f"{one.role} {one.name} on this node: {dict(one.heights)}" for one in neighbours] + [*work.unread]
        # Where orderers run, peers meet them and not their copies.
        met = self.role == "peer" and any(pod.ready for pod in host.cluster.pods(self.namespace, "tier=orderer"))
        if met or work.options.get("unmatched"):
            return told
        return told + orderer_sets.require_elsewhere(kept, work, neighbours)

    def rehearse(self, host: Host, work: Work) -> list[str]:
        """Unpack each volume beside, compare every file's attributes, and check every block's data. Starts no node."""
        return [line for one in self._restores(host, work) for line in one.rehearse()]

    def apply(self, host: Host, work: Work) -> list[str]:
        """Stop, exchange and start: peers one after the other, orderers all together (see `apply_together`)."""
        for opened in work.opened:
            sealing.check_identity(opened.identity_file)  # a person may have taken it away before they approved
        restores = self._restores(host, work)
        self._plan(host, work, restores)
        if self.role == "peer":
            return [line for one in restores for line in one.apply()]
        return apply_together(restores)

    def used_at(self, host: Host, claim: str) -> Path | None:
        """Return the folder of this host where a claim's volume is now; see `volumes.used_at`."""
        kubelet_dir = Path(self.kubelet_dir)
        return used_at(host.cluster, self.namespace, claim, node=self._node(), kubelet_dir=kubelet_dir)

    def mounts_of(self, host: Host, claim: str, image: str | None) -> AbstractContextManager[Path]:
        """Give the folder of this host where a stopped server's volume is; see `volumes.reached`."""
        kubelet_dir = Path(self.kubelet_dir)
        return reached(host.cluster, self.namespace, claim, node=self._node(), image=image, kubelet_dir=kubelet_dir)

    @contextmanager
    def _folder_now(self, host: Host, capture: Capture, pod: Pod | None, label: str) -> Iterator[tuple[Path, str]]:
        """Give the ledger's folder, reached as it was when it was found: it may be another pod's, mounted elsewhere."""
        through = str(capture.settings["read_through"])
        if through == CLAIM and (volume := self.used_at(host, str(capture.settings["claim"]))) is not None:
            yield inside(volume, str(capture.settings["below"])), through
        elif through == CONTAINER and pod is not None:
            with seen_in_containers(pod, self.role) as folder:
                yield folder, through
        else:
            raise SourceMissingError(
                f"{label}: expected its volume mounted on this node, seen no pod that uses it",
                "was the pod restarted meanwhile, or moved to another node?",
                retryable=True,
            )

    def _at_one_moment(self, host: Host, captures: Sequence[Capture], pods: Sequence[Pod]) -> list[Capture]:
        """Bring the copies to the moment of all hosts, and say so in their captures; `open` reads any other alone."""

        def uids() -> dict[str, str]:
            return {pod.name: pod.uid for pod in host.cluster.pods(self.namespace, self._selector())}

        with ExitStack() as reached:
            copies: dict[str, FrozenCopy] = {}
            for capture in captures:
                with suppress(BackupError, OSError):  # `open` meets it too, and says it
                    pod = next(pod for pod in pods if pod.name == capture.settings["pod"])
                    label = f"{capture.data_type}: {pod.name}"
                    folder, through = reached.enter_context(self._folder_now(host, capture, pod, label))
                    copy = frozen_copy(folder, self.role, through)
                    copy.approach(anew=capture.settings["level"] == 0)
                    copies[pod.name] = copy
            told, settled = settle(copies, uids, frozen, self.one_moment_seconds)
        return [_with(one, told) if one.settings["pod"] in settled else one for one in captures]

    def _node(self) -> str:
        return self.node or os.uname().nodename

    def _selector(self) -> str:
        return self.selector or f"tier={self.role}"

    def _neighbours(self, host: Host) -> list[heights.Copy]:
        """Return the heights of the other role's volumes on this node: what is restored must fit what is there."""
        other = "peer" if self.role == "orderer" else "orderer"
        found = []
        for pod in host.cluster.pods(self.namespace, f"tier={other}"):
            with suppress(BackupError):  # not here, or broken, which is why somebody restores
                with ledger_folder(host, pod, other, Path(self.kubelet_dir)) as found_at:
                    seen = blocks.readable_heights(found_at.path / files.CHAINS[other])
                if seen:
                    found.append(heights.Copy(other, pod.name, seen))
        return found

    def _restores(self, host: Host | None, work: Work) -> list[LedgerRestore]:
        """Return one for each volume, with its level 0 and what came after, in the order in which they were opened."""
        by_pod: dict[str, list[int]] = {}
        for position, one in enumerate(work.opened):
            by_pod.setdefault(str(one.artifact.settings["pod"]), []).append(position)
        return [
            LedgerRestore(self, host, work, [work.opened[position] for position in positions])
            for positions in by_pod.values()
        ]

    def _capture(self, host: Host, data_type: str, pod: Pod, last_good: Sequence[Artifact]) -> Capture:
        with ledger_folder(host, pod, self.role, Path(self.kubelet_dir)) as found:
            settings: dict[str, JsonValue] = {
                "pod": pod.name,
                "read_through": found.read_through,
                "volume": str(found.path) if found.read_through == CLAIM else files.PRODUCTION[self.role],
                "image": pod.images[0],
                "role": self.role,
            }
            if derived.is_in_couchdb(self.role, found.path):
                settings["state_in_couchdb"] = True
            if found.unread:
                settings["within"] = [*found.unread]
            if found.home:
                owner = host.cluster.owner(self.namespace, pod.name)
                settings |= {"statefulset": owner, "claim": found.home.claim, "below": found.home.below}
            area = frozen_copy(found.path, self.role, found.read_through).area
            base = incremental.base(area, data_type, last_good, timedelta(days=self.full_every_days))
            if base is None:
                settings |= {"level": 0, "full_id": secrets.token_hex(16)}
            else:
                base_path = base[1].settings.get("base_path", base[1].path)
                settings |= {"level": 1, "full_id": base[1].settings["full_id"], "base_path": base_path}
            return Capture(
                data_type=data_type,
                name=f"{pod.name}.level{settings['level']}.tar",
                settings=settings,
                evidence={"node": pod.node, "volume": found.volume},
                expected_size_bytes=level_size_bytes(found.path, incremental.remembered_at(area) if base else 0),
                base=base[0] if base else None,
            )


def _failing(capture: Capture, error: BackupError) -> Capture:
    """Return the capture of a ledger that cannot be read: opening it says why, and costs no other."""
    return _with(capture, {"fault": error.message})


def _with(capture: Capture, settings: dict[str, JsonValue]) -> Capture:
    return capture.model_copy(update={"settings": {**capture.settings, **settings}})
