"""
A chaincode package by its name, which proves its content, and packages in the tar that a backup keeps.

Source: facts B13: `<label>.<sha256>.tar.gz` has the package id `<label>:<sha256>`.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue

from gxbackup.errors import RestoreRefusedError

NAME = re.compile(r"(?P<label>[A-Za-z0-9][A-Za-z0-9_.+-]*)\.(?P<hash>[0-9a-f]{64})\.tar\.gz")


class Package(NamedTuple):
    """One package of one peer."""

    name: str
    size_bytes: int
    peer: str

    @property
    def package_id(self) -> str:
        """Spell it as Fabric does: `label:hash`."""
        match = NAME.fullmatch(self.name)
        assert match is not None
        return f"{match['label']}:{match['hash']}"


def package_told(told: JsonValue) -> Package:
    """Return a package as a manifest's settings tell it."""
    assert isinstance(told, list)
    name, size_bytes, peer = told
    return Package(str(name), int(str(size_bytes)), str(peer))


def contents(file: Path, label: str) -> dict[str, tuple[int, int]]:
    """
    Return where each package's content lies in a tar: name → begin and size.

    Raises: RestoreRefusedError for a member that is no package, or whose content is not what its name says.
    """
    found = {}
    with tarfile.open(file) as tar:
        for member in tar:
            match = NAME.fullmatch(member.name)
            content = tar.extractfile(member) if member.isreg() else None
            if match is None or content is None:
                raise RestoreRefusedError(f"{label}: {member.name!r}: expected a package, seen another member")
            if (seen := hashlib.sha256(content.read()).hexdigest()) != match["hash"]:
                raise RestoreRefusedError(f"{label}: {member.name}: its content has sha256 {seen}")
            found[member.name] = (member.offset_data, member.size)
    return found
