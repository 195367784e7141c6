"""
One CA put back: stopped, its home exchanged for the one that was kept, started, and asked whose certificate it shows.

Source: facts B9 (never start a CA on an empty home; the fingerprint before it is started, and as it tells it after).
"""

from __future__ import annotations

import base64
import sqlite3
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from pydantic import JsonValue

from gxbackup.adapters.cluster import CLAIM_FOLDER
from gxbackup.adapters.host import Host
from gxbackup.errors import BackupError, IntegrityError, RestoreError, RestoreRefusedError
from gxbackup.fabric.crypto import IN_A_SERVER, CryptoInventory
from gxbackup.fabric.crypto_tar import opened_crypto
from gxbackup.model import Artifact
from gxbackup.volume_exchange import VolumeExchange

if TYPE_CHECKING:
    from gxbackup.sources.base import Opened, Work

ANSWER_TIMEOUT_SECONDS = 120
SECONDS_BETWEEN_QUESTIONS = 0.5


class CaRestore:
    """The restore of one CA from its artifact."""

    def __init__(self, host: Host, namespace: str, cainfo_port: int, work: Work, opened: Opened) -> None:
        self._host = host
        self._namespace = namespace
        self._port = cainfo_port
        self._work = work
        self._opened = opened
        self._settings = {key: str(value) for key, value in opened.artifact.settings.items()}
        self._expected = opened.artifact.evidence.get("ca_sha256")
        self._ca = self._settings["ca"]

    def preview(self) -> list[str]:
        """Read all of the artifact, vetted, and say what is exchanged; RestoreRefusedError where it cannot be."""
        self._read()
        if not self._settings.get("claim"):
            raise RestoreRefusedError(
                f"{self._ca}: {self._settings.get('folder')}: lies on no claim, and is gone with its pod",
                "rehearse it to scratch, and put it back by hand",
            )
        if not self._settings["mount"]:
            raise RestoreRefusedError(
                f"{self._ca}: {self._settings['folder']}: this copy does not tell where on claim "
                f"{self._settings['claim']} it lies: by a subPath, which versions before 0.7 did not know",
                "take a later snapshot, or rehearse it to scratch and put it back by hand",
            )
        registry = self._require_registry()
        running = self._host.cluster.replicas(self._namespace, self._settings["statefulset"])
        return [
            f"{self._ca}: {self._settings['folder']} on claim {self._settings['claim']} is exchanged",
            f"{self._ca}: its StatefulSet ({running} pods now) stands still meanwhile",
            f"{self._ca}: certificate {_told(self._expected)}",
            *registry,
        ]

    def rehearse(self) -> list[str]:
        """Hold all that was kept against its evidence, and open its database where that is SQLite."""
        crypto = self._read()
        told = [f"{self._ca}: {len(crypto.certificates)} certificates, evidence equal"]
        with tarfile.open(self._opened.file) as tar:
            databases = [member for member in tar if member.isreg() and member.name.endswith(".db")]
            return told + [f"{self._ca}: {member.name}: {self._database(tar, member)}" for member in databases]

    def apply(self) -> list[str]:
        """
        Stop, exchange, start, ask. On failure the old home is in place again, and the CA is started with it.

        Where it cannot be put back, the CA stays stopped, and the RestoreError says where its old home lies: on any
        other it would serve, or make, another certificate.
        """
        self.preview()
        replicas = max(1, self._host.cluster.replicas(self._namespace, self._settings["statefulset"]))
        volume: VolumeExchange | None = None
        exchanged = False
        try:
            self._scale(0)
            with self._volume() as volume:
                volume.prepare(self._opened.artifact.plain_size_bytes)
                volume.unpack(self._opened.file)
                before = volume.exchange()
                exchanged = True
                self._require_fingerprint(volume)
            self._scale(replicas)
            answer = self._ask()
        except BaseException as error:  # also where the run is cancelled: a CA that stands still helps nobody
            if volume:
                self._undo(volume, error, exchanged=exchanged)
            self._scale(replicas)
            if not isinstance(error, BackupError):
                raise
            raise RestoreError(f"{self._ca}: as it was, and started again: {error.message}", *error.hints) from error
        return [f"{self._ca}: restored and started; {answer}; what was there lies in {before} on its claim"]

    def _undo(self, volume: VolumeExchange, error: BaseException, *, exchanged: bool) -> None:
        """Put the old home in its place. Raises: RestoreError where that fails: then nothing may be started."""
        try:
            if exchanged:
                self._scale(0)
            with self._volume() as again:
                again.before = volume.before
                again.undo(exchanged=exchanged)
        except BackupError as worse:
            claim = f"{self._namespace}/{self._settings['claim']}"
            raise volume.left_stopped(self._ca, claim, error, worse, exchanged=exchanged) from error

    def _scale(self, replicas: int) -> None:
        self._host.cluster.scale(self._namespace, self._settings["statefulset"], replicas)

    @contextmanager
    def _volume(self) -> Iterator[VolumeExchange]:
        within = self._settings["folder"].removeprefix(self._settings["mount"]).strip("/")
        below = "/".join(part for part in (self._settings.get("sub_path"), within) if part)
        claim, image = self._settings["claim"], self._settings["image"]
        with self._host.cluster.claim_place(self._namespace, claim, image) as place:
            place.run(["mkdir", "-p", f"{CLAIM_FOLDER}/{below}"], timeout_seconds=ANSWER_TIMEOUT_SECONDS)
            yield VolumeExchange(place, f"{CLAIM_FOLDER}/{below}".rstrip("/"))

    def _require_registry(self) -> list[str]:
        """Say what was compared of the registry; RestoreRefusedError where that differs, and nobody allowed it."""
        if not keeps_registry_elsewhere(self._opened.artifact):
            return []
        if not self._work.registry_faults:
            compared = "has as many rows in each table as in this snapshot; their content was not compared"
            return [f"{self._ca}: its registry in PostgreSQL {compared}"]
        told = "; ".join(self._work.registry_faults)
        if self._work.options.get("unmatched"):
            return [f"{self._ca}: its registry in PostgreSQL is of another moment: {told}"]
        raise RestoreRefusedError(
            f"{self._ca}: its registry in PostgreSQL is not of the moment of these keys: {told}",
            "restore that first, from the same snapshot (restore-ca-postgres), then this one right after it",
            "where the registry was never lost and the CA's certificate is still the same one, say unmatched",
        )

    def _read(self) -> CryptoInventory:
        """Read the artifact to its end; raise unless its certificates are those of the evidence."""
        crypto, _ = opened_crypto(self._opened, self._ca)
        if faults := crypto.faults():
            raise RestoreRefusedError(f"{self._ca}: {'; '.join(faults)}", "choose the snapshot before this one")
        return crypto

    def _database(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
        """Copy a database with its journals into the private area, open it, and say what it holds."""
        beside = [one for one in tar.getmembers() if one.name in (member.name, f"{member.name}-wal",
                                                                f"{member.name}-journal")]  # fmt: skip
        folder = self._work.area / "database"
        folder.mkdir(mode=0o700, exist_ok=True)
        for one in beside:
            content = tar.extractfile(one)
            assert content is not None
            (folder / Path(one.name).name).write_bytes(content.read())
        with closing(sqlite3.connect(folder / Path(member.name).name)) as database:
            answer = database.execute("PRAGMA integrity_check").fetchone()[0]
            if answer != "ok":
                raise IntegrityError(f"{self._ca}: {member.name}: expected an intact database, seen: {answer}")
            tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            counts = {table: database.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]  # noqa: S608
                      for table in sorted(tables)}  # fmt: skip
        for file in folder.iterdir():
            file.unlink()
        return ", ".join(f"{count} {table}" for table, count in counts.items())

    def _require_fingerprint(self, volume: VolumeExchange) -> None:
        """Raise unless the certificate on the volume is the one that was kept."""
        found = volume.place.run(
            ["sh", "-c", 'find "$1" -name ".gxbackup-*" -prune -o -name ca-cert.pem -exec cat {} +', "sh",
             volume.folder], timeout_seconds=ANSWER_TIMEOUT_SECONDS,
        )  # fmt: skip
        self._require(_fingerprints(found.stdout), "on its volume")

    def _require(self, seen: set[str], where: str) -> None:
        expected = set(self._expected) if isinstance(self._expected, list) else set()
        if not expected & seen or not expected:
            raise IntegrityError(
                f"{self._ca}: expected certificate {_told(self._expected)}, seen {_told([*seen])} {where}"
            )

    def _ask(self) -> str:
        if not self._port:
            return "its certificate is the one that was kept"
        url = self._host.cluster.endpoint(self._namespace, self._ca, self._port)
        self._require(served_fingerprints(url, ANSWER_TIMEOUT_SECONDS), "in its answer to /cainfo")
        return "/cainfo shows the certificate that was kept"


def keeps_registry_elsewhere(artifact: Artifact) -> bool:
    """Tell whether a CA keeps its registry in a database server, and not as SQLite in its home."""
    told = artifact.evidence.get("databases")
    by_its_file = isinstance(told, list) and any(one != "sqlite3" for one in told)
    return by_its_file or artifact.settings.get("database_told") == IN_A_SERVER


def chosen_words(options: dict[str, JsonValue]) -> set[str]:
    """Return the CAs and organisations that the option `cas` names; empty: all."""
    cas = options.get("cas") or []
    return {str(word) for word in cas} if isinstance(cas, list) else set()


def is_chosen(name: str, words: set[str]) -> bool:
    """Tell whether a CA or a Secret is one of those named, or of an organisation named."""
    return not words or bool(words & {name, *name.split("-")})


def served_fingerprints(url: str, timeout_seconds: float) -> set[str]:
    """
    Return the SHA-256 fingerprints in a CA's answer to /cainfo, asked until it answers; over TLS where it wants that.

    Its certificate is not trusted before it is compared: that is what the answer is for.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        for address in (url, url.replace("http://", "https://", 1)):
            with suppress(httpx.HTTPError, KeyError, ValueError):
                answer = httpx.get(f"{address}/cainfo", verify=False, timeout=10, trust_env=False)  # noqa: S501
                return _fingerprints(base64.b64decode(answer.json()["result"]["CAChain"]))
        if time.monotonic() > deadline:
            raise RestoreError(f"{url}/cainfo: no CA answers within {timeout_seconds:g} s")
        time.sleep(SECONDS_BETWEEN_QUESTIONS)


def _fingerprints(pem: bytes) -> set[str]:
    crypto = CryptoInventory()
    crypto.add("ca-cert.pem", pem)
    return {one.sha256 for one in crypto.certificates}


def _told(fingerprints: JsonValue) -> str:
    return ", ".join(str(one)[:16] for one in fingerprints) if isinstance(fingerprints, list) else "none"
