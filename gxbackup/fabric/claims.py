"""
The MSP and TLS material that nodes and people keep on claims: which claims hold some, and how it is read.

Read in a pod that mounts the claim; where none can, by a short-lived pod of ours that may only read. Taken are whole
MSP and TLS folders, and single certificates and keys; ledgers and databases on the same claim are other data types.
Source: strategy row Fabric Crypto Materials; facts B10 (msp/{cacerts,tlscacerts,signcerts,keystore,config.yaml}).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import NamedTuple

from gxbackup.adapters.cluster import CLAIM_FOLDER, Claim, Cluster, Pod, is_ours
from gxbackup.errors import BackupError, SourceMissingError
from gxbackup.ports import Ended, Place

LOOK_TIMEOUT_SECONDS = 600
# Taken as a whole, and exchanged as a whole by a restore.
FOLDERS = (
    "msp", "tls", "organizations", "crypto-config", "channel-artifacts", "signcerts", "keystore", "cacerts",
    "intermediatecerts", "tlscacerts", "tlsintermediatecerts", "admincerts", "crls",
)  # fmt: skip
FILES = ("*.pem", "*.crt", "*.cer", "*.key", "*_sk", "*.p12", "*.pfx", "*.jks")
# Large, busy, and no keys in them.
_LEDGERS = ("ledgersData", "chains", "etcdraft", "transientstore", "chaincodes", "snapshots", "shards", ".gxbackup-*",
            "lost+found")  # fmt: skip


def _any_of(names: Sequence[str]) -> str:
    return " -o ".join(f"-name '{name}'" for name in names)


_PASSED_OVER = f"\\( {_any_of(_LEDGERS)} \\)"
# What another volume is mounted upon lies on that volume. `config.yaml` beside `cacerts` tells roles in an MSP.
_LIST = f"""cd "$1" || exit 1
own=$(stat -c %d .)
list() {{
    find . -xdev -type d {_PASSED_OVER} -prune -o ! -type f \\( {_any_of(FOLDERS)} \\) -prune -print \\
        -o ! -type d \\( {_any_of((*FILES, "config.yaml"))} \\) -print | sort | while IFS= read -r entry; do
        case $entry in */config.yaml) [ -d "${{entry%/*}}/cacerts" ] || continue ;; esac
        [ "$(stat -c %d "$entry")" = "$own" ] && echo "$entry"
    done
}}
"""
NONE_THERE, NOT_MOUNTED, NOT_READABLE = 3, 4, 5
_LOOK = (
    _LIST
    + f"""
grep -qF " $(pwd -P) " /proc/mounts || exit {NOT_MOUNTED}
find . -xdev -type d {_PASSED_OVER} -prune -o -type d -print >/dev/null || exit {NOT_READABLE}
[ -n "$(list)" ] || exit {NONE_THERE}
list | while IFS= read -r entry; do
    find "$entry" >/dev/null || exit 1
    find "$entry" -type f | while IFS= read -r file; do [ -r "$file" ] || exit 1; done || exit 1
done || exit {NOT_READABLE}
list | while IFS= read -r entry; do du -sk "$entry" | cut -f 1; done"""
)
# What is changed meanwhile gives another digest after than before.
READ = (
    _LIST
    + """
digest() { list | while IFS= read -r entry; do find "$entry" -type f -exec sha256sum {} +; done | sort | sha256sum; }
tar --version 2>/dev/null | grep -q GNU && numeric=--numeric-owner
[ -n "$(list)" ] || exec head -c 1024 /dev/zero
before=$(digest)
list | tar $numeric -cf - -T -; status=$?
[ "$status" -le 1 ] || exit "$status"
[ "$before" = "$(digest)" ] || { echo "keys or certificates changed while they were read" >&2; exit 75; }"""
)


class Material(NamedTuple):
    """Where a claim's keys and certificates can be read, and how large they are; 0: it holds none."""

    place: Place
    folder: str
    size_bytes: int


class Listed(NamedTuple):
    """What a pattern chose."""

    claims: tuple[Claim, ...]
    named: frozenset[str]  # those that are named in full
    missing: tuple[str, ...]  # names and patterns that are of no claim


def chosen(claims: Sequence[Claim], patterns: Sequence[str], without: Sequence[str]) -> Listed:
    """Return the claims that names and patterns choose. Pure."""
    kept = tuple(one for one in claims if matches(one.name, patterns) and not matches(one.name, without))
    missing = tuple(word for word in patterns if not any(fnmatchcase(one.name, word) for one in claims))
    return Listed(kept, frozenset(one.name for one in kept if one.name in patterns), missing)


class Found(NamedTuple):
    """What a look into the chosen claims came to."""

    sizes: dict[str, int]  # claim → size of what is read of it; 0: not known, and told where it is opened
    unread: tuple[str, ...]  # those that a pattern alone chose, and nobody could look into, each with why


def found_in(
    cluster: Cluster, namespace: str, listed: Listed, passed_over: set[str], known: set[str], image: str | None
) -> Found:
    """
    Look into the chosen claims; `known` are those that keys were kept of.

    One that is neither named in full nor known, and cannot be looked into, may hold no key at all: it costs the others
    nothing, and is told.
    """
    sizes: dict[str, int] = {}
    unread = []
    expected = listed.named | known
    for claim in listed.claims:
        if claim.name in passed_over or (claim.phase == "Pending" and claim.name not in expected):
            continue
        try:
            with material_of(cluster, namespace, claim.name, image) as material:
                size_bytes = material.size_bytes
        except BackupError as error:
            if claim.name in expected:
                sizes[claim.name] = 0
            else:
                unread.append(f"claim {namespace}/{claim.name}: {error.message}")
            continue
        if size_bytes or claim.name in expected:
            sizes[claim.name] = size_bytes
    return Found(sizes, tuple(unread))


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Tell whether a claim is one of those named. Pure."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def users(cluster: Cluster, namespace: str, claim: str) -> list[Pod]:
    """Return the pods that mount a claim and have not ended, those that are ready first; never one of ours."""
    found = [pod for pod in cluster.pods(namespace) if claim in pod.claims and not is_ours(pod)]
    return sorted((pod for pod in found if pod.state not in ("Succeeded", "Failed")), key=lambda pod: not pod.ready)


@contextmanager
def material_of(cluster: Cluster, namespace: str, claim: str, image: str | None) -> Iterator[Material]:
    """
    Give where a claim's keys and certificates can be read; a pod that is started for it is gone with the block.

    Raises: SourceMissingError where there is no such claim or nothing is bound to it; BackupError where neither a pod
    that mounts it nor one of ours can read it.
    """
    _require_bound(cluster, namespace, claim)
    mounting = users(cluster, namespace, claim)
    for pod in mounting:
        for container in pod.containers if pod.ready and pod.claims[claim] else ():
            place = cluster.place(namespace, pod=pod.name, container=container)
            seen = _look(place, pod.claims[claim])
            if seen.returncode in (0, NONE_THERE):
                yield Material(place, pod.claims[claim], _size_bytes(seen))
                return
    image = image or image_for(cluster, namespace, mounting)
    node = mounting[0].node if mounting else None
    with cluster.claim_place(namespace, claim, image, node=node, read_only=True) as helper:
        seen = _look(helper, CLAIM_FOLDER)
        if seen.returncode not in (0, NONE_THERE):
            raise SourceMissingError(
                f"claim {namespace}/{claim}: cannot be read: exit status {seen.returncode} {seen.complaint()}".rstrip(),
                f"its look needs sh, find, stat and tar: image {image} may lack one; name another as "
                "source.helper_image",
            )
        yield Material(helper, CLAIM_FOLDER, _size_bytes(seen))


def image_for(cluster: Cluster, namespace: str, mounting: Sequence[Pod]) -> str:
    """Return an image that a node has already: of a pod that mounts the claim, else of any in the namespace."""
    for pod in (*mounting, *cluster.pods(namespace)):
        if not is_ours(pod):
            return pod.images[0]
    raise SourceMissingError(
        f"{namespace}: expected a pod whose image could be started on a claim, seen none",
        "name an image with sh, find and tar as source.helper_image",
    )


def units(names: Sequence[str]) -> list[str]:
    """Return what a restore exchanges as a whole, from the members of a tar: MSP and TLS folders, else single files."""
    found = dict.fromkeys(_unit(PurePosixPath(name.removeprefix("./"))) for name in names)
    return [unit for unit in found if unit]


def _unit(path: PurePosixPath) -> str:
    for position, part in enumerate(path.parts):
        if part in FOLDERS:
            return "/".join(path.parts[: position + 1])
    return str(path)


def _require_bound(cluster: Cluster, namespace: str, claim: str) -> None:
    phase = next((one.phase for one in cluster.claims(namespace) if one.name == claim), None)
    if phase != "Bound":
        raise SourceMissingError(
            f"claim {namespace}/{claim}: expected bound to a volume, seen {phase or 'no such claim'}",
            "gone on purpose, or never written to? name it in source.without_claims",
        )


def _look(place: Place, folder: str) -> Ended:
    try:
        return place.run(["sh", "-c", _LOOK, "sh", folder], timeout_seconds=LOOK_TIMEOUT_SECONDS, check=False)
    except BackupError as error:  # no shell in it, or it went away
        return Ended(1, b"", error.message.encode())


def _size_bytes(seen: Ended) -> int:
    return max(1, sum(int(line) for line in seen.text().split())) * 1024 if seen.returncode == 0 else 0
