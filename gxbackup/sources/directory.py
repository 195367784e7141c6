"""
File trees, by GNU tar: owners, modes, times, extended attributes, ACLs, sparse files, hard and symbolic links.

Source: strategy rows Website Files, Docker Compose Config, K3s Config, SSH Keys, System Configs; GNU tar's manual.
"""

from __future__ import annotations

import fnmatch
import itertools
import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, StringConstraints, model_validator

from gxbackup import clock, mounts
from gxbackup.adapters import process
from gxbackup.adapters.host import Host
from gxbackup.errors import SetupError, SourceMissingError
from gxbackup.fabric.crypto import CryptoInventory
from gxbackup.model import Artifact, Capture, Evidence, RelativePath
from gxbackup.ports import PlainStream
from gxbackup.sources.base import Source
from gxbackup.tar_messages import TarMessages
from gxbackup.tar_output import PIPE_BYTES, TarOutput

# Records of 256 KiB: a third of the time that tar's own 10 KiB take through a pipe (0.7 GiB: 0.8 s for 2.2 s).
BLOCKING_FACTOR = 512
MEMBER_BYTES = 2048
NOT_MOUNTED = (
    "expected a disk mounted there, as in the last good copy, seen none; "
    "given up on purpose? name it in source.retired_mounts"
)


def _absolute(path: str) -> str:
    if not path.startswith("/") or ".." in path.split("/") or not path.isprintable():
        raise ValueError("expected an absolute path without '..'")
    return str(PurePosixPath(path))


def _below(path: str) -> str:
    if path.startswith("-") or str(PurePosixPath(path)) != path:
        raise ValueError("expected a path below the root: no '-' first, no '/' last, none doubled")
    return path


def _pattern(pattern: str) -> str:
    if pattern.startswith(("-", "/")) or pattern.endswith("/") or not pattern.isprintable():
        raise ValueError("expected a tar pattern: no '-' or '/' first, no '/' last")
    return pattern


AbsolutePath = Annotated[str, StringConstraints(max_length=4000), AfterValidator(_absolute)]
PathBelow = Annotated[RelativePath, AfterValidator(_below)]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=4000), AfterValidator(_pattern)]


class Directory(Source):
    """Files below a root: all of it, or the paths named."""

    default_folder: ClassVar[str] = "files"

    kind: Literal["directory"] = "directory"
    root: AbsolutePath = Field(description="the folder; a symbolic link (blue/green) is followed to where it leads")
    paths: tuple[PathBelow, ...] = Field(default=(), description="only these below the root; empty: all of it")
    optional_paths: tuple[PathBelow, ...] = Field(default=(), description="taken too where they are there")
    exclude: tuple[Pattern, ...] = Field(default=(), description="tar patterns of what is left out: cache, *.log")
    certificates: tuple[PathBelow, ...] = Field(
        default=(), description="globs of certificates (PEM) below the root that are told before they end"
    )
    retired_mounts: tuple[AbsolutePath, ...] = Field(
        default=(), description="disks that are gone on purpose: that the last good copy lay on them is no fault"
    )
    restores: Literal["exchange", "overlay"] = Field(
        default="exchange", description="exchange: the whole tree in one step; overlay: file by file over what is there"
    )

    @model_validator(mode="after")
    def _hold_together(self) -> Self:
        named = sorted(PurePosixPath(path) for path in (*self.paths, *self.optional_paths))
        for path, following in itertools.pairwise(named):
            if path in (following, *following.parents):
                raise ValueError(f"path {str(following)!r} lies in {str(path)!r}: name each once")
        if self.restores == "exchange" and named:
            raise ValueError("restores: exchange replaces the whole root, so all of it must be captured; use overlay")
        return self

    def collect(self, host: Host, data_type: str) -> list[Capture]:
        """
        Find the root and the paths; one capture. Cheap: names and sizes are looked at, no file but certificates opened.

        Raises: SourceMissingError naming the path that is not there; SetupError where tar is not GNU tar.
        """
        if b"GNU tar" not in host.run(["tar", "--version"], timeout_seconds=30).stdout:
            raise SetupError("program 'tar': expected GNU tar, seen another", "install the Debian package tar")
        real_root = Path(os.path.realpath(self.root))
        if not real_root.is_dir():
            seen = "something else" if os.path.lexists(real_root) else "nothing"
            raise SourceMissingError(
                f"{data_type}: {self.root}: expected a directory, seen {seen}",
                "was it moved, or is its disk not mounted? the path is in the inventory, as source.root",
            )
        for path in self.paths:
            if not (real_root / path).exists():
                raise SourceMissingError(
                    f"{data_type}: {PurePosixPath(self.root) / path}: expected, seen nothing",
                    "a path that may be absent belongs under source.optional_paths",
                )
        there = [path for path in self.optional_paths if (real_root / path).exists()]
        absent = [path for path in self.optional_paths if path not in there]
        named = [*self.paths, *there]
        paths = _followed(real_root, named, data_type) if self.paths or self.optional_paths else ["."]
        if not paths:
            raise SourceMissingError(f"{data_type}: {self.root}: none of its paths is there: {', '.join(absent)}")
        inside = mounts.below([real_root / path for path in paths])
        not_entered = [str(point.relative_to(real_root)) for point, kind in inside.items() if kind in mounts.PSEUDO]
        left_out = self._left_out(not_entered)
        evidence: Evidence = {}
        if absent:
            evidence["absent_optional_paths"] = [*absent]
        if inside:
            evidence["mounts_inside"] = {str(point): kind for point, kind in inside.items()}
        if self.certificates:
            evidence["expires_soon"] = _expiring(real_root, self.certificates)
        return [
            Capture(
                data_type=data_type,
                name=f"{data_type}.tar",
                settings={
                    "root": self.root,
                    "real_root": str(real_root),
                    "mounted_at": str(mounts.holding(real_root)),
                    "lies_on": [str(point) for point in _disks(real_root, paths, left_out)],
                    "paths": [*paths],
                    "not_entered": [*not_entered],
                    "restores": self.restores,
                },
                evidence=evidence,
                expected_size_bytes=_size_bytes(real_root, paths, left_out),
            )
        ]

    def collect_since(self, host: Host, data_type: str, last_good: Sequence[Artifact]) -> list[Capture]:
        """
        See `collect`. A disk that the last good copy lay on or held, and that is not mounted now, is a shortfall;
        what lies in its place is kept all the same.
        """
        (found,) = self.collect(host, data_type)
        before = [point for one in last_good for point in _listed(one.settings.get("lies_on"))]
        root = Path(str(found.settings["real_root"]))
        paths = [Path(os.path.realpath(root / path)) for path in (*self.paths, *self.optional_paths) or (".",)]
        gone = mounts.gone([Path(point) for point in before if point not in self.retired_mounts], paths)
        return [found.model_copy(update={"settings": {**found.settings, "not_mounted": [str(each) for each in gone]}})]

    @contextmanager
    def open(self, host: Host, capture: Capture) -> Iterator[PlainStream]:
        """
        Read the tree through tar.

        Files that change, shrink or vanish meanwhile and sockets are named in the evidence; what could not be read is
        a shortfall, and so is a disk that `collect_since` misses.
        """
        missed = _listed(capture.settings.get("not_mounted"))
        with host.start(self.tar(capture), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as tar:
            assert tar.stderr
            messages = TarMessages(tar.stderr)
            messages.start()
            try:
                yield TarOutput(
                    tar,
                    messages,
                    Path(str(capture.settings["real_root"])),
                    f"{capture.data_type}: tar of {capture.settings['root']}",
                    [f"{capture.data_type}: {point}: {NOT_MOUNTED}" for point in missed],
                )
            finally:
                process.end(tar)
                messages.join()

    def tar(self, capture: Capture) -> list[str]:
        """
        Return the command that writes the archive.

        Every folder above a member is a member too, so that a restored tree can be compared whole. What the command
        writes of an unchanged tree is the same on every day.
        """
        paths, not_entered = _listed(capture.settings["paths"]), _listed(capture.settings["not_entered"])
        above = [folder for path in paths for folder in reversed(PurePosixPath(path).parents)]
        members = [_member(str(folder)) for folder in dict.fromkeys(above)]
        return [
            "tar", "--create", "--file=-", "--format=posix",
            "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
            f"--blocking-factor={BLOCKING_FACTOR}", "--sort=name", "--quoting-style=escape",
            "--numeric-owner", "--acls", "--xattrs", "--xattrs-include=*", "--sparse",
            "--anchored", "--no-wildcards", *(f"--exclude=./{path}" for path in not_entered),
            "--no-anchored", "--wildcards", *(f"--exclude={pattern}" for pattern in self.exclude),
            f"--directory={capture.settings['real_root']}",
            "--no-recursion", *members, "--recursion", *(_member(path) for path in paths),
        ]  # fmt: skip

    def _left_out(self, not_entered: list[str]) -> Callable[[str], bool]:
        """Return what tells whether tar leaves a name out; patterns match from any `/` on, and `*` matches `/`."""
        patterns = [rf"(?s:(?:.*/)?){fnmatch.translate(pattern)}" for pattern in self.exclude]
        patterns += [rf"{re.escape(path)}\Z" for path in not_entered]
        if not patterns:
            return lambda _name: False
        matches = re.compile("|".join(patterns)).match
        return lambda name: matches(name) is not None


def _followed(root: Path, paths: list[str], data_type: str) -> list[str]:
    """
    Return paths with the links that lead to them, and what they lead to; each once, none inside another.

    A folder that was moved to another disk behind a symlink is named by the inventory as if it still lay there; tar
    alone would keep the link and nothing else.
    """
    found: dict[PurePosixPath, None] = {}
    for path in paths:
        here, steps = root, [*reversed(PurePosixPath(path).parts)]
        while steps:
            step = steps.pop()
            here = here.parent if step == ".." else here / step
            if here.is_symlink():
                if here.is_relative_to(root):
                    found[PurePosixPath(here.relative_to(root))] = None
                steps += reversed(here.readlink().parts)
                here = here.parent
        if not here.is_relative_to(root):
            raise SourceMissingError(
                f"{data_type}: {root / path}: leads to {here}, out of {root}",
                "name the root that holds both, or make it a data type of its own",
            )
        found[PurePosixPath(here.relative_to(root))] = None
    return [str(path) for path in found if not any(other in path.parents for other in found)]


def _disks(root: Path, paths: list[str], left_out: Callable[[str], bool]) -> list[Path]:
    """Return the disks that the paths lie on and hold, without those that tar leaves out."""

    def is_left_out(point: Path) -> bool:
        below = point.relative_to(root)
        return any(left_out(str(each)) for each in (below, *below.parents) if each.name)

    return mounts.disks([root / path for path in paths], is_left_out)


def _listed(setting: JsonValue) -> list[str]:
    return [str(each) for each in setting] if isinstance(setting, list) else []


def _expiring(root: Path, patterns: tuple[str, ...]) -> list[JsonValue]:
    """Return a line for each certificate that ends soon; what cannot be read is tar's to say."""
    found = CryptoInventory()
    for file in sorted({file for pattern in patterns for file in root.glob(pattern)}):
        with suppress(OSError):
            found.add(str(file.relative_to(root)), file.read_bytes())
    soon = found.evidence(clock.now())["expires_soon"]
    assert isinstance(soon, list)
    return soon


def _member(path: str) -> str:
    return path if path == "." else f"./{path}"


def _size_bytes(root: Path, paths: list[str], left_out: Callable[[str], bool]) -> int:
    """Return about how much tar will write: what is allocated on disk, and headers for each name."""
    total = PIPE_BYTES
    folders: list[str] = []
    for path in paths:
        seen = (root / path).lstat()
        total += MEMBER_BYTES + min(seen.st_size, seen.st_blocks * 512)
        if stat.S_ISDIR(seen.st_mode):
            folders.append("" if path == "." else path)
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    name = f"{folder}/{entry.name}" if folder else entry.name
                    if left_out(name):
                        continue
                    total += MEMBER_BYTES
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(name)
                    else:
                        found = entry.stat(follow_symlinks=False)
                        total += min(found.st_size, found.st_blocks * 512)
        except OSError:
            continue  # tar meets it too, and says so
    return total
