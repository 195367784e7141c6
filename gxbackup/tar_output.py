"""What GNU tar writes while it packs a tree: read, counted and judged. Knows no inventory; starts no tar."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from pydantic import JsonValue

from gxbackup.adapters import process
from gxbackup.errors import CollectError, CommandError, EmptyArtifactError, IntegrityError
from gxbackup.ports import StreamEnd
from gxbackup.tally import SYMLINK, Member, leads_out, shown
from gxbackup.tar_messages import NAMES_KEPT, SHRANK, TarMessages, unquoted
from gxbackup.tarstream import LONGEST_NAME_BYTES, TarScanner

PIPE_BYTES = 1024**2


class TarOutput:
    """A PlainStream: what a GNU tar that packs `folder` writes, counted as it passes; `missed` is a shortfall each."""

    def __init__(
        self, tar: process.Child, messages: TarMessages, folder: Path, label: str, missed: Sequence[str] = ()
    ) -> None:
        assert tar.stdout is not None
        fcntl.fcntl(tar.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._tar = tar
        self._pipe = tar.stdout.fileno()
        self._messages = messages
        self._folder = folder
        self._label = label
        self._missed = missed
        self._scanner = TarScanner(on_member=self._look)
        self._outside: list[JsonValue] = []

    def readinto(self, buffer: memoryview) -> int:
        """See `PlainStream`."""
        count = os.readv(self._pipe, [buffer])
        self._scanner.feed(buffer[:count])
        return count

    def finish(self) -> StreamEnd:
        """See `PlainStream`; raises CommandError, CollectError where the tar is cut, EmptyArtifactError."""
        messages, what = self._messages, self._label
        status = self._tar.wait()
        messages.join()
        if status not in (0, 1, 2) or (status == 2 and (messages.others or not messages.losses)):
            raise CommandError(f"{what}: expected exit status 0, seen {status}: {messages.complaint()}")
        try:
            evidence = self._scanner.finish()
        except IntegrityError as error:
            raise CollectError(f"{what}: {error.message}", retryable=True) from None
        if not any(evidence[key] for key in ("files", "symlinks", "devices", "fifos")):
            raise EmptyArtifactError(
                f"{what}: expected files, seen none", "an empty folder is no backup; is its disk mounted?"
            )
        if self._outside:
            evidence["folders_outside"] = self._outside
        for key, names in messages.noted.items():
            evidence[key] = messages.counts[key]
            evidence[f"{key}_names"] = [*names]
        shortfalls = [*self._missed, *messages.losses, *messages.others, *self._unreadable(), *self._too_long()]
        for kept, key in ((messages.losses, "losses"), (messages.others, "others")):
            if untold := messages.counts[key] - len(kept):
                shortfalls.append(f"and {untold} more that tar could not read")
        return StreamEnd(evidence, tuple(shortfalls))

    def _look(self, member: Member) -> None:
        """Note a link to a folder outside: what a restore brings back is the link alone."""
        if member.kind != SYMLINK or len(self._outside) == NAMES_KEPT or not leads_out(member.name, member.target):
            return
        link = self._folder / os.fsdecode(member.name)
        real = Path(os.path.realpath(link))
        if real.is_dir() and not real.is_relative_to(self._folder):
            self._outside.append(f"{shown(os.fsencode(link))} leads to {shown(os.fsencode(real))}")

    def _too_long(self) -> list[str]:
        """Tell of names that no restore could make: all of the tree would fail with them."""
        if not (names := self._scanner.too_long):
            return []
        limit = f"a restore of this tree fails with more than {LONGEST_NAME_BYTES}"
        told = [f"{shown(names[0])[:60]}…: its path has {len(names[0])} bytes below the root; {limit}"]
        return [*told, f"and {len(names) - 1} more with such a path"] if names[1:] else told

    def _unreadable(self) -> list[str]:
        """
        Return the files that did not shrink, but cannot be read.

        GNU tar 1.34 reports a read error of the disk as "File shrank", pads with zeros, and goes on with status 1.
        """
        found: list[str] = []
        for name in self._messages.noted.get(SHRANK, []):
            path = self._folder / os.fsdecode(unquoted(name))
            try:
                if not stat.S_ISREG(path.lstat().st_mode):  # replaced since: a pipe would wait for a writer for ever
                    continue
                with path.open("rb", buffering=0) as file:
                    while file.read(PIPE_BYTES):
                        pass
            except FileNotFoundError:
                continue
            except OSError as error:
                found.append(f"{name}: cannot be read: {error.strerror}")
        if untold := self._messages.counts[SHRANK] - len(self._messages.noted.get(SHRANK, [])):
            found.append(f"{untold} more files shrank, or cannot be read")
        return found
