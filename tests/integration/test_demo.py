"""`make demo`: whoever ends it, at whatever moment, ends all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from estate import PROJECT, await_condition

# In a folder of its own, beside a demo that somebody may be looking at.
DEMO = """
import sys
from pathlib import Path
import demo
demo.ROOT = Path(sys.argv[1])
demo.SITE = demo.ROOT / "www" / "gxcoin.money"
sys.exit(demo.main())
"""
A_RUN_IS_ON = "prefect.engine"


def processes(root: Path) -> dict[int, str]:
    """Return the command lines of all processes that were started for a demo in this folder, by whomever."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"PREFECT_HOME={root}/".encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "demo"
    for left in processes(tmp_path / "demo"):
        with suppress(ProcessLookupError):
            os.kill(left, signal.SIGKILL)


@pytest.mark.parametrize(
    ("keep", "number", "moment"),
    [
        pytest.param("", signal.SIGINT, "a server", id="Ctrl-C-while-it-sets-up"),
        pytest.param("", signal.SIGTERM, "a run", id="terminated-while-a-run-is-on"),
        pytest.param("1", signal.SIGTERM, "the end", id="terminated-while-the-UI-is-left-up"),
    ],
)
def test_a_demo_that_is_ended_leaves_no_process(root: Path, keep: str, number: int, moment: str) -> None:
    said = root.with_name("said")
    with said.open("wb") as output:
        demo = subprocess.Popen(
            [sys.executable, "-c", DEMO, str(root)], cwd=PROJECT, stdout=output, stderr=output,
            env={**os.environ, "KEEP": keep, "PYTHONPATH": str(PROJECT / "scripts")},
        )  # fmt: skip
    reached = {
        "a server": lambda: any("server start" in line for line in processes(root).values()),
        "a run": lambda: any(A_RUN_IS_ON in line for line in processes(root).values()),
        "the end": lambda: "until Ctrl-C" in said.read_text(),
    }
    try:
        await_condition(moment, reached[moment], 240, died=lambda: demo.poll() is not None)
        assert processes(root)
        demo.send_signal(number)
        demo.send_signal(number)  # as from a terminal and from make, which passes it on
        status = demo.wait(60)
    finally:
        demo.kill()

    await_condition("all processes to be gone", lambda: not processes(root), 30)
    assert status == 128 + number
    assert "Traceback" not in said.read_text()
