"""
The one door to child processes. Knows no program by name; builds no argv.

Every child gets a small environment of its own (secrets of the parent are not inherited), the C locale so that its
messages can be read, and dies with the thread that started it (PR_SET_PDEATHSIG): a worker that was killed -9 leaves no
dump and no upload running behind it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias

from gxbackup.errors import CommandError, SetupError

STDERR_TAIL_BYTES = 8192
PASSED_ON = ("PATH", "HOME", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
Stream = int | IO[bytes] | None
Child: TypeAlias = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Completed:
    """How a command ended, and all it printed."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes

    def complaint(self) -> str:
        """Return the end of what it said on stderr, as one text for people."""
        return self.stderr[-STDERR_TAIL_BYTES:].decode("utf-8", "replace").strip()


def find_program(name: str, hint: str) -> str:
    """Return the full path of a program; SetupError with this hint where the host lacks it."""
    found = shutil.which(name)
    if found is None:
        raise SetupError(f"program {name!r}: not found in PATH", hint)
    return found


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what a child may know: a few harmless variables, and what its caller gives it by name."""
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {**passed, "LC_ALL": "C.UTF-8", "PATH": os.environ.get("PATH", os.defpath), **(extra or {})}


def run(
    argv: Sequence[str | Path],
    *,
    timeout_seconds: float,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    cwd: Path | None = None,
    check: bool = True,
) -> Completed:
    """
    Run a command to its end and keep what it printed.

    Raises: CommandError where it takes longer than the limit (it is killed first) or, with `check`, ends with a status
    other than 0. For output that is small; large output is read with `start`.
    """
    words = tuple(str(word) for word in argv)
    with start(
        words,
        env=env,
        cwd=cwd,
        stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        try:
            out, err = child.communicate(stdin, timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            end(child)
            raise CommandError(
                f"{words[0]}: not finished after {timeout_seconds:g} s: {' '.join(words)}",
                "is the disk, the database or the network stuck?",
            ) from None
    done = Completed(words, child.returncode, out, err)
    if check and done.returncode != 0:
        raise CommandError(
            f"{words[0]}: expected exit status 0, seen {done.returncode}: {' '.join(words)}: {done.complaint()}"
        )
    return done


@contextmanager
def start(
    argv: Sequence[str | Path],
    *,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = None,
    stderr: Stream = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[Child]:
    """
    Start a command in a process group of its own; leaving the block ends it, with all its children, if it still runs.

    Raises: SetupError where the program is not there.
    """
    words = [str(word) for word in argv]
    find_program(words[0], f"install {words[0]} (README, Set up a host)")
    setpriv = find_program("setpriv", "install the Debian package util-linux")
    child = subprocess.Popen(
        [setpriv, "--pdeathsig", "KILL", "--", *words],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=environment(env),
        cwd=cwd,
        bufsize=0,
        process_group=0,
    )
    try:
        yield child
    finally:
        end(child)
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()


def end(child: Child, grace_seconds: float = 5) -> None:
    """End a child and its process group: politely, then not; return once it is gone."""
    if child.poll() is not None:
        return
    for number, patience in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        try:
            child.wait(patience)
            return
        except subprocess.TimeoutExpired:
            continue
