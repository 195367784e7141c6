"""Programs that are killed at a step of their own: imported once, then run in a child of their own each time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from types import TracebackType
from typing import Self

RESTORES = tuple(f"gxbackup.{name}" for name in ("exchange", "overlay", "placing", "safety", "tarstream", "trees"))
_PARENT = """
import importlib, json, os, sys, traceback

for module in sys.argv[2:]:
    importlib.import_module(module)
program = compile(sys.argv[1], "victim", "exec")
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            sys.argv[1:] = json.loads(line)
            exec(program, {"__name__": "__main__"})
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Victim:
    """A Python program and the process that forks it, with these modules imported; over after the block."""

    def __init__(self, code: str, imports: Sequence[str] = RESTORES, **variables: str) -> None:
        self._code = textwrap.dedent(code)
        self._imports = imports
        self._variables = variables

    def __enter__(self) -> Self:
        self._parent = subprocess.Popen(
            [sys.executable, "-c", _PARENT, self._code, *self._imports], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **self._variables},
        )  # fmt: skip
        return self

    def run(self, *words: object) -> int:
        """Run the program once with these words as its arguments; return its exit status, -9 where it was killed."""
        assert self._parent.stdin and self._parent.stdout
        self._parent.stdin.write(json.dumps([str(word) for word in words]) + "\n")
        self._parent.stdin.flush()
        return int(self._parent.stdout.readline())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parent.communicate()
