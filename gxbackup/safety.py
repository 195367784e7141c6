"""
The safety copy of what a restore overwrites file by file, and the journal that undoes one that was killed.

    SAFETY_DIR/overlay-20261122T020000.000000Z/before.tar           what was overwritten, with all attributes
    SAFETY_DIR/overlay-20261122T020000.000000Z/journal.open.json    still at work, or killed; done or undone otherwise
    SAFETY_DIR/overlay-20261122T020000.000000Z/found-….tar          what lay there when a killed one was put back

Opened with nothing of ours: `tar -x -p -C ROOT -f before.tar`.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any

from gxbackup import clock, exchange, placing, trees
from gxbackup.adapters import process
from gxbackup.errors import RestoreError, RestoreRefusedError
from gxbackup.model import Evidence
from gxbackup.tally import shown
from gxbackup.tarstream import TarScanner

TAR_TIMEOUT_SECONDS = 3600
CHUNK_BYTES = 1024**2
KEYS = "authorized_keys*"  # files whose lines open the host
_COPY = "before.tar"
_STATES = ("open", "done", "undone")


@dataclass(frozen=True)
class SafetyCopy:
    """
    What one overlay overwrites and creates, noted on disk before it begins.

    Overlays of one `restore` are undone together: as long as one of them is open, none of them has ended.
    """

    folder: Path
    root: Path
    overwritten: dict[str, int]  # with the inode that it was: what still is it was not touched
    created: tuple[str, ...]
    temporary: str  # file name of a copy that grows beside its place
    evidence: Evidence
    restore: str = ""
    keys: dict[str, str] = field(default_factory=dict)  # digests of the `KEYS` that the overlay writes

    @classmethod
    def take(
        cls,
        safety_dir: Path,
        root: Path,
        overwritten: list[str],
        created: list[str],
        restore: str,
        keys: dict[str, str],
    ) -> SafetyCopy:
        """
        Copy what will be overwritten, and note what will be created; both are on disk when this returns.

        Raises: RestoreRefusedError where it cannot be copied whole (nothing is left), or the folder is open to others.
        """
        require_private(safety_dir)
        folder = safety_dir / f"overlay-{clock.now():%Y%m%dT%H%M%S.%fZ}"
        folder.mkdir(mode=0o700)
        copy = cls(
            folder=folder,
            root=root,
            overwritten={path: (root / path).lstat().st_ino for path in overwritten},
            created=tuple(created),
            temporary=f".gx-restore-{secrets.token_hex(4)}",
            evidence=_copied(root, overwritten, folder / _COPY),
            restore=restore,
            keys=keys,
        )
        copy._write("open")
        return copy

    @classmethod
    def of(cls, folder: Path) -> SafetyCopy:
        """Read the journal in a folder; RestoreRefusedError where there is none that can be read."""
        for state in _STATES:
            with suppress(FileNotFoundError):
                text = (folder / f"journal.{state}.json").read_text(encoding="utf-8")
                break
        else:
            raise RestoreRefusedError(f"{folder}: expected the journal of a restore, seen none")
        noted: dict[str, Any] = json.loads(text)
        return cls(
            folder=folder,
            root=Path(noted["root"]),
            overwritten=noted["overwritten"],
            created=tuple(noted["created"]),
            temporary=noted["temporary"],
            evidence=noted["evidence"],
            restore=noted.get("restore", ""),
            keys=noted.get("keys", {}),
        )

    @classmethod
    def unfinished(cls, safety_dir: Path, root: Path) -> list[SafetyCopy]:
        """
        Return the safety copies of overlays over a root that neither ended nor were put back, the newest first.

        With each of them come those of the same restore that were noted as ended: it ends whole or not at all.
        """
        left = cls._noted(safety_dir, root, "open")
        restores = {copy.restore for copy in left if copy.restore}
        left += [copy for copy in cls._noted(safety_dir, root, "done") if copy.restore in restores]
        return sorted(left, key=lambda copy: copy.folder.name, reverse=True)

    @classmethod
    def _noted(cls, safety_dir: Path, root: Path, state: str) -> list[SafetyCopy]:
        found = [cls.of(note.parent) for note in safety_dir.glob(f"overlay-*/journal.{state}.json")]
        return [copy for copy in found if copy.root == root]

    def reopen(self) -> None:
        """Note that the overlay is to be put back, whatever was noted before."""
        self._write("open")

    def close(self) -> None:
        """Note that the overlay ended well; the copy stays for `put_back`."""
        self._write("done")

    def described(self) -> str:
        """Say for people what is to be put back: of when, how much, from where, and what is not."""
        begun = datetime.strptime(self.folder.name, "overlay-%Y%m%dT%H%M%S.%f%z")
        count = len(self.overwritten) + len(self.created)
        told = f"restore of {begun:%Y-%m-%d %H:%M:%S} UTC that did not end: {count} paths go back from {self.folder}"
        left = ", ".join(shown(os.fsencode(path)) for path in self._left_alone())
        return f"{told}; left as it is, for its keys changed since: {left}" if left else told

    def keep_found(self) -> None:
        """
        Copy what lies now where `put_back` will overwrite and remove; an earlier such copy stays.

        Raises: RestoreRefusedError where it cannot be copied whole.
        """
        growing = self.folder / "found.new"
        paths = [path for path in (*self.overwritten, *self.created) if os.path.lexists(self.root / path)]
        try:
            _copied(self.root, paths, growing)
            growing.rename(self.folder / f"found-{clock.now():%Y%m%dT%H%M%S.%fZ}.tar")
        finally:
            growing.unlink(missing_ok=True)
        _sync(self.folder)

    def put_back(self) -> None:
        """
        Make all as it was: what was overwritten comes back, what was created goes, growing copies are swept.

        Keys that others changed since the overlay wrote them are left as they are: a new one may be the only way in.

        Raises: RestoreError, IntegrityError; it may be called again.
        """
        self._write("open")
        before = self.folder / "before"
        exchange.discard(before)
        before.mkdir(mode=0o700)
        try:
            with (self.folder / _COPY).open("rb") as tar:
                trees.extract(iter(lambda: tar.read(CHUNK_BYTES), b""), before, self.evidence)
            for folder in {(self.root / path).parent for path in (*self.overwritten, *self.created)}:
                with suppress(FileNotFoundError, NotADirectoryError):
                    (folder / self.temporary).unlink()
            left = self._left_alone()
            for path in reversed(self.created):
                if path not in left:
                    _remove(self.root / path)
            # A hard link goes with all its names: one that was not touched would be left behind alone.
            touched = {(before / path).lstat().st_ino for path in self.overwritten if self._was_touched(path)}
            paths = [path for path in self.overwritten if (before / path).lstat().st_ino in touched]
            placing.put(before, self.root, [path for path in paths if path not in left], self.temporary)
            os.sync()
        except OSError as error:
            raise RestoreError(
                f"{self.root}: cannot be put back: {error.strerror}: {error.filename}",
                f"what was overwritten lies in {self.folder / _COPY}",
                *(f"what lay there when it was to be put back: {archive}" for archive in found([self.folder])),
            ) from None
        finally:
            exchange.discard(before)
        self._write("undone")

    def _was_touched(self, path: str) -> bool:
        """Tell whether a path is no longer what was copied; folders are changed as they are, files are replaced."""
        try:
            seen = (self.root / path).lstat()
        except FileNotFoundError:
            return True
        return stat.S_ISDIR(seen.st_mode) or seen.st_ino != self.overwritten[path]

    def _left_alone(self) -> list[str]:
        paths = [path for path in (*self.overwritten, *self.created) if fnmatchcase(Path(path).name, KEYS)]
        return [path for path in paths if self._holds_others_keys(path)]

    def _holds_others_keys(self, path: str) -> bool:
        """Tell whether a file holds neither what was copied nor what the overlay wrote."""
        place = self.root / path
        try:
            seen = place.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        if stat.S_ISDIR(seen.st_mode) or seen.st_ino == self.overwritten.get(path):
            return False
        return digest(place) != self.keys.get(path)

    def _write(self, state: str) -> None:
        """Let the journal say a state, and nothing else, from one moment to the next."""
        noted = {
            "root": str(self.root),
            "overwritten": self.overwritten,
            "created": self.created,
            "temporary": self.temporary,
            "evidence": self.evidence,
            "restore": self.restore,
            "keys": self.keys,
        }
        note = self.folder / f"journal.{state}.json"
        others = [self.folder / f"journal.{other}.json" for other in _STATES if other != state]
        if earlier := [other for other in others if other.exists()]:
            earlier[0].rename(note)
        elif not note.exists():
            growing = self.folder / "journal.new"
            growing.write_text(json.dumps(noted, indent=2), encoding="utf-8")
            _sync(growing)
            growing.rename(note)
        _sync(self.folder)
        _sync(self.folder.parent)


def require_private(safety_dir: Path) -> None:
    """Make the directory of safety copies; RestoreRefusedError where it is not ours alone."""
    safety_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    seen = safety_dir.lstat()
    if not stat.S_ISDIR(seen.st_mode) or seen.st_mode & 0o077 or seen.st_uid != os.geteuid():
        raise RestoreRefusedError(
            f"{safety_dir}: expected a directory of mode 0700 that is ours, for keys and secrets will lie in it"
        )


def found(safety_copies: Sequence[Path]) -> list[Path]:
    """Return the archives of what lay there when these were put back after a kill."""
    return [archive for folder in safety_copies for archive in sorted(folder.glob("found-*.tar"))]


def digest(path: Path, added: bytes = b"") -> str:
    """Return the SHA-256 of what a file holds with something added, or of a link's target."""
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return sha256(os.fsencode(path.readlink())).hexdigest()
    return sha256(path.read_bytes() + added).hexdigest() if stat.S_ISREG(mode) else ""


def _copied(root: Path, paths: list[str], tar: Path) -> Evidence:
    names = b"".join(b"./" + os.fsencode(path) + b"\0" for path in paths)
    done = process.run(
        ["tar", "--create", f"--file={tar}", "--format=posix", "--numeric-owner", "--acls", "--xattrs",
         "--xattrs-include=*", "--sparse", "--no-recursion", "--quoting-style=escape", f"--directory={root}",
         "--null", "--verbatim-files-from", "--files-from=-"],
        timeout_seconds=TAR_TIMEOUT_SECONDS, stdin=names, check=False,
    )  # fmt: skip
    if done.returncode != 0 or done.stderr:
        with suppress(OSError):  # half a copy takes the room that is short; beside others the folder stays
            tar.unlink()
            tar.parent.rmdir()
        raise RestoreRefusedError(f"{root}: no safety copy, so nothing was touched: {done.complaint()}")
    scanner = TarScanner()
    with tar.open("rb") as copied:
        while chunk := copied.read(CHUNK_BYTES):
            scanner.feed(memoryview(chunk))
    _sync(tar)
    return scanner.finish()


def _remove(path: Path) -> None:
    """Remove what an overlay created; a folder into which others have put something since stays."""
    with suppress(FileNotFoundError, NotADirectoryError):
        if not stat.S_ISDIR(path.lstat().st_mode):
            path.unlink()
        elif not any(path.iterdir()):
            path.rmdir()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
