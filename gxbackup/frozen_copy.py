"""
A folder as it is at one moment, beside it on the same filesystem: hard links to what is finished, copies of the rest.

    PARENT/.gxbackup-frozen-NAME/tree     the copy, kept and updated from run to run: tar knows what changed by it
    PARENT/.gxbackup-frozen-NAME/*.snar   what tar remembers of the last full one
    PARENT/.gxbackup-frozen-NAME/gone     folders that went from the copy since

`approach` does the work while the server runs; `settle`, while it stands still, only what changed since. Pauses nobody.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gxbackup import clock, mounts, placing
from gxbackup.errors import SourceMissingError

OURS = ".gxbackup-"
TAIL_BYTES = 64 * 1024
COPY_BYTES = 1024**2
# The kernel's file times are coarse: a file this young may have been written again under an equal time.
YOUNG_SECONDS = 2


class FrozenCopy:
    """
    The copy of one folder. `is_finished(path)` names files that are never written again, as a hard link needs it;
    `is_appended(path)` those that only grow; `is_left_out(path)` what is not copied. Paths are relative, with `/`.
    `area` is where the copy lies, on the folder's own filesystem; by default beside it, or in it where it is mounted.
    """

    def __init__(
        self,
        folder: Path,
        *,
        is_finished: Callable[[str], bool],
        is_appended: Callable[[str], bool],
        is_left_out: Callable[[str], bool],
        area: Path | None = None,
    ) -> None:
        if not folder.is_dir():
            raise SourceMissingError(f"{folder}: expected a volume's folder, seen none", "is its disk mounted?")
        self.folder = folder
        self.area = area or _area(folder)
        self.tree = self.area / "tree"
        self._gone = self.area / "gone"
        self._is_finished = is_finished
        self._is_appended = is_appended
        self._is_left_out = is_left_out
        self._keeps_copies = False

    def approach(self, *, anew: bool) -> None:
        """
        Copy while the server runs: what is torn or gone meanwhile is put right by `settle`.

        A copy whose file is finished by now stays a copy, since tar knows it; it is linked where tar begins `anew`.
        """
        self._drop_orphans()
        _own(self.area)
        if anew:
            _remove(self._gone)
        self._keeps_copies = not anew
        self._bring_up()

    def catch_up(self) -> None:
        """Copy what has changed since `approach`, as that does: there is less to do for `settle`."""
        self._bring_up()

    def settle(self) -> None:
        """Bring the copy to this very moment; the server must stand still. Quick after `approach`."""
        self._bring_up()

    def _drop_orphans(self) -> None:
        """Remove the copies of volumes that are gone: their links would hold a deleted ledger's room for ever."""
        for area in self.folder.glob(f"{OURS}frozen-*"):  # of when the folder was reached in another way
            if area != self.area:
                _remove(area)
        if self.area.parent == self.folder:
            return
        for area in self.area.parent.glob(f"{OURS}frozen-*"):
            if not (self.area.parent / area.name.removeprefix(f"{OURS}frozen-")).exists():
                _remove(area)

    def _bring_up(self) -> None:
        wanted: set[str] = set()
        folders = [""]
        self.tree.mkdir(mode=0o700, exist_ok=True)
        while folders:
            below = folders.pop()
            try:
                listed = os.scandir(self.folder / below)
            except FileNotFoundError:  # gone since the folder above it was listed
                if not below:
                    raise
                continue
            wanted.add(below)
            with listed as entries:
                for entry in entries:
                    name = f"{below}/{entry.name}" if below else entry.name
                    if entry.name.startswith(OURS) or entry.name == "lost+found" or self._is_left_out(name):
                        continue
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            self._make_folder(name)
                            folders.append(name)
                        else:
                            self._bring(name, entry.stat(follow_symlinks=False))
                            wanted.add(name)
                    except FileNotFoundError:  # gone since the folder was listed
                        continue
        self._drop_others(wanted)
        for name in sorted(wanted, reverse=True):  # a folder's time last, and those above it later
            source = self.folder / name
            if (self.tree / name).is_dir() and source.is_dir():
                with suppress(FileNotFoundError):
                    _copy_attributes(source, self.tree / name)

    def _make_folder(self, name: str) -> None:
        target = self.tree / name
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            target.unlink()
        target.mkdir(mode=0o700, exist_ok=True)

    def _bring(self, name: str, seen: os.stat_result) -> None:
        if stat.S_ISSOCK(seen.st_mode):
            return
        source, target = self.folder / name, self.tree / name
        there = target.lstat() if os.path.lexists(target) else None
        if stat.S_ISREG(seen.st_mode) and self._is_finished(name):
            # Linked once: another link would change the file's ctime, and tar would send it again.
            is_link = there is not None and (there.st_dev, there.st_ino) == (seen.st_dev, seen.st_ino)
            if not is_link and not (self._keeps_copies and there is not None and _same(seen, there)):
                _remove(target)
                os.link(source, target, follow_symlinks=False)
            return
        if there is not None and _same(seen, there):
            return
        if there is not None and stat.S_ISDIR(there.st_mode):
            self._retire(target)
        if there is not None and self._is_appended(name) and _append(source, target, seen, there):
            return
        _remove(target)
        placing.put(self.folder, self.tree, [name], f"{OURS}growing")
        if stat.S_ISREG(seen.st_mode):
            # The time of before it was read: what is written meanwhile, at an equal size, would pass for copied.
            os.utime(target, ns=(seen.st_atime_ns, seen.st_mtime_ns))

    def _drop_others(self, wanted: set[str]) -> None:
        for folder, below, names in os.walk(self.tree, topdown=False):
            relative = Path(folder).relative_to(self.tree)
            for name in names:
                if str(relative / name) not in wanted:
                    (Path(folder) / name).unlink()
            for name in below:
                path = Path(folder) / name
                if str(relative / name) not in wanted:
                    path.unlink() if path.is_symlink() else self._retire(path)

    def _retire(self, folder: Path) -> None:
        """
        Take a folder out of the copy, and keep it until tar begins anew: else another one is given its inode.

        By that tar takes the other one for this one renamed, and of several such it writes what it cannot unpack.
        """
        self._gone.mkdir(mode=0o700, exist_ok=True)
        folder.rename(self._gone / secrets.token_hex(8))


def _own(area: Path) -> None:
    """Make the copy's folder. What is there and not ours goes: a pod could have laid a link to this host's files."""
    if os.path.lexists(area):
        seen = area.lstat()
        if stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.geteuid():
            return
        _remove(area)
    area.mkdir(mode=0o700)


def _area(folder: Path) -> Path:
    is_mounted = folder.resolve() in mounts.points() or folder.parent.stat().st_dev != folder.stat().st_dev
    return (folder if is_mounted else folder.parent) / f"{OURS}frozen-{folder.name}"


def _same(seen: os.stat_result, there: os.stat_result) -> bool:
    """Tell whether a copy is still that of its file: never a link to it, equal in all that a writer would change."""
    is_young = seen.st_mtime > clock.now().timestamp() - YOUNG_SECONDS
    return (
        not is_young
        and (seen.st_dev, seen.st_ino) != (there.st_dev, there.st_ino)
        and all(
            getattr(seen, field) == getattr(there, field)
            for field in ("st_mode", "st_uid", "st_gid", "st_size", "st_mtime_ns")
        )
    )


def _append(source: Path, target: Path, seen: os.stat_result, there: os.stat_result) -> bool:
    """Copy what a file grew by; False where it was written otherwise, or the copy is a link to another file."""
    if there.st_nlink > 1 or not stat.S_ISREG(there.st_mode) or there.st_size > seen.st_size:
        return False
    with source.open("rb", buffering=0) as reading, target.open("r+b", buffering=0) as writing:
        begin = max(0, there.st_size - TAIL_BYTES)
        if os.pread(reading.fileno(), TAIL_BYTES, begin)[: there.st_size - begin] != os.pread(
            writing.fileno(), TAIL_BYTES, begin
        ):
            return False
        os.lseek(writing.fileno(), there.st_size, os.SEEK_SET)
        offset = there.st_size
        while offset < seen.st_size:
            limit = min(COPY_BYTES, seen.st_size - offset)
            if not (count := os.sendfile(writing.fileno(), reading.fileno(), offset, limit)):
                return False  # it was cut meanwhile
            offset += count
    shutil.copystat(source, target)
    os.utime(target, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    os.chown(target, seen.st_uid, seen.st_gid)
    return True


def _copy_attributes(source: Path, target: Path) -> None:
    seen = source.stat()
    os.chown(target, seen.st_uid, seen.st_gid)
    target.chmod(stat.S_IMODE(seen.st_mode))
    os.utime(target, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            for folder, below, names in os.walk(path, topdown=False):
                for name in (*names, *below):
                    inner = Path(folder) / name
                    inner.rmdir() if inner.is_dir() and not inner.is_symlink() else inner.unlink()
            path.rmdir()
        else:
            path.unlink()
