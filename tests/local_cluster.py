"""Pods for tests without Kubernetes: folders that commands see as /mnt, in a mount namespace of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import cast

from gxbackup import clock
from gxbackup.adapters.cluster import Claim, Cluster, Pod
from gxbackup.adapters.containers import Containers
from gxbackup.adapters.host import Host
from gxbackup.adapters.places import LocalPlace
from gxbackup.adapters.pod_mounts import PodMount
from gxbackup.errors import CollectError, SourceMissingError
from gxbackup.ports import SILENCE_SECONDS, Running

VOLUME = "/mnt"
_INSIDE = 'mount --bind "$1" /mnt && shift && exec "$@"'


class FolderPlace(LocalPlace):
    """A place in which a folder is mounted as a pod's volume is."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name)
        self._folder = folder

    @contextmanager
    def start(
        self, argv: Sequence[str], *, stdin: bool = False, silence_seconds: float = SILENCE_SECONDS
    ) -> Iterator[Running]:
        words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _INSIDE, "sh", str(self._folder), *argv]
        with super().start(words, stdin=stdin) as running:
            yield running


class LocalCluster:
    """What sources ask of a cluster, for pods that are folders; stopping and starting them is only noted."""

    def __init__(self, volumes: Mapping[str, Path], mount: str = VOLUME) -> None:
        self.volumes = dict(volumes)
        self.mount = mount
        self.mounts: dict[str, str] = {}
        self.stopped: set[str] = set()
        self.not_ready: set[str] = set()
        self.scaled: list[tuple[str, int]] = []
        self.sizes: dict[str, int] = {}  # StatefulSet → how many pods it was given; 1 before
        self.urls: dict[str, str] = {}
        self.unmounted: dict[str, Path] = {}  # claims that no pod mounts
        self.deleted: list[str] = []
        self.helpers: list[tuple[str, bool]] = []  # claims that pods of ours were started on, and whether to read only
        self.never_ready_again: set[str] = set()
        self.may_create_pods = True
        self.uids: dict[str, str] = {}  # of pods that were replaced

    def host(self) -> Host:
        return Host(Containers(), cast(Cluster, self))

    def pods(self, namespace: str, selector: str = "") -> tuple[Pod, ...]:
        key, _, value = selector.partition("=")
        return tuple(
            Pod(
                namespace=namespace, name=name, uid=self.uids.get(name, name), node="here",
                ready=name not in self.not_ready,
                state="Running" if name not in self.not_ready else "Pending", containers=("one",), images=("image",),
                labels={"app": name.rpartition("-")[0], **({key: value} if key else {})},
                claims={f"data-{name}": self.mounts.get(name, self.mount)},
                mounts=tuple(
                    PodMount(folder=folder, claim=f"data-{name}", sub_path="")
                    for folder in [self.mounts.get(name, self.mount)] if folder
                ),
            )
            for name in sorted(self.volumes)
            if name not in self.stopped
            and (key != "app" or name.rpartition("-")[0] == value)
            and (key != "tier" or name.startswith(value))
        )  # fmt: skip

    def place(
        self, namespace: str, pod: str | None = None, selector: str | None = None, container: str | None = None
    ) -> FolderPlace:
        found = [one for one in self.pods(namespace, selector or "") if pod in (None, one.name)]
        if not found or not found[0].ready:
            raise SourceMissingError(f"pod {namespace}/{pod or selector}: expected ready, seen none")
        return FolderPlace(f"pod {namespace}/{found[0].name}", self.volumes[found[0].name])

    def owner(self, namespace: str, pod: str) -> str:
        return pod.rpartition("-")[0]

    def replicas(self, namespace: str, name: str) -> int:
        return self.sizes.get(name, 1)

    def scale(self, namespace: str, name: str, replicas: int, timeout_seconds: float = 600) -> None:
        self.scaled.append((name, replicas))
        self.sizes[name] = replicas
        for pod in self.volumes:
            owner, _, ordinal = pod.rpartition("-")
            if owner == name:
                (self.stopped.discard if int(ordinal) < replicas else self.stopped.add)(pod)

    def endpoint(self, namespace: str, service: str, port: int) -> str:
        return self.urls[service]

    def claim_place(
        self, namespace: str, claim: str, image: str, timeout_seconds: float = 300, node: str | None = None,
        read_only: bool = False,
    ) -> AbstractContextManager[FolderPlace]:  # fmt: skip
        @contextmanager
        def mounted() -> Iterator[FolderPlace]:
            if not self.may_create_pods:
                raise CollectError(f"pod {namespace}/gx-backup-1: expected to be allowed, seen 403 Forbidden")
            self.helpers.append((claim, read_only))
            folder = self.unmounted.get(claim) or self.volumes[claim.removeprefix("data-")]
            yield FolderPlace(f"claim {namespace}/{claim}", folder)

        return mounted()

    def claims(self, namespace: str) -> tuple[Claim, ...]:
        names = [*(f"data-{name}" for name in self.volumes), *self.unmounted]
        return tuple(Claim(name=name, phase="Bound", created=clock.now()) for name in sorted(names))

    def delete_pod(self, namespace: str, name: str, timeout_seconds: float = 120) -> None:
        self.deleted.append(name)
        if name in self.never_ready_again:
            self.not_ready.add(name)
