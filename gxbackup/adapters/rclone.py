"""
The remote: the only builder of rclone argv, and the contract that every kind of remote keeps here.

What rclone does differently on each backend ends in this file: equal sizes taken for equal content, overwriting in
spite of --immutable, hashes that are not there. Nothing here purges, syncs, or deletes by a filter. Snapshots,
manifests and retention are no concern of it.

Source: `rclone help` 1.75.2; each rule is held on real remotes by tests/conformance/test_remotes.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from gxbackup.adapters import rclone_folders
from gxbackup.adapters.rclone_answers import Features, Quota, RemoteFile, contained, entries, features, files, sums
from gxbackup.adapters.rclone_command import DRIVE, EACH_FOLDER, PATIENT, PLAIN, WITH_SHA256, Progress, Rclone
from gxbackup.adapters.rclone_errors import FILE_MISSING, FOLDER_MISSING, RemoteFileMissingError, redacted
from gxbackup.adapters.rclone_upload import Originals, hashes_on_disk, left_by_cut_uploads, link_from, sizes_on_disk
from gxbackup.errors import IntegrityError, RemoteError, SetupError
from gxbackup.inventory import RemoteSettings

__all__ = ["Features", "Progress", "Quota", "Remote", "RemoteFile", "RemoteFileMissingError"]

_CHECK_SECONDS = 70


class Remote:
    """
    One rclone remote and root folder. Every path given is relative to that root; "" lists the root itself.

    Every method raises RemoteError (`retryable` is right for each), SetupError where this host's rclone is at fault,
    and IntegrityError for a path that leads out of its folder or names two files. Safe to share between threads.
    """

    def __init__(self, settings: RemoteSettings, scratch: Path) -> None:
        self._root = settings.path
        self._rclone = Rclone(settings, scratch)
        self._lock = Lock()
        self._features: Features | None = None

    def check(self) -> None:
        """
        Make sure that the config knows the remote and that it answers; a root folder not made yet is fine.

        Raises: SetupError for a name that the config lacks, RemoteError for a remote that refuses or does not answer;
        within about a minute.
        """
        if ":" not in self._root and not self._root.startswith("/"):
            raise SetupError(
                f"remote.path: expected `remote:folder` or an absolute path, seen {self._shown('')!r}",
                "without a colon rclone takes it for a folder beside this program",
            )
        self._folders("", at_most_seconds=_CHECK_SECONDS)

    def features(self) -> Features:
        """Ask once what the remote can do."""
        with self._lock:
            if self._features is None:
                at = self._at("")
                self._features = features(self._rclone.call(f"ask {redacted(at)}", "backend", "features", at))
            return self._features

    def list_files(self, folder: str, *, hashes: bool = False) -> list[RemoteFile]:
        """
        List every file below a folder, sorted by path; a missing folder holds none.

        `hashes` adds sha256 where the remote keeps it, and computes it on a local one. Complete, or an error.
        """
        with_sha256 = WITH_SHA256 if hashes and self.features().keeps_sha256 else ()
        what = f"list {self._shown(folder)}"
        words = ("lsjson", "-R", *EACH_FOLDER, *PLAIN, *with_sha256, self._at(folder))
        found = files(entries(what, self._rclone.call(what, *words, accept=(0, FOLDER_MISSING))))
        if hashes and found and self.features().is_local:
            computed = self.sha256_many(folder, [file.path for file in found])
            found = [replace(file, sha256=computed.get(file.path)) for file in found]
        return found

    def list_folders(self, folder: str) -> list[str]:
        """List the names of the folders right in a folder, sorted; a missing folder holds none."""
        return self._folders(folder)

    def upload(
        self,
        local_dir: Path,
        names: Sequence[str],
        to: str,
        progress: Callable[[Progress], None] | None = None,
        *,
        may_move: bool = False,
        expected: Mapping[str, tuple[int, str]] | None = None,
        replace_unequal: bool = False,
    ) -> None:
        """
        Put `local_dir`/name at `to`/name for each name, and nothing in the place of anything.

        A file that is there with the same size and sha256 is not sent again; one that differs is an IntegrityError, or
        is replaced with `replace_unequal` (for a folder without a manifest, where it is what a cut upload left).
        `expected` holds size in bytes and sha256 by name, and spares reading local files for them. With `may_move` a
        remote on the same filesystem takes the files by rename: they are no longer in `local_dir`, and a name that is
        gone there counts as sent if the remote holds what is expected. After a failure some names may be there whole;
        calling again goes on from there.

        Raises: IntegrityError also for a name that is in neither place, RemoteError.
        """
        folder = contained(to)
        wanted = list(dict.fromkeys(contained(name) for name in names))
        if not wanted:
            return
        originals = Originals(local_dir, expected or {})
        root = self.features().local_root
        listed = sizes_on_disk(root / folder, wanted) if root else self._sizes(folder)
        held = {name: listed[name] for name in wanted if name in listed}
        doubtful = [name for name in held if held[name] == originals.size_bytes(name)]
        stored = self.sha256_many(folder, doubtful)
        unequal = [name for name in held if name not in stored or stored[name] != originals.sha256(name)]
        if unequal and not replace_unequal:
            raise IntegrityError(
                f"{self._shown(folder)}/{unequal[0]}: expected {originals.size_bytes(unequal[0])} bytes with sha256 "
                f"{originals.sha256(unequal[0])}, seen {held[unequal[0]]} bytes with sha256 "
                f"{stored.get(unequal[0], 'not read')}; nothing was overwritten",
            )
        to_send = [name for name in wanted if name not in held or name in unequal]
        for name in to_send:
            originals.require(name)
        for name in [*unequal, *left_by_cut_uploads(wanted, listed)]:
            self.delete_file(f"{folder}/{name}")
        if root and may_move:
            to_send = originals.move_to(root / folder, to_send)
        if to_send:
            if self.features().keeps_duplicates:
                rclone_folders.make_missing(self._rclone, self._at(folder), to_send, listed)
            self._send(local_dir, to_send, folder, progress)

    def download(
        self,
        folder: str,
        names: Sequence[str],
        to: Path,
        progress: Callable[[Progress], None] | None = None,
        *,
        may_link: bool = False,
    ) -> None:
        """
        Fetch `folder`/name to `to`/name for each name; one that is there with equal size and hash is not fetched again.

        A file appears under its name only once it is whole. With `may_link` a remote on the same filesystem gives its
        own files a second name there: nobody may write to them. Raises: RemoteFileMissingError naming the first absent.
        """
        wanted = list(dict.fromkeys(contained(name) for name in names))
        root = self.features().local_root if may_link else None
        to_fetch = link_from(root / contained(folder), wanted, to) if root else wanted
        if to_fetch:
            source = self._at(contained(folder))
            self._rclone.transfer(
                f"download from {redacted(source)}",
                *("copy", "--checksum", *self._unproven(), source, str(to.absolute())),
                names=to_fetch,
                progress=progress,
                accept=(0, FOLDER_MISSING),
            )
        for name in wanted:
            if not (to / name).is_file():
                raise self._missing(f"{folder}/{name}")

    def read(self, path: str, max_bytes: int = 16 * 1024**2) -> bytes:
        """Return a small file's exact bytes; RemoteFileMissingError, or RemoteError where it is larger."""
        with self.open(path) as stream:
            body = stream.read(max_bytes + 1)
        if len(body) > max_bytes:
            raise RemoteError(f"{self._shown(path)}: expected at most {max_bytes} bytes, seen more", retryable=False)
        return body

    @contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        """
        Read a file as a stream that is judged at its end: leaving the block after the last byte raises if it was cut.

        A block left before the last byte judges nothing. Raises: RemoteFileMissingError on entering.
        """
        folder, name = _split(path)
        with self._rclone.stream(f"read {self._shown(path)}", "cat", self._at(folder), names=[name]) as stream:
            # A missing file and an empty one both print nothing, with status 0.
            if not stream.peek(1) and not self._holds(folder, name):
                raise self._missing(path)
            yield stream

    def sha256(self, path: str) -> str:
        """Return a file's sha256 as the remote holds it; RemoteFileMissingError where it does not."""
        folder, name = _split(path)
        found = self.sha256_many(folder, [name])
        if name not in found:
            raise self._missing(path)
        return found[name]

    def sha256_many(self, folder: str, names: Sequence[str]) -> dict[str, str]:
        """
        Return name → sha256 for those names that a folder holds; the others are absent.

        Google Drive tells what it keeps; anywhere else every byte is read back.
        """
        wanted = list(dict.fromkeys(contained(name) for name in names))
        if wanted and (root := self.features().local_root):
            return hashes_on_disk(root / contained(folder), wanted)
        found: dict[str, str] = {}
        if wanted and self.features().keeps_sha256:
            words = ("lsjson", "-R", "--files-only", *PLAIN, *WITH_SHA256, self._at(folder))
            what = f"hash {self._shown(folder)}"
            kept = files(entries(what, self._rclone.call(what, *words, names=wanted, accept=(0, FOLDER_MISSING))))
            found = {file.path: file.sha256 for file in kept if file.sha256}
            wanted = [file.path for file in kept if not file.sha256]
        if wanted:
            what, hashing = f"read back {self._shown(folder)}", ("hashsum", "sha256", "--download", self._at(folder))
            found.update(sums(self._rclone.transfer(what, *hashing, names=wanted, accept=(0, FOLDER_MISSING))))
        return found

    def delete_file(self, path: str) -> None:
        """Delete exactly one file; one that is not there is fine. Google Drive keeps it in its trash for 30 days."""
        at = self._at(contained(path))
        self._rclone.call(f"delete {redacted(at)}", "deletefile", at, accept=(0, FILE_MISSING, FOLDER_MISSING))

    def remove_empty_folder(self, path: str) -> None:
        """Remove a folder, and those in it, as far as no file is in them; one that is not there is fine."""
        at = self._at(contained(path))
        try:
            self._rclone.call(f"remove folder {redacted(at)}", "rmdirs", at)
        except RemoteError:
            what = f"look for {redacted(at)}"
            if self._rclone.call(what, "lsjson", "--stat", at, accept=(0, FOLDER_MISSING)).returncode != FOLDER_MISSING:
                raise

    def about(self) -> Quota:
        """Return the remote's room; None for what it does not tell."""
        at = self._at("")
        if (folder := self.features().local_root) is not None:
            while not folder.exists():
                folder = folder.parent
            room = shutil.disk_usage(folder)
            return Quota(room.total, room.used, room.free)
        try:
            answer = self._rclone.call(f"ask room of {redacted(at)}", "about", "--json", at, accept=(0, FOLDER_MISSING))
        except RemoteError as error:
            if "doesn't support about" in error.message:
                return Quota()
            raise
        told = json.loads(answer.stdout) if answer.returncode == 0 else {}
        return Quota(told.get("total"), told.get("used"), told.get("free"))

    def _at(self, path: str) -> str:
        if not path:
            return self._root
        return f"{self._root}{'' if self._root.endswith((':', '/')) else '/'}{contained(path)}"

    def _shown(self, path: str) -> str:
        # A root may be a connection string, with a password in it.
        return redacted(self._at(path))

    def _send(
        self, local_dir: Path, names: Sequence[str], folder: str, progress: Callable[[Progress], None] | None
    ) -> None:
        at = self._at(folder)
        self._rclone.transfer(
            f"upload to {redacted(at)}",
            *("copy", "--immutable", "--checksum", *PATIENT, *DRIVE, *self._unproven(), str(local_dir.absolute()), at),
            names=names,
            progress=progress,
        )

    def _unproven(self) -> tuple[str, ...]:
        # On a local disk rclone's own proof reads both sides once more; whoever needs one asks for sha256.
        return ("--ignore-checksum",) if self.features().is_local else ()

    def _folders(self, folder: str, at_most_seconds: int | None = None) -> list[str]:
        what, words = f"list {self._shown(folder)}", ("lsjson", "--dirs-only", *PLAIN, self._at(folder))
        answer = self._rclone.call(what, *words, accept=(0, FOLDER_MISSING), at_most_seconds=at_most_seconds)
        return sorted(entry["Path"] for entry in entries(what, answer))

    def _sizes(self, folder: str) -> dict[str, int]:
        # Hashes cost nothing there, and show that Google Drive's twins are one file.
        return {file.path: file.size_bytes for file in self.list_files(folder, hashes=self.features().keeps_sha256)}

    def _holds(self, folder: str, name: str) -> bool:
        what, at = f"look for {self._shown(folder)}/{name}", self._at(folder)
        return bool(entries(what, self._rclone.call(what, "lsjson", "-R", "--files-only", *PLAIN, at, names=[name])))

    def _missing(self, path: str) -> RemoteFileMissingError:
        return RemoteFileMissingError(f"{self._shown(path)}: not on the remote")


def _split(path: str) -> tuple[str, str]:
    folder, _, name = contained(path).rpartition("/")
    return folder, name
