"""
Chaincode packages: every one of every peer, once by content, each proven by the hash in its own name.

Source: strategy row Chaincode Packages; facts B13: `<label>.<sha256>.tar.gz` has the package id `<label>:<sha256>`.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import ClassVar, Literal

from pydantic import Field, JsonValue

from gxbackup.adapters.host import Host
from gxbackup.chunk_stream import ChunkStream
from gxbackup.errors import BackupError, IntegrityError, RestoreError, SourceMissingError
from gxbackup.fabric.packages import NAME, Package, contents, package_told
from gxbackup.model import Artifact, Capture
from gxbackup.ports import Place, PlainStream, StreamEnd
from gxbackup.sources.base import Restorable, Work
from gxbackup.sources.directory import AbsolutePath

CHUNK_BYTES = 1024**2
LIST_TIMEOUT_SECONDS = 300
PACKAGE_TIMEOUT_SECONDS = 600
RESTART_TIMEOUT_SECONDS = 600
_LIST = """cd "$1" || exit 1
for file in *.tar.gz; do
    [ -f "$file" ] || continue
    sum=$(sha256sum <"$file") || exit 1
    printf '%s %s %s\\n' "${sum%% *}" "$(wc -c <"$file")" "$file"
done"""
# Renamed over the name it gets only when it is whole; the folder's owner is the peer's.
_PUT = """cd "$1" || exit 1
umask 077
cat >".$2.restored" && chown "$(stat -c %u:%g .)" ".$2.restored" && mv ".$2.restored" "$2" """


class Chaincode(Restorable):
    """The packages that peers have installed."""

    default_folder: ClassVar[str] = "fabric"

    kind: Literal["chaincode"] = "chaincode"
    namespace: str = Field(default="fabric", description="the peers' namespace")
    selector: str = Field(default="tier=peer", description="the labels that every peer's pod has, and no other")
    container: str | None = Field(default=None, description="the peer's container, where its pod has several")
    retired: tuple[str, ...] = Field(
        default=(), description="peers that are gone on purpose: that the last good copy knows them is no fault"
    )
    packages_dir: AbsolutePath = Field(
        default="/var/hyperledger/production/lifecycle/chaincodes", description="where peers keep packages"
    )

    def collect(self, host: Host, data_type: str) -> list[Capture]:
        """See `collect_since`: nothing is known of peers before."""
        return self.collect_since(host, data_type, ())

    def collect_since(self, host: Host, data_type: str, last_good: Sequence[Artifact]) -> list[Capture]:
        """
        Ask every peer for its packages and their hashes; one capture of all of them.

        A peer that cannot be asked, one that the newest good copy knows and that has no pod now, and a package whose
        content is not what its name says, become shortfalls; a good copy on another peer is taken in its place.
        Raises: SourceMissingError where no peer has a package.
        """
        pods = host.cluster.pods(self.namespace, self.selector)
        good: dict[str, Package] = {}
        held: dict[str, list[JsonValue]] = {}
        shortfalls: list[JsonValue] = []
        for pod in pods:
            try:
                found, damaged = self._list(host.cluster.place(self.namespace, pod.name, container=self.container))
            except BackupError as error:
                shortfalls.append(error.message)
                continue
            held[pod.name] = [package.package_id for package in found]
            good |= {package.name: package for package in found if package.name not in good}
            shortfalls += damaged
        for peer in sorted(_peers(last_good) - {pod.name for pod in pods} - set(self.retired)):
            shortfalls.append(
                f"pod {self.namespace}/{peer}: expected as in the last good copy, seen none; "
                "gone on purpose? name it in source.retired"
            )
        if not good:
            raise SourceMissingError(
                f"{data_type}: expected packages on {len(pods)} peers in {self.namespace} ({self.selector}), seen none",
                *[str(shortfall) for shortfall in shortfalls],
            )
        packages = [good[name] for name in sorted(good)]
        return [
            Capture(
                data_type=data_type,
                name=f"{data_type}.tar",
                settings={
                    "packages": [list(package) for package in packages],
                    "shortfalls": shortfalls,
                },
                evidence={"packages": [package.package_id for package in packages], "peers": {**held}},
                expected_size_bytes=sum(package.size_bytes + CHUNK_BYTES for package in packages),
            )
        ]

    @contextmanager
    def open(self, host: Host, capture: Capture) -> Iterator[PlainStream]:
        """Read one package after the other from its peer, each held against the hash in its name."""
        packages, shortfalls = capture.settings["packages"], capture.settings["shortfalls"]
        assert isinstance(packages, list)
        assert isinstance(shortfalls, list)
        chunks = self._tar(host, [package_told(told) for told in packages])
        try:
            yield ChunkStream(chunks, lambda: StreamEnd(shortfalls=tuple(map(str, shortfalls))))
        finally:
            chunks.close()

    def target(self, work: Work) -> str:
        """See `Restorable`."""
        return f"{self.packages_dir} of {', '.join(sorted(self._wanted(work)))}"

    def preview(self, host: Host, work: Work) -> list[str]:
        """Say which peer lacks which package. Raises: RestoreRefusedError where a package or a peer is unknown."""
        contents(work.opened[0].file, work.data_type)
        told = []
        for peer, names in self._wanted(work).items():
            missing = self._missing(host.cluster.place(self.namespace, peer, container=self.container), names)
            told.append(f"{peer}: {len(missing)} of {len(names)} packages are missing or damaged there")
            told += [f"added: {name}" for name in missing]
            if self._is_unaware(host.cluster.place(self.namespace, peer, container=self.container)):
                told.append(f"{peer}: a restore that was cut gave it packages; it was not started again since")
        return [*told, "packages that a peer has already are left as they are"]

    def rehearse(self, host: Host, work: Work) -> list[str]:
        """Hold every package against its own name and the evidence; nothing needs a server for that."""
        del host
        names = contents(work.opened[0].file, work.data_type)
        expected = work.opened[0].artifact.evidence["packages"]
        seen = [package_told([name, 0, ""]).package_id for name in names]
        if sorted(seen) != expected:
            raise IntegrityError(f"{work.data_type}: expected the packages {expected}, seen {sorted(seen)}")
        return [f"{len(seen)} packages, each with the sha256 in its name"]

    def apply(self, host: Host, work: Work) -> list[str]:
        """
        Give each peer the packages that it had and lacks now; then start it again, one after the other.

        Nothing is overwritten but a package whose content is not what its name says: no safety copy is needed. Killed
        and run again, it goes on; a peer that got packages and was not started again since is started then.
        """
        names = contents(work.opened[0].file, work.data_type)
        done = []
        for peer, wanted in self._wanted(work).items():
            place = host.cluster.place(self.namespace, peer, container=self.container)
            missing = self._missing(place, wanted)
            place.run(["mkdir", "-p", self.packages_dir], timeout_seconds=LIST_TIMEOUT_SECONDS)
            restarts = bool(work.options.get("restart", True) and (missing or self._is_unaware(place)))
            if restarts:
                # Whoever may not start it again is refused here, before the first package.
                host.cluster.replicas(self.namespace, host.cluster.owner(self.namespace, peer))
                place.run(["touch", self._unaware], timeout_seconds=LIST_TIMEOUT_SECONDS)
            for name in missing:
                self._put(place, work, name, names[name])
            if left := self._missing(place, wanted):
                raise RestoreError(f"{place.name}: expected {left[0]} after it was put there, seen none or another")
            done.append(f"{peer}: {len(missing)} packages put back")
            if restarts:
                self._restart(host, peer)
                done.append(f"{peer}: started again, so that it knows them")
        return done

    @property
    def _unaware(self) -> str:
        """Return the file in a peer's volume that says: it was given packages, and not started again since."""
        return str(PurePosixPath(self.packages_dir) / ".restored-not-started-again")

    def _is_unaware(self, place: Place) -> bool:
        there = place.run(["test", "-e", self._unaware], timeout_seconds=LIST_TIMEOUT_SECONDS, check=False)
        return there.returncode == 0

    def _list(self, place: Place) -> tuple[list[Package], list[str]]:
        """Return a peer's good packages, and what is wrong with the others."""
        listed = place.run(["sh", "-c", _LIST, "sh", self.packages_dir], timeout_seconds=LIST_TIMEOUT_SECONDS)
        good, damaged = [], []
        peer = place.name.rpartition("/")[2]
        for line in listed.text().splitlines():
            sha256, size_bytes, name = line.split(" ", 2)
            match = NAME.fullmatch(name)
            if match is None:
                damaged.append(f"{place.name}: {name}: expected <label>.<sha256>.tar.gz as a package's name")
            elif match["hash"] != sha256:
                damaged.append(f"{place.name}: {name}: expected the sha256 in its name, seen {sha256}")
            else:
                good.append(Package(name, int(size_bytes), peer))
        return good, damaged

    def _tar(self, host: Host, packages: Sequence[Package]) -> Generator[bytes | memoryview, None, None]:
        buffer = memoryview(bytearray(CHUNK_BYTES))
        for package in packages:
            header = tarfile.TarInfo(package.name)
            header.size, header.mode = package.size_bytes, 0o600
            yield header.tobuf(tarfile.PAX_FORMAT)
            place = host.cluster.place(self.namespace, package.peer, container=self.container)
            digest = hashlib.sha256()
            size_bytes = 0
            with place.read(["cat", str(PurePosixPath(self.packages_dir) / package.name)]) as stream:
                while count := stream.readinto(buffer):
                    digest.update(buffer[:count])
                    size_bytes += count
                    yield buffer[:count]
                stream.finish()
            if size_bytes != package.size_bytes or digest.hexdigest() not in package.name:
                raise IntegrityError(f"{place.name}: {package.name}: changed while it was read", retryable=True)
            yield bytes(-size_bytes % tarfile.BLOCKSIZE)
        yield bytes(2 * tarfile.BLOCKSIZE)

    def _wanted(self, work: Work) -> dict[str, list[str]]:
        """Return for each peer the packages that it should have: what it had, or all where it is named and unknown."""
        peers = work.opened[0].artifact.evidence["peers"]
        assert isinstance(peers, dict)
        everything = [str(told[0]) for told in _told_packages(work)]
        by_id = {package_told([name, 0, ""]).package_id: name for name in everything}
        named = work.options.get("peers") or list(peers)
        assert isinstance(named, list)
        return {
            str(peer): [by_id[str(one)] for one in _as_list(peers[str(peer)]) if str(one) in by_id]
            if str(peer) in peers
            else everything
            for peer in named
        }

    def _missing(self, place: Place, wanted: Sequence[str]) -> list[str]:
        there = place.run(["test", "-d", self.packages_dir], timeout_seconds=LIST_TIMEOUT_SECONDS, check=False)
        held = {package.name for package in self._list(place)[0]} if there.returncode == 0 else set()
        return [name for name in wanted if name not in held]

    def _put(self, place: Place, work: Work, name: str, content: tuple[int, int]) -> None:
        file = work.area / name
        begin, size_bytes = content
        with work.opened[0].file.open("rb") as tar:
            tar.seek(begin)
            file.write_bytes(tar.read(size_bytes))
        try:
            place.write(
                ["sh", "-c", _PUT, "sh", self.packages_dir, name], file, timeout_seconds=PACKAGE_TIMEOUT_SECONDS
            )
        finally:
            file.unlink()

    def _restart(self, host: Host, peer: str) -> None:
        """Have the StatefulSet make the pod anew; killed in between, it does so all the same."""
        name = host.cluster.owner(self.namespace, peer)
        replicas = host.cluster.replicas(self.namespace, name)
        host.cluster.delete_pod(self.namespace, peer, timeout_seconds=RESTART_TIMEOUT_SECONDS)
        host.cluster.scale(self.namespace, name, replicas)
        place = host.cluster.place(self.namespace, peer, container=self.container)
        place.run(["rm", "-f", self._unaware], timeout_seconds=LIST_TIMEOUT_SECONDS)


def _peers(artifacts: Sequence[Artifact]) -> set[str]:
    """Return the peers that artifacts were taken of."""
    told = [artifact.evidence.get("peers") for artifact in artifacts]
    return {peer for peers in told if isinstance(peers, dict) for peer in peers}


def _as_list(told: JsonValue) -> list[JsonValue]:
    assert isinstance(told, list)
    return told


def _told_packages(work: Work) -> list[list[JsonValue]]:
    return [_as_list(told) for told in _as_list(work.opened[0].artifact.settings["packages"])]
