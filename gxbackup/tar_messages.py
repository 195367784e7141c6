"""
What GNU tar says on stderr, read while it runs and sorted: harmless, worth noting, or a loss. Starts no tar.

Names come as tar spells them with `--quoting-style=escape`: one line each, odd bytes escaped, `:` as `\\:`.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from typing import IO

NAMES_KEPT = 20
LOSSES_KEPT = 200
SHRANK = "shrank_and_padded"
# The evidence each message becomes. Files change and vanish under a live service; that is noted, not a failure.
NOTED = {
    "skipped_sockets": re.compile(r"tar: (.*): socket ignored"),
    "changed_while_read": re.compile(r"tar: (.*): file changed as we read it"),
    "vanished": re.compile(r"tar: (.*): File removed before we read it"),
    SHRANK: re.compile(r"tar: (.*): File shrank by \d+ bytes?; padding with zeros"),
}
_LOSS = re.compile(
    r"tar: (.*): (Cannot [a-z]+|Read error at byte \d+.*|Warning: Cannot .*|[Uu]nknown file type.*)(: .*)?"
)
_ESCAPED = re.compile(rb"\\([0-7]{3}|.)")
_LETTERS = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_LAST_WORDS = re.compile(r"tar: Exiting with failure status due to previous errors")


class TarMessages(threading.Thread):
    """
    Drains tar's stderr so that it never blocks, in flat memory; read its fields after `join`.

    `noted` names what NOTED knows, `losses` what was not read or written, `others` what nobody expected.
    """

    def __init__(self, stderr: IO[bytes]) -> None:
        super().__init__(name="tar messages", daemon=True)
        self.counts: Counter[str] = Counter()
        self.noted: dict[str, list[str]] = {}
        self.losses: list[str] = []
        self.others: list[str] = []
        self._stderr = stderr

    def run(self) -> None:
        """Read to the end."""
        rest = b""
        while chunk := self._stderr.read(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._sort(line.decode("utf-8", "backslashreplace"))
        if rest:
            self._sort(rest.decode("utf-8", "backslashreplace"))

    def complaint(self) -> str:
        """Return the first things that tar would not do, as one text for people."""
        return "; ".join([*self.losses, *self.others][:3]) or "no word on stderr"

    def _sort(self, line: str) -> None:
        for key, pattern in NOTED.items():
            if match := pattern.fullmatch(line):
                self.counts[key] += 1
                names = self.noted.setdefault(key, [])
                if len(names) < NAMES_KEPT:
                    names.append(match[1])
                return
        if _LAST_WORDS.fullmatch(line):
            return
        kind, kept = ("losses", self.losses) if _LOSS.fullmatch(line) else ("others", self.others)
        self.counts[kind] += 1
        if len(kept) < LOSSES_KEPT:
            kept.append(line.removeprefix("tar: "))


def unquoted(name: str) -> bytes:
    """Return the bytes of a name that tar spelled with `--quoting-style=escape`."""

    def plain(match: re.Match[bytes]) -> bytes:
        escape = match[1]
        return bytes([int(escape, 8)]) if len(escape) == 3 else _LETTERS.get(escape, escape)

    return _ESCAPED.sub(plain, name.encode())
