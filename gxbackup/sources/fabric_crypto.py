"""
Fabric's certificate authorities and the Secrets beside them: one artifact for each CA, one for the Secrets.

A CA's files and its SQLite database are read as of one moment, which is proven: the database is digested before and
after. Where it keeps its database in PostgreSQL, that is a data type of the same set.
Source: strategy row Fabric Crypto Materials; facts B9, B10.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Literal

from pydantic import Field, JsonValue

from gxbackup import clock
from gxbackup.adapters.cluster import Pod
from gxbackup.adapters.host import Host
from gxbackup.adapters.secrets import list_secrets
from gxbackup.chunk_stream import ChunkStream
from gxbackup.errors import BackupError, CollectError, IntegrityError, SourceMissingError
from gxbackup.fabric.ca_restore import CaRestore, SecretsRestore, chosen_words, is_chosen
from gxbackup.fabric.crypto import CryptoInventory
from gxbackup.model import Artifact, Capture
from gxbackup.ports import Place, PlainStream, StreamEnd
from gxbackup.sources.base import Restorable, Work
from gxbackup.sources.directory import AbsolutePath
from gxbackup.tar_contents import TarContents
from gxbackup.tarstream import TarScanner

LOOK_TIMEOUT_SECONDS = 120
SECRETS = "secrets"
# The folder that holds the CA's home; its size in KiB.
_FIND = """home=${FABRIC_CA_HOME:-${FABRIC_CA_SERVER_HOME:-}}
for folder in "$@"; do case $home/ in "$folder"/*) home=$folder ;; esac; done
for folder in "$home" "$@"; do
    [ -n "$folder" ] && [ -d "$folder" ] || continue
    [ -z "$(find "$folder" -name fabric-ca-server-config.yaml)" ] && continue
    echo "$folder"; du -sk "$folder" | cut -f 1; exit 0
done
exit 3"""
# A database that is written meanwhile gives another digest after than before.
_READ = """cd "$1" || exit 1
databases() { find . -name '*.db' -o -name '*.db-wal' -o -name '*.db-journal' | sort | while read -r file; do
    echo "$file"; cat "$file"; done | sha256sum; }
tar --version 2>/dev/null | grep -q GNU && numeric=--numeric-owner
set --
for entry in * .[!.]* ..?*; do
    case $entry in .gxbackup-*|lost+found) continue ;; esac
    if [ -e "$entry" ] || [ -L "$entry" ]; then set -- "$@" "./$entry"; fi
done
before=$(databases)
tar $numeric -cf - "$@"; status=$?
[ "$status" -le 1 ] || exit "$status"
[ "$before" = "$(databases)" ] || { echo "the CA's database changed while it was read" >&2; exit 75; }"""


class FabricCrypto(Restorable):
    """What only a CA has: its keys, its certificates, its database; and the namespace's Secrets."""

    default_folder: ClassVar[str] = "fabric"

    kind: Literal["fabric_crypto"] = "fabric_crypto"
    namespace: str = Field(default="fabric", description="where the CAs' pods and the Secrets are")
    cas: tuple[str, ...] = Field(
        default=("ca-root", "ca-org1", "ca-org2", "ca-orderer", "ca-tls"),
        description="the label `app` of each CA's pod; empty: the Secrets alone",
    )
    folders: tuple[AbsolutePath, ...] = Field(
        default=("/var/hyperledger", "/etc/hyperledger/fabric-ca-server"), description="where a CA's home may be"
    )
    with_secrets: bool = Field(default=True, description="the namespace's Secrets too")
    cainfo_port: int = Field(
        default=7054, ge=0, le=65535, description="where a restored CA is asked for its certificate; 0: its file alone"
    )

    def collect(self, host: Host, data_type: str) -> list[Capture]:
        """
        Name one capture for each CA, and one for the Secrets. A CA that is not there fails where it is opened, alone.

        Raises: SourceMissingError where none of the CAs is there, or there is no Secret where nothing else is taken.
        """
        captures, reasons = [], []
        for ca in self.cas:
            try:
                settings, size_bytes = self._look(host, ca)
            except BackupError as error:
                settings, size_bytes = {"ca": ca}, 0
                reasons.append(error.message)
            captures.append(
                Capture(
                    data_type=data_type, name=f"{ca}.tar", settings=settings, expected_size_bytes=size_bytes
                )
            )  # fmt: skip
        if self.cas and len(reasons) == len(self.cas):
            raise SourceMissingError(f"{data_type}: none of the CAs can be read: {'; '.join(reasons)}")
        if self.with_secrets:
            captures.append(
                Capture(data_type=data_type, name=f"{SECRETS}.jsonl", settings={"namespace": self.namespace})
            )
        return captures

    @contextmanager
    def open(self, host: Host, capture: Capture) -> Iterator[PlainStream]:
        """Read one CA's home, or the Secrets, with the certificates in it as evidence."""
        if "ca" not in capture.settings:
            yield self._secrets(host, capture)
            return
        ca = str(capture.settings["ca"])
        if "folder" not in capture.settings:
            self._look(host, ca)  # says what is wrong with it
        pod = host.cluster.place(self.namespace, selector=f"app={ca}")
        with pod.read(["sh", "-c", _READ, "sh", str(capture.settings["folder"])]) as stream:
            home = _CaHome(stream, f"{capture.data_type}: {ca}")
            try:
                yield home
            finally:
                home.close()

    def select(self, artifacts: Sequence[Artifact], options: dict[str, JsonValue]) -> tuple[Artifact, ...]:
        """Return those of the CAs and organisations in `cas` (`ca-org1`, or `org1` with its Secrets), or all."""
        words = chosen_words(options)

        def holds_some(artifact: Artifact) -> bool:
            names = artifact.evidence.get("secrets", [artifact.settings.get("ca")])
            return isinstance(names, list) and any(is_chosen(str(name), words) for name in names)

        return tuple(artifact for artifact in artifacts if holds_some(artifact))

    def target(self, work: Work) -> str:
        """See `Restorable`."""
        names = [str(one.artifact.settings.get("ca", "Secrets")) for one in work.opened]
        return f"{', '.join(names)} of {self.namespace}"

    def preview(self, host: Host, work: Work) -> list[str]:
        """See `Restorable`."""
        return [line for one in self._restores(host, work) for line in one.preview()]

    def rehearse(self, host: Host, work: Work) -> list[str]:
        """Hold each CA's certificates and keys against the evidence, and open its database. No CA is started."""
        return [line for one in self._restores(host, work) for line in one.rehearse()]

    def apply(self, host: Host, work: Work) -> list[str]:
        """Put the CAs back one after the other, each with its own safety copy; then the Secrets."""
        restores = self._restores(host, work)
        for one in restores:
            one.preview()
        return [line for one in restores for line in one.apply()]

    def _restores(self, host: Host, work: Work) -> list[CaRestore | SecretsRestore]:
        return [
            CaRestore(host, self.namespace, self.cainfo_port, work, one)
            if "ca" in one.artifact.settings
            else SecretsRestore(host, work, one)
            for one in work.opened
        ]

    def _look(self, host: Host, ca: str) -> tuple[dict[str, JsonValue], int]:
        """Return what a restore must know of a CA, and its size; SourceMissingError where it has no home."""
        place = host.cluster.place(self.namespace, selector=f"app={ca}")
        found = place.run(["sh", "-c", _FIND, "sh", *self.folders], timeout_seconds=LOOK_TIMEOUT_SECONDS, check=False)
        if found.returncode != 0:
            raise SourceMissingError(
                f"{place.name}: expected a CA's home with its fabric-ca-server-config.yaml in FABRIC_CA_HOME, "
                f"{', '.join(self.folders)}, seen none {found.complaint()}".rstrip(),
                "its folder belongs under source.folders",
            )
        folder, size_kib = found.text().splitlines()
        pod = next(one for one in host.cluster.pods(self.namespace, f"app={ca}") if one.name == _pod_name(place))
        claim, folder, mount = _claim(pod, folder)
        return {
            "ca": ca,
            "folder": folder,
            "claim": claim,
            "mount": mount,
            "pod": pod.name,
            "image": pod.images[0],
            "statefulset": host.cluster.owner(self.namespace, pod.name),
        }, int(size_kib) * 1024

    def _secrets(self, host: Host, capture: Capture) -> PlainStream:
        found = list_secrets(host.cluster, self.namespace)
        if not found:
            raise SourceMissingError(f"{capture.data_type}: expected Secrets in {self.namespace}, seen none")
        crypto = CryptoInventory()
        for secret in found:
            for key, value in secret.get("data", {}).items():
                crypto.add(f"{secret['metadata']['name']}/{key}", base64.b64decode(value))
        evidence = crypto.evidence(clock.now())
        evidence["secrets"] = [str(secret["metadata"]["name"]) for secret in found]
        lines = ((json.dumps(secret, sort_keys=True) + "\n").encode() for secret in found)
        return ChunkStream(lines, lambda: StreamEnd(evidence))


class _CaHome:
    """The tar of a CA's home, looked into as it passes by."""

    def __init__(self, stream: PlainStream, label: str) -> None:
        self._stream = stream
        self._label = label
        self._scanner = TarScanner()
        self._crypto = CryptoInventory()
        self._contents = TarContents(self._crypto.add)
        self._contents.start()

    def readinto(self, buffer: memoryview) -> int:
        count = self._stream.readinto(buffer)
        self._scanner.feed(buffer[:count])
        self._contents.feed(buffer[:count])
        return count

    def finish(self) -> StreamEnd:
        self._stream.finish()
        self._contents.finish()
        try:
            tree = self._scanner.finish()
        except IntegrityError as error:
            raise CollectError(f"{self._label}: {error.message}", retryable=True) from None
        faults = tuple(f"{self._label}: {fault}" for fault in self._crypto.faults())
        return StreamEnd({**tree, **self._crypto.evidence(clock.now())}, faults, self._contents.content_sha256)

    def close(self) -> None:
        self._contents.close()


def _pod_name(place: Place) -> str:
    return place.name.rpartition("/")[2]


def _claim(pod: Pod, folder: str) -> tuple[str, str, str]:
    """
    Return the claim that a folder lies on, the folder as far as that claim holds it, and where it is mounted.

    Without a claim all three but the folder are empty: such a CA is kept, and a restore says that it cannot be stopped.
    """
    for claim, mount in sorted(pod.claims.items(), key=lambda item: -len(item[1])):
        if f"{folder}/".startswith(f"{mount}/"):
            return claim, folder, mount
        if mount.startswith(f"{folder}/"):
            return claim, mount, mount
    return "", folder, ""
