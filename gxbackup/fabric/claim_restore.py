"""
One claim's MSP and TLS material put back: exchanged folder by folder beside what else the claim holds, then the pods
that mount it are started anew.

    .gxbackup-claim-units         which units are being exchanged; its first line names where the old ones go
    .gxbackup-before-TIME         the old ones: the safety copy

All moves are renames within the claim. Killed between any two of them, the next restore first puts the old ones back.
Source: facts B10 (per identity; never a newer certificate without a word of consent).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gxbackup import clock
from gxbackup.adapters.cluster import CLAIM_FOLDER, Pod
from gxbackup.adapters.host import Host
from gxbackup.errors import BackupError, IntegrityError, RestoreError, RestoreRefusedError
from gxbackup.fabric import claims
from gxbackup.fabric.crypto import CryptoInventory, newer
from gxbackup.fabric.crypto_tar import crypto_in, opened_crypto
from gxbackup.ports import Place
from gxbackup.volume_exchange import VolumeExchange

if TYPE_CHECKING:
    from gxbackup.sources.base import Opened, Work

_log = logging.getLogger(__name__)
READY_TIMEOUT_SECONDS = 300
MOVE_TIMEOUT_SECONDS = 600
SECONDS_BETWEEN_LOOKS = 0.5
_RECOVER = """cd "$1" || exit 1
[ -e .gxbackup-claim-units ] || exit 0
{
    read -r before
    while read -r sign unit; do
        if [ -e "$before/$unit" ] || [ -L "$before/$unit" ]; then
            rm -rf "./$unit" && mv "$before/$unit" "./$unit" || exit 1
        elif [ "$sign" = - ] && ! [ -e ".gxbackup-new/$unit" ] && ! [ -L ".gxbackup-new/$unit" ]; then
            rm -rf "./$unit" || exit 1
        fi
    done
} <.gxbackup-claim-units
sync; rm -rf "$before" .gxbackup-new .gxbackup-claim-units"""
_EXCHANGE = """cd "$1" || exit 1
before=$2
{
    echo "$before"
    while IFS= read -r unit; do
        if [ -e "./$unit" ] || [ -L "./$unit" ]; then echo "+ $unit"; else echo "- $unit"; fi
    done
} >.gxbackup-claim-noted || exit 1
mkdir -m 700 "$before" && sync && mv .gxbackup-claim-noted .gxbackup-claim-units || exit 1
{
    read -r before
    while read -r sign unit; do
        case $unit in */*) parent=${unit%/*} ;; *) parent=. ;; esac
        if [ "$sign" = + ]; then mkdir -p "$before/$parent" && mv "./$unit" "$before/$unit" || exit 1; fi
        mkdir -p "./$parent" && mv ".gxbackup-new/$unit" "./$unit" || exit 1
    done
} <.gxbackup-claim-units
sync; mv .gxbackup-claim-units "$before/.gxbackup-claim-units" && rm -rf .gxbackup-new"""
# Whether the exchange has ended or not.
_PUT_BACK = (
    """cd "$1" || exit 1
[ ! -e "$2/.gxbackup-claim-units" ] || mv "$2/.gxbackup-claim-units" .gxbackup-claim-units || exit 1
"""
    + _RECOVER
)


class ClaimRestore:
    """The restore of one claim from its artifact."""

    def __init__(self, host: Host, namespace: str, image: str | None, work: Work, opened: Opened) -> None:
        self._cluster = host.cluster
        self._namespace = namespace
        self._work = work
        self._opened = opened
        self._claim = str(opened.artifact.settings["crypto_claim"])
        self._image = image
        self._exchanged = False
        self._to_start: set[str] = set()  # pods that may have read other keys than the claim holds
        self._before = f".gxbackup-before-{clock.now():%Y%m%dT%H%M%SZ}"

    def preview(self) -> list[str]:
        """Read all of the artifact, vetted, and say what is exchanged. Raises: RestoreRefusedError."""
        crypto, units = self._kept()
        with claims.material_of(self._cluster, self._namespace, self._claim, self._image) as material:
            there = _read(material.place, material.folder) if material.size_bytes else CryptoInventory()
        self._require_consent(there, crypto)
        same = sum(one.sha256 in {other.sha256 for other in there.certificates} for one in crypto.certificates)
        pods = ", ".join(pod.name for pod in self._users()) or "none"
        return [
            f"claim {self._claim}: exchanged are {', '.join(units)}; what else it holds stays",
            f"claim {self._claim}: {same} of {len(crypto.certificates)} certificates are the same already",
            f"claim {self._claim}: pods that mount it, started anew after: {pods}",
        ]

    def rehearse(self) -> list[str]:
        """Hold all that was kept against its evidence."""
        crypto, units = self._kept()
        return [f"claim {self._claim}: {len(crypto.certificates)} certificates in {len(units)} units, evidence equal"]

    def apply(self) -> list[str]:
        """
        Exchange, compare, start the pods anew. Where one that was ready does not come back, all is as it was.

        A pod that was not ready before is started anew and not waited for: what it lacks may not be on this claim.
        Cut short by a signal after the exchange, it names the pods that still run with what was there before.
        """
        crypto, units = self._kept()
        users = self._users()
        try:
            return self._apply(crypto, units, users)
        except BaseException as error:
            if self._to_start:
                told = (
                    f"claim {self._claim}: its keys may be others than these pods of {self._namespace} have read: "
                    f"start them anew by hand: {', '.join(sorted(self._to_start))}"
                )
                _log.error("%s", told)
                error.add_note(told)
            raise

    def _apply(self, crypto: CryptoInventory, units: list[str], users: list[Pod]) -> list[str]:
        try:
            with self._place(users) as place:
                self._shell(place, _RECOVER)  # what a killed restore half moved counts as what is there
                self._require_consent(_read(place, CLAIM_FOLDER), crypto)
                self._exchange(place, crypto, units, users)
                self._exchanged = True
            told = [f"claim {self._claim}: restored, evidence equal; what was there lies in {self._before} on it"]
            return told + self._start_anew(users)
        except BackupError as error:
            if not self._exchanged:
                raise
            self._to_start = {pod.name for pod in users}
            with self._place(users) as place:
                self._shell(place, _PUT_BACK, self._before)
            self._start_anew([pod.model_copy(update={"ready": False}) for pod in users])
            raise RestoreError(
                f"claim {self._claim}: as it was, and its pods started again: {error.message}", *error.hints
            ) from error

    def _exchange(self, place: Place, crypto: CryptoInventory, units: list[str], users: list[Pod]) -> None:
        """Exchange and compare; whatever cuts it short, the claim is as it was."""
        volume = VolumeExchange(place, CLAIM_FOLDER)
        volume.prepare(self._opened.artifact.plain_size_bytes)
        try:
            volume.unpack(self._opened.file)
            self._to_start = {pod.name for pod in users}
            self._shell(place, _EXCHANGE, self._before, stdin="".join(f"{unit}\n" for unit in units))
            if lost := crypto.lost_in(_read(place, CLAIM_FOLDER)):
                raise IntegrityError(f"claim {self._claim}: as it was: after the exchange it lacks {', '.join(lost)}")
        except BaseException:
            self._shell(place, _PUT_BACK, self._before)
            self._to_start.clear()
            volume.discard()
            raise

    def _start_anew(self, users: list[Pod]) -> list[str]:
        """Delete the pods, and wait for as many ready ones as there were."""
        told = []
        for pod in users:
            if not pod.is_made_again:
                told.append(f"pod {pod.name}: nothing would make it again: start it anew by hand")
                continue
            self._cluster.delete_pod(self._namespace, pod.name)
            self._to_start.discard(pod.name)
            told.append(
                f"pod {pod.name}: started anew" + ("" if pod.ready else "; it was not ready before: look at it")
            )
        wanted = sum(pod.ready for pod in users)
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        while (seen := sum(pod.ready for pod in self._users())) < wanted:
            if time.monotonic() > deadline:
                raise RestoreError(
                    f"claim {self._claim}: expected {wanted} ready pods within {READY_TIMEOUT_SECONDS} s, seen {seen}"
                )
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return told

    def _require_consent(self, there: CryptoInventory, kept: CryptoInventory) -> None:
        refuse_newer(f"claim {self._claim}", there, kept, self._work)

    def _kept(self) -> tuple[CryptoInventory, list[str]]:
        """Return what the artifact holds, and its units; raise unless it is what its evidence says."""
        crypto, names = opened_crypto(self._opened, f"claim {self._claim}")
        if faults := crypto.identity_faults():
            raise RestoreRefusedError(
                f"claim {self._claim}: {'; '.join(faults)}", "choose the snapshot before this one"
            )
        return crypto, claims.units(names)

    def _users(self) -> list[Pod]:
        return claims.users(self._cluster, self._namespace, self._claim)

    @contextmanager
    def _place(self, mounting: list[Pod]) -> Iterator[Place]:
        """Give a place that may write the claim, on the node of the pods that mount it: they may only read."""
        image = self._image or claims.image_for(self._cluster, self._namespace, mounting)
        node = mounting[0].node if mounting else None
        with self._cluster.claim_place(self._namespace, self._claim, image, node=node) as place:
            yield place

    def _shell(self, place: Place, script: str, *words: str, stdin: str | None = None) -> None:
        place.run(
            ["sh", "-c", script, "sh", CLAIM_FOLDER, *words],
            timeout_seconds=MOVE_TIMEOUT_SECONDS, stdin=None if stdin is None else stdin.encode(),
        )  # fmt: skip


def refuse_newer(label: str, there: CryptoInventory, kept: CryptoInventory, work: Work) -> None:
    """Raise RestoreRefusedError where certificates were issued since, unless a person said `allow_older`."""
    if (found := newer(there, kept)) and not work.options.get("allow_older"):
        raise RestoreRefusedError(
            f"{label}: certificates that are there are newer than those kept: {'; '.join(found)}",
            "an older TLS certificate of an orderer is not the one that its channels name any more",
            "to go back on purpose, say allow_older",
        )


def _read(place: Place, folder: str) -> CryptoInventory:
    with place.read(["sh", "-c", claims.READ, "sh", folder]) as stream:
        return crypto_in(stream)
