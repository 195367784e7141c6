"""The log files that Loki reads: one line per event, and ERROR exactly where a person must act."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

import pytest

from flows.backup_vps1 import backup_vps1
from flows.list_snapshots import list_snapshots
from gxbackup.errors import BackupError, IncompleteBackupError
from tasks import logs
from tests.flows.conftest import Place

LINE = re.compile(
    r"time=(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) level=(INFO|WARNING|ERROR) server=(\S+) data_type=(\S+) "
    r'run=([0-9a-f-]{36}) msg="(.*)"'
)


def lines(place: Place, name: str = "backup-vps1.log") -> list[re.Match[str]]:
    found = [LINE.fullmatch(line) for line in (place.root / "logs" / name).read_text().splitlines()]
    assert all(found), "a line is not of the form"
    return [match for match in found if match]


def errors(place: Place, name: str = "backup-vps1.log") -> list[str]:
    """Return what the strategy's query `|= "ERROR"` counts."""
    return [line for line in (place.root / "logs" / name).read_text().splitlines() if "ERROR" in line]


def test_a_green_run_has_no_error_and_each_line_names_server_data_type_and_run(place: Place) -> None:
    backup_vps1()

    assert errors(place) == []
    told = lines(place)
    assert len({match[5] for match in told}) == 1
    assert {match[3] for match in told} == {"vps1"}
    assert {"website", "system-config"} <= {match[4] for match in told}
    assert "is complete and proven" in told[-2][6]


def test_a_red_run_has_one_error_for_each_data_type_that_is_missing(place: Place) -> None:
    shutil.rmtree(place.site)
    shutil.rmtree(place.etc)

    with pytest.raises(IncompleteBackupError):
        backup_vps1()

    assert len(errors(place)) == 2
    assert [match[4] for match in lines(place) if match[2] == "ERROR"] == ["website", "system-config"]


def test_a_run_that_fails_as_a_whole_has_one_error(place: Place) -> None:
    def edit(document: dict[str, dict[str, object]]) -> None:
        document["remote"]["path"] = "nowhere:gx-backups"

    place.create(edit)

    with pytest.raises(BackupError):
        list_snapshots(server="vps1")

    assert len(errors(place, "backup-list-snapshots.log")) == 1
    assert [match[3] for match in lines(place, "backup-list-snapshots.log") if match[2] == "ERROR"] == ["vps1"]


def test_other_programs_errors_are_not_counted_and_no_text_breaks_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GX_LOG_DIR", str(tmp_path / "made"))
    handler = logs.RunLog()
    for level, text in (
        (logging.WARNING, 'psql said "ERROR:  relation"\nHINT: none'),
        (logging.ERROR, "it\r\nis gone"),
    ):
        record = logging.LogRecord("prefect.flow_runs", level, "x.py", 1, text, None, None)
        record.flow_name, record.flow_run_id = "backup-vps1", "0" * 36
        handler.emit(record)

    written = (tmp_path / "made" / "backup-vps1.log").read_text().splitlines()
    assert [line.partition("msg=")[2] for line in written] == [
        r'"psql said \"Error:  relation\" | HINT: none"', '"it | is gone"',
    ]  # fmt: skip
    assert ["ERROR" in line for line in written] == [False, True]


def test_what_the_engine_tells_without_the_flows_name_goes_to_the_flow_of_its_process_or_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GX_LOG_DIR", str(tmp_path))
    handler = logs.RunLog()
    for flow, text in (("restore-website", "cannot be loaded"), (None, "nobody's")):
        if flow:
            monkeypatch.setenv("PREFECT__FLOW_NAME", flow)
        else:
            monkeypatch.delenv("PREFECT__FLOW_NAME")
        record = logging.LogRecord("prefect.flow_runs", logging.ERROR, "engine.py", 1, text, None, None)
        record.flow_name, record.flow_run_id = "<unknown>", "0" * 36
        handler.emit(record)

    (written,) = tmp_path.iterdir()
    assert written.name == "backup-restore-website.log"
    (line,) = written.read_text().splitlines()
    assert " level=ERROR " in line and line.endswith('msg="cannot be loaded"')


def test_files_rotate_and_a_folder_that_cannot_be_written_ends_no_run(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES", 700)
    monkeypatch.setenv("GX_LOG_DIR", str(place.root / "small"))
    list_snapshots(server="vps1")
    assert (place.root / "small" / "backup-list-snapshots.log.1").stat().st_size <= 700

    (place.root / "blocked").write_text("")
    monkeypatch.setenv("GX_LOG_DIR", str(place.root / "blocked"))
    list_snapshots(server="vps1")
