"""The input of a command on this host: handed on beside whoever reads its output, and counted as it is read."""

from __future__ import annotations

import fcntl
import os
import sys
import termios
import threading
from pathlib import Path
from typing import IO

from gxbackup.adapters.transfer import CHUNK_BYTES
from gxbackup.errors import IntegrityError
from gxbackup.packed import PackedFile


class LocalInput(threading.Thread):
    """Hands a file to a command's stdin, copied here only to unpack it; its own reading end tells what was left."""

    def __init__(self, pipe: IO[bytes], file: Path | PackedFile) -> None:
        super().__init__(name="input", daemon=True)
        self.failure = ""
        self._pipe = pipe
        self._file = file
        self._fed_bytes = 0
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, CHUNK_BYTES)
        self._other_end = os.open(f"/proc/self/fd/{pipe.fileno()}", os.O_RDONLY | os.O_NONBLOCK)

    def run(self) -> None:
        """Feed to the end, or until nobody is there to read."""
        try:
            with self._pipe as pipe:
                if isinstance(self._file, PackedFile):
                    self._feed(pipe, self._file)
                    return
                with self._file.open("rb", buffering=0) as source:
                    while count := os.sendfile(pipe.fileno(), source.fileno(), None, CHUNK_BYTES):
                        self._fed_bytes += count
        except BrokenPipeError:
            pass
        except (OSError, IntegrityError) as error:
            self.failure = f"{error}: "

    def _feed(self, pipe: IO[bytes], file: PackedFile) -> None:
        for chunk in file.chunks():
            rest = memoryview(chunk)
            while rest:
                count = pipe.write(rest)
                self._fed_bytes += count
                rest = rest[count:]

    def read_bytes(self) -> int:
        """Tell how much the command read, which has ended: a pipe takes a whole file that nobody reads."""
        while self.is_alive() and not self._unread_bytes():
            self.join(0.01)
        return self._fed_bytes - self._unread_bytes()

    def end(self) -> None:
        """Let go of the input, read or not."""
        os.close(self._other_end)
        self.join()

    def _unread_bytes(self) -> int:
        return int.from_bytes(fcntl.ioctl(self._other_end, termios.FIONREAD, bytes(4)), sys.byteorder)
