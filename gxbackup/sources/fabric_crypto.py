"""
Fabric's certificate authorities, the Secrets beside them, and the MSP and TLS material on claims.

One artifact for each CA, one for the Secrets, one for each claim that holds keys or certificates.

A CA's files and its SQLite database are read as of one moment, which is proven: the database is digested before and
after. Where it keeps its database in PostgreSQL, that is a data type of the same set.
Source: strategy row Fabric Crypto Materials; facts B9, B10.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Literal

from pydantic import Field, JsonValue

from gxbackup import clock
from gxbackup.adapters.host import Host
from gxbackup.adapters.secrets import list_secrets
from gxbackup.chunk_stream import ChunkStream
from gxbackup.errors import BackupError, SourceMissingError
from gxbackup.fabric import claims
from gxbackup.fabric.ca_home import home_of
from gxbackup.fabric.ca_restore import CaRestore, chosen_words, is_chosen
from gxbackup.fabric.claim_restore import ClaimRestore
from gxbackup.fabric.claims import Found
from gxbackup.fabric.crypto import CryptoInventory
from gxbackup.fabric.crypto_tar import CryptoTar
from gxbackup.fabric.secrets_restore import SecretsRestore, crypto_of
from gxbackup.fabric.selection import require_held
from gxbackup.model import Artifact, Capture
from gxbackup.ports import Place, PlainStream, StreamEnd
from gxbackup.sources.base import Opened, Restorable, Work
from gxbackup.sources.directory import AbsolutePath

_log = logging.getLogger(__name__)
LOOK_TIMEOUT_SECONDS = 120
SECRETS = "secrets"
# The folder that holds the CA's home; its size in KiB; the file of its SQLite database, where its settings name another
# than its configuration file does, or `-` where they name another kind. A server's data source holds a password.
_FIND = """home=${FABRIC_CA_HOME:-${FABRIC_CA_SERVER_HOME:-}}
for folder in "$@"; do case $home/ in "$folder"/*) home=$folder ;; esac; done
for folder in "$home" "$@"; do
    [ -n "$folder" ] && [ -d "$folder" ] || continue
    [ -z "$(find "$folder" -name fabric-ca-server-config.yaml)" ] && continue
    echo "$folder"; du -sk "$folder" | cut -f 1
    database=${FABRIC_CA_SERVER_DB_DATASOURCE:-}
    case ${FABRIC_CA_SERVER_DB_TYPE:-sqlite3} in sqlite3) ;; *) database=- ;; esac
    if grep -q -e '--db[.]' /proc/1/cmdline; then database=-; fi
    echo "$database"; exit 0
done
exit 3"""
# A database that is written meanwhile gives another digest after than before. With GNU tar, 1 is that a file changed
# while it was read; with another one, that a file could not be read.
_READ = """cd "$1" || exit 1
databases() { find . -name '*.db' -o -name '*.db-wal' -o -name '*.db-journal' | sort | while read -r file; do
    echo "$file"; cat "$file"; done | sha256sum; }
numeric= changed=0
if tar --version 2>/dev/null | grep -q GNU; then numeric=--numeric-owner changed=1; fi
set --
for entry in * .[!.]* ..?*; do
    case $entry in .gxbackup-*|lost+found) continue ;; esac
    if [ -e "$entry" ] || [ -L "$entry" ]; then set -- "$@" "./$entry"; fi
done
before=$(databases)
tar $numeric -cf - "$@"; status=$?
[ "$status" -le "$changed" ] || exit "$status"
[ "$before" = "$(databases)" ] || { echo "the CA's database changed while it was read" >&2; exit 75; }"""


class FabricCrypto(Restorable):
    """What only a CA has: its keys, its certificates, its database; the namespace's Secrets; MSP and TLS on claims."""

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
    claims: tuple[str, ...] = Field(
        default=(),
        description="claims whose MSP and TLS material is kept, by name or pattern (`*`: all but the CAs' own); "
        "one that is named in full, or was kept before, and cannot be read or holds none counts as missing; "
        "of another that nobody can look into the run and the health check warn",
    )
    without_claims: tuple[str, ...] = Field(
        default=(), description="claims, by name or pattern, that are not read, or are gone on purpose"
    )
    helper_image: str | None = Field(
        default=None,
        description="image with sh, find and tar, for a claim that no pod mounts; by default a pod's of the namespace",
    )
    cainfo_port: int = Field(
        default=7054, ge=0, le=65535, description="where a restored CA is asked for its certificate; 0: its file alone"
    )

    def collect(self, host: Host, data_type: str) -> list[Capture]:
        """See `collect_since`: without a last good copy."""
        return self.collect_since(host, data_type, ())

    def collect_since(self, host: Host, data_type: str, last_good: Sequence[Artifact]) -> list[Capture]:
        """
        Name one capture for each CA, one for the Secrets, one for each claim with material.

        A CA or a claim that is not there, also one that `last_good` knows, fails where it is opened, alone. A claim
        that a pattern alone chose, and nobody can look into, is told in `claims_unread` and costs the others nothing.
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
        known = {str(one.settings["crypto_claim"]) for one in last_good if "crypto_claim" in one.settings}
        found = self._claims(host, known)
        captures += [
            Capture(
                data_type=data_type, name=f"claim-{name}.tar", settings={"crypto_claim": name},
                expected_size_bytes=size_bytes,
            )
            for name, size_bytes in found.sizes.items()
        ]  # fmt: skip
        return _with_unread(captures, data_type, found.unread)

    @contextmanager
    def open(self, host: Host, capture: Capture) -> Iterator[PlainStream]:
        """Read one CA's home, one claim, or the Secrets, with the certificates in it as evidence."""
        if "crypto_claim" in capture.settings:
            with self._claim(host, capture) as stream:
                yield stream
            return
        if "ca" not in capture.settings:
            yield self._secrets(host, capture)
            return
        ca = str(capture.settings["ca"])
        if "folder" not in capture.settings:
            self._look(host, ca)  # says what is wrong with it
        pod = host.cluster.place(self.namespace, selector=f"app={ca}")
        with pod.read(["sh", "-c", _READ, "sh", str(capture.settings["folder"])]) as stream:

            def faults(crypto: CryptoInventory) -> list[str]:
                return [*crypto.faults(), *crypto.registry_faults(str(capture.settings.get("database_told", "")))]

            home = CryptoTar(stream, f"{capture.data_type}: {ca}", faults)
            try:
                yield home
            finally:
                home.close()

    @contextmanager
    def _claim(self, host: Host, capture: Capture) -> Iterator[PlainStream]:
        name = str(capture.settings["crypto_claim"])
        with claims.material_of(host.cluster, self.namespace, name, self.helper_image) as material:
            if not material.size_bytes:
                raise SourceMissingError(
                    f"claim {self.namespace}/{name}: expected MSP or TLS material, seen none",
                    "gone on purpose? name it in source.without_claims",
                )
            with material.place.read(["sh", "-c", claims.READ, "sh", material.folder]) as stream:
                tar = CryptoTar(stream, f"{capture.data_type}: claim {name}", CryptoInventory.identity_faults)
                try:
                    yield tar
                finally:
                    tar.close()

    def _claims(self, host: Host, known: set[str]) -> Found:
        if not self.claims:
            return Found({}, ())
        cluster = host.cluster
        listed = claims.chosen(cluster.claims(self.namespace), self.claims, self.without_claims)
        cas = {claim for pod in cluster.pods(self.namespace) if pod.labels.get("app") in self.cas
               for claim in pod.claims}  # fmt: skip
        found = claims.found_in(cluster, self.namespace, listed, cas, known, self.helper_image)
        there = {claim.name for claim in listed.claims} | cas
        gone = [name for name in sorted(known - there) if not claims.matches(name, self.without_claims)]
        return found._replace(sizes=found.sizes | dict.fromkeys((*listed.missing, *gone), 0))

    def select(self, artifacts: Sequence[Artifact], options: dict[str, JsonValue]) -> tuple[Artifact, ...]:
        """
        Return those of `cas` (`ca-org1`, a claim, or `org1` with its Secrets and claims), or all.

        Raises: RestoreRefusedError where a word of `cas` is of nothing that is held.
        """
        words = chosen_words(options)
        held = {name for artifact in artifacts for name in _names(artifact)}
        require_held("cas", (word for word in words if not any(is_chosen(name, {word}) for name in held)), held)
        return tuple(one for one in artifacts if any(is_chosen(name, words) for name in _names(one)))

    def target(self, work: Work) -> str:
        """See `Restorable`."""
        names = [_called(one.artifact.settings) for one in work.opened]
        return f"{', '.join(names)} of {self.namespace}"

    def preview(self, host: Host, work: Work) -> list[str]:
        """See `Restorable`."""
        return [line for one in self._restores(host, work) for line in one.preview()]

    def rehearse(self, host: Host, work: Work) -> list[str]:
        """Hold each CA's certificates and keys against the evidence, and open its database. No CA is started."""
        return [line for one in self._restores(host, work) for line in one.rehearse()]

    def apply(self, host: Host, work: Work) -> list[str]:
        """Put the CAs back one after the other, each with its own safety copy; then the Secrets; then the claims."""
        restores = self._restores(host, work)
        for one in restores:
            one.preview()
        return [line for one in restores for line in one.apply()]

    def _restores(self, host: Host, work: Work) -> list[CaRestore | SecretsRestore | ClaimRestore]:
        def restore(one: Opened) -> CaRestore | SecretsRestore | ClaimRestore:
            if "ca" in one.artifact.settings:
                return CaRestore(host, self.namespace, self.cainfo_port, work, one)
            if "crypto_claim" in one.artifact.settings:
                return ClaimRestore(host, self.namespace, self.helper_image, work, one)
            return SecretsRestore(host, work, one)

        # Nodes are started anew once all that they read is there.
        return [restore(one) for one in sorted(work.opened, key=lambda one: "crypto_claim" in one.artifact.settings)]

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
        folder, size_kib, *database = found.text().splitlines()
        pod = next(one for one in host.cluster.pods(self.namespace, f"app={ca}") if one.name == _pod_name(place))
        return {
            "ca": ca,
            **home_of(pod, folder)._asdict(),
            "pod": pod.name,
            "image": pod.images[0],
            "statefulset": host.cluster.owner(self.namespace, pod.name),
            **({"database_told": database[0]} if database and database[0] else {}),
        }, int(size_kib) * 1024

    def _secrets(self, host: Host, capture: Capture) -> PlainStream:
        found = list_secrets(host.cluster, self.namespace)
        if not found:
            raise SourceMissingError(f"{capture.data_type}: expected Secrets in {self.namespace}, seen none")
        evidence = crypto_of(found).evidence(clock.now())
        evidence["secrets"] = [str(secret["metadata"]["name"]) for secret in found]
        lines = ((json.dumps(secret, sort_keys=True) + "\n").encode() for secret in found)
        return ChunkStream(lines, lambda: StreamEnd(evidence))


def _with_unread(captures: list[Capture], data_type: str, unread: Sequence[str]) -> list[Capture]:
    """Tell of claims that nobody could look into: in the log, and in the evidence that the health check reads."""
    for one in unread:
        _log.warning("%s: nobody could look into %s", data_type, one)
    if not unread:
        return captures
    if not captures:
        raise SourceMissingError(f"{data_type}: nobody could look into {'; '.join(unread)}")
    first = captures[0].model_copy(update={"evidence": {"claims_unread": [*unread]}})
    return [first, *captures[1:]]


def _names(artifact: Artifact) -> list[str]:
    """Return what an artifact is chosen by: its CA, its claim, or each of its Secrets."""
    names = artifact.evidence.get("secrets", [artifact.settings.get("ca", artifact.settings.get("crypto_claim"))])
    return [str(name) for name in names] if isinstance(names, list) else []


def _called(settings: dict[str, JsonValue]) -> str:
    if "crypto_claim" in settings:
        return f"claim {settings['crypto_claim']}"
    return str(settings.get("ca", "Secrets"))


def _pod_name(place: Place) -> str:
    return place.name.rpartition("/")[2]
