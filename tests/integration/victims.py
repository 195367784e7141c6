"""Programs that are killed at a step of their own: imported once, then run in a child of their own each time."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from types import TracebackType
from typing import Self

_PARENT = """
import json, os, sys, traceback
import gxbackup.exchange, gxbackup.overlay, gxbackup.placing, gxbackup.safety, gxbackup.tarstream, gxbackup.trees

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
    """A Python program and the process that forks it; over after the block."""

    def __init__(self, code: str) -> None:
        self._code = textwrap.dedent(code)

    def __enter__(self) -> Self:
        self._parent = subprocess.Popen(
            [sys.executable, "-c", _PARENT, self._code], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
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
