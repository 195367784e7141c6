"""A namespace's Secrets put back: those that differ are made or overwritten; none is deleted."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gxbackup import clock
from gxbackup.adapters.host import Host
from gxbackup.adapters.secrets import ACCOUNT_TOKEN, SecretObject, list_secrets, put_secret
from gxbackup.errors import BackupError, IntegrityError
from gxbackup.fabric.ca_restore import chosen_words, is_chosen
from gxbackup.fabric.claim_restore import refuse_newer
from gxbackup.fabric.crypto import CryptoInventory

if TYPE_CHECKING:
    from gxbackup.sources.base import Opened, Work


class SecretsRestore:
    """The restore of a namespace's Secrets."""

    def __init__(self, host: Host, work: Work, opened: Opened) -> None:
        self._host = host
        self._work = work
        with opened.file.open(encoding="utf-8") as lines:
            self._kept = [json.loads(line) for line in lines]
        if [one["metadata"]["name"] for one in self._kept] != opened.artifact.evidence["secrets"]:
            raise IntegrityError("Secrets: expected those of the evidence, seen others")

    def preview(self) -> list[str]:
        """
        Say which Secrets would be made and which overwritten; none is deleted.

        Raises: RestoreRefusedError where a certificate in one of them was issued since, and nobody allowed that.
        """
        there, wanted = self._there(), self._wanted()
        refuse_newer("Secrets", crypto_of(there.values()), crypto_of(wanted.values()), self._work)
        told = [f"Secrets: {sum(there.get(n) == s for n, s in wanted.items())} of {len(wanted)} are the same already"]
        for name, secret in wanted.items():
            if there.get(name) != secret:
                told.append(f"{'changed' if name in there else 'added'}: Secret {name}")
        return told

    def rehearse(self) -> list[str]:
        """Decode every value."""
        for secret in self._kept:
            for value in secret.get("data", {}).values():
                base64.b64decode(value, validate=True)
        return [f"Secrets: {len(self._kept)} decoded"]

    def apply(self) -> list[str]:
        """Make or overwrite those that differ; what is overwritten is kept in the safety folder first."""
        there, wanted = self._there(), self._wanted()
        changed = {name: secret for name, secret in wanted.items() if there.get(name) != secret}
        overwritten = [there[name] for name in changed if name in there]
        if not changed:
            return ["Secrets: all are as they were kept"]
        self._work.safety_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        copy = self._work.safety_dir / f"secrets-before-{clock.now():%Y%m%dT%H%M%S.%fZ}.jsonl"
        copy.touch(mode=0o600, exist_ok=False)
        copy.write_text("".join(json.dumps(secret) + "\n" for secret in overwritten), encoding="utf-8")
        try:
            for secret in changed.values():
                put_secret(self._host.cluster, secret)
        except BackupError:
            for secret in overwritten:
                put_secret(self._host.cluster, secret)
            raise
        return [f"Secrets: {len(changed)} put back; the {len(overwritten)} that were overwritten lie in {copy}"]

    def _wanted(self) -> dict[str, SecretObject]:
        words = chosen_words(self._work.options)
        named = {str(one["metadata"]["name"]): one for one in self._kept if one.get("type") != ACCOUNT_TOKEN}
        return {name: one for name, one in named.items() if is_chosen(name, words)}

    def _there(self) -> dict[str, SecretObject]:
        namespace = str(self._kept[0]["metadata"]["namespace"])
        return {str(one["metadata"]["name"]): one for one in list_secrets(self._host.cluster, namespace)}


def crypto_of(secrets: Iterable[SecretObject]) -> CryptoInventory:
    """Return the keys and certificates in the values of Secrets."""
    crypto = CryptoInventory()
    for secret in secrets:
        for key, value in secret.get("data", {}).items():
            crypto.add(f"{secret['metadata']['name']}/{key}", base64.b64decode(value))
    return crypto
