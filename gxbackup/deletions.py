"""
The exact files that go once it is settled which copies stay, in an order that may be cut anywhere. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gxbackup import layout
from gxbackup.copies import NOTHING, Copy, Key
from gxbackup.keep_rules import Kept
from gxbackup.model import Catalog, HeldSnapshot

_PAGES = (layout.MANIFEST, layout.SIGNATURE, layout.RECOVER_PAGE)


@dataclass(frozen=True)
class Folder:
    """One snapshot folder: what lies in it, the files that go, in order, and the copies that go with them."""

    snapshot: str
    files: Mapping[str, int]
    going: tuple[str, ...]
    whole: bool
    dropped: tuple[Key, ...] = ()

    def freed_bytes(self) -> int:
        """Return the size of the files that go."""
        return sum(self.files[path] for path in self.going)

    def emptied(self) -> list[str]:
        """Return the outermost folders that are left without a file; the snapshot folder itself is ''."""
        touched = {parent for path in self.going for parent in _parents(path)}
        left = {parent for path in self.files.keys() - set(self.going) for parent in _parents(path)}
        return sorted(folder for folder in touched - left if folder == "" or _parents(folder)[-1] in left)


def folders(catalog: Catalog, copies: Mapping[Key, Copy], stay: Kept) -> list[Folder]:
    """
    Return the snapshot folders that lose files, newest first, so that what builds on a file goes before it.

    A snapshot of which no copy stays loses its manifest first. Where a file lies that we did not write, the manifest
    stays: without it the folder would be a leftover, and that file be taken for ours.
    """
    losing = []
    for held in sorted(catalog.snapshots, key=lambda each: each.snapshot, reverse=True):
        here = [copies[held.snapshot, name] for name in held.manifest.data_types() or (NOTHING,)]
        expired = [copy for copy in here if copy.key not in stay]
        still_named = {path for copy in here if copy.key in stay for path in copy.named()}
        going = [path for copy in expired for path in copy.files() if path not in still_named]
        whole = len(expired) == len(here) and not foreign(held)
        if whole:
            going = [page for page in _PAGES if page in held.files] + going
        if going:
            dropped = [copy.key for copy in expired if whole or set(copy.files()) & set(going)]
            losing.append(
                Folder(
                    snapshot=held.snapshot,
                    files=held.files,
                    going=tuple(dict.fromkeys(going)),
                    whole=whole,
                    dropped=tuple(key for key in dropped if not copies[key].is_gone()),
                )
            )
    return losing


def foreign(held: HeldSnapshot) -> list[str]:
    """Return the files in a snapshot's folder that neither its manifest names nor we put beside it."""
    named = {part.path for artifact in held.manifest.artifacts for part in artifact.parts}
    return sorted(held.files.keys() - named - set(_PAGES))


def _parents(path: str) -> list[str]:
    steps = path.split("/")
    return ["/".join(steps[:length]) for length in range(len(steps))]
