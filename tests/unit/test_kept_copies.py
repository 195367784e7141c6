"""What restores left on a host is listed whatever else lies there: a report must not fail over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gxbackup import kept_copies
from gxbackup.errors import RestoreError


def kept_beside(target: Path) -> Path:
    """Make a safety copy of a target with one file in it."""
    copy = target.parent / f".{target.name}.before-20261121T020000.000000Z"
    copy.mkdir(parents=True)
    (copy / "file").write_bytes(b"x" * 5000)
    return copy


def test_a_note_that_was_cut_in_half_hides_no_other_copy_and_breaks_no_report(tmp_path: Path) -> None:
    first, second, safety = tmp_path / "a" / "site", tmp_path / "b" / "site", tmp_path / "safety"
    copies = [kept_beside(first), kept_beside(second)]
    safety.mkdir()
    kept_copies.note(first, safety)
    with (safety / "exchanged.jsonl").open("a") as noted:
        noted.write('"/half/of/a/na')

    kept_copies.note(second, safety)

    assert [copy.path for copy in kept_copies.find([], safety)] == [str(copy) for copy in copies]


def test_a_target_is_noted_once(tmp_path: Path) -> None:
    target = tmp_path / "site"
    kept_copies.note(target, tmp_path)
    noted = (tmp_path / "exchanged.jsonl").read_bytes()

    kept_copies.note(target, tmp_path)

    assert (tmp_path / "exchanged.jsonl").read_bytes() == noted


def test_a_folder_whose_name_only_looks_like_a_copy_is_not_listed(tmp_path: Path) -> None:
    copy = kept_beside(tmp_path / "site")
    (tmp_path / ".site.before-20269999T999999.000000Z").mkdir()
    (tmp_path / ".site.before-20261121T020000.000001Z").symlink_to(copy)

    (found,) = kept_copies.find([tmp_path / "site"], tmp_path / "nowhere")

    assert found.path == str(copy)
    assert found.size_bytes >= 5000


def test_notes_that_cannot_be_read_count_as_none(tmp_path: Path) -> None:
    (tmp_path / "exchanged.jsonl").mkdir()

    assert kept_copies.find([], tmp_path) == []


def test_a_note_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    safety = tmp_path / "safety"
    (safety / "exchanged.jsonl").mkdir(parents=True)

    with pytest.raises(RestoreError, match="expected to note a safety copy, seen Is a directory"):
        kept_copies.note(tmp_path / "site", safety)
