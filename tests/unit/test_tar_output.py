"""What tar said of a file is looked into once it has ended, whatever lies there by now."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gxbackup.tar_messages import SHRANK
from gxbackup.tar_output import TarOutput


def test_a_file_that_shrank_and_is_a_pipe_by_now_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    (tmp_path / "whole").write_text("x")
    (tmp_path / "folder").mkdir()
    messages: Any = SimpleNamespace(
        noted={SHRANK: ["./log", "./whole", "./folder", "./gone"]}, counts=Counter({SHRANK: 4})
    )
    ends = os.pipe()
    tar: Any = SimpleNamespace(stdout=SimpleNamespace(fileno=lambda: ends[0]))
    try:
        assert TarOutput(tar, messages, tmp_path, "site")._unreadable() == []
    finally:
        for end in ends:
            os.close(end)
