"""Files of a running server that are cut while they are copied: the copy ends, and the next look puts it right."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gxbackup import frozen_copy, placing


def test_what_is_cut_while_its_growth_is_copied_is_copied_anew(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"blocks" * 1000)
    target.write_bytes(b"blocks" * 500)
    seen, there = source.stat(), target.stat()
    os.truncate(source, 3000)

    assert not frozen_copy._append(source, target, seen, there)


def test_what_is_cut_while_it_is_copied_is_copied_as_far_as_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "from").mkdir()
    source = tmp_path / "from" / "file"
    source.write_bytes(b"blocks" * 1000)
    sendfile = os.sendfile

    def cut(writing: int, reading: int, offset: int | None, limit: int) -> int:
        os.truncate(source, 600)
        return sendfile(writing, reading, offset, limit)

    monkeypatch.setattr(placing.os, "sendfile", cut)

    placing.put(tmp_path / "from", tmp_path / "there", ["file"], ".temporary")

    assert (tmp_path / "there" / "file").read_bytes() == b"blocks" * 100
