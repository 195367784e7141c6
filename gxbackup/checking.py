"""
The two proofs of a backup: what lies in staging is what was hashed in flight, and the remote holds the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from gxbackup import layout
from gxbackup.adapters.rclone import Remote
from gxbackup.errors import IntegrityError
from gxbackup.inventory import DataType
from gxbackup.model import Artifact, Part, SealedFile


def confirm(
    sealed: SealedFile, area: Path, data_type: DataType, snapshot: str, recipients: tuple[str, ...]
) -> Artifact:
    """
    Read a sealed file back from staging, compare it with the hashes taken in flight, and write its manifest entry.

    Raises: IntegrityError where the disk gives back something else.
    """
    for part in sealed.parts:
        require_equal(area / part.path, part)
    return Artifact(
        data_type=sealed.capture.data_type,
        kind=data_type.source.kind,
        path=sealed.path,
        parts=sealed.parts,
        sealed_size_bytes=sealed.sealed_size_bytes,
        sealed_sha256=sealed.sealed_sha256,
        plain_size_bytes=sealed.plain_size_bytes,
        plain_sha256=sealed.plain_sha256,
        content_sha256=sealed.content_sha256 if sealed.content_sha256 != sealed.plain_sha256 else None,
        keep_days=data_type.keep_days,
        settings=sealed.capture.settings,
        evidence=sealed.evidence,
        base=sealed.capture.base,
        recipients=recipients,
        set_id=f"{data_type.set_name}/{snapshot}" if data_type.set_name else None,
    )


def reused(artifact: Artifact, earlier: Artifact | None) -> Artifact | None:
    """
    Return the entry that refers to an earlier artifact's files where the content is the same, else None.

    `earlier` names where its files lie in `held_in`. The evidence stays the new one: it was taken now. A file that was
    sealed to other recipients is another one: a key that was lost or stolen must not live on in it.
    """
    if earlier is None or earlier.path != artifact.path or earlier.recipients != artifact.recipients:
        return None
    if _content(earlier) != _content(artifact):
        return None
    return artifact.model_copy(
        update={
            "parts": earlier.parts,
            "sealed_size_bytes": earlier.sealed_size_bytes,
            "sealed_sha256": earlier.sealed_sha256,
            "plain_size_bytes": earlier.plain_size_bytes,
            "plain_sha256": earlier.plain_sha256,
            "content_sha256": earlier.content_sha256,
            "base": earlier.base,
            "held_in": earlier.held_in,
        }
    )


def _content(artifact: Artifact) -> str:
    return artifact.content_sha256 or artifact.plain_sha256


def require_equal(file: Path, part: Part, *hints: str) -> None:
    """
    Raise IntegrityError unless a local file has the size and sha256 of a stored part.

    The hints say what to do then; without any it is a file that this host wrote itself.
    """
    try:
        seen_size_bytes = file.stat().st_size
        with file.open("rb", buffering=0) as opened:
            seen = (
                hashlib.file_digest(opened, "sha256").hexdigest() if seen_size_bytes == part.size_bytes else "not read"
            )
    except OSError as error:
        raise IntegrityError(f"{part.path}: cannot be read back: {error.strerror}", retryable=True) from None
    if (seen_size_bytes, seen) != (part.size_bytes, part.sha256):
        raise IntegrityError(
            f"{part.path}: expected {part.size_bytes} bytes with sha256 {part.sha256}, "
            f"seen {seen_size_bytes} bytes, sha256 {seen}",
            *(hints or ("damaged on the disk or on the way; is the disk healthy? see dmesg",)),
        )


def verify_on_remote(remote: Remote, remote_dir: str, snapshot: str, artifacts: Sequence[Artifact]) -> None:
    """
    Ask the remote for size and sha256 of every stored file; where it keeps no hash, every byte is read back.

    Raises: IntegrityError naming the first file that is absent or differs, RemoteError.
    """
    folders = dict.fromkeys(artifact.held_in or snapshot for artifact in artifacts)
    for holder in folders:
        folder = layout.in_snapshot(remote_dir, holder)
        parts = [part for artifact in artifacts if (artifact.held_in or snapshot) == holder for part in artifact.parts]
        stored = remote.sha256_many(folder, [part.path for part in parts])
        for part in parts:
            if stored.get(part.path) != part.sha256:
                raise IntegrityError(
                    f"{folder}/{part.path}: expected sha256 {part.sha256}, seen {stored.get(part.path, 'no file')}",
                    "the remote did not keep what was sent; this run sends nothing in its place",
                    retryable=part.path not in stored,  # some remotes list a new file a moment later
                )
