"""
What this host's own unit gives its K3s: the words of ExecStart, and the environment. Read, never changed.

`systemctl show` loses the quotes of ExecStart, so its words are read from the unit's text, drop-ins and all.
Source: man systemd.service (COMMAND LINES), systemd.syntax; k3s-io/k3s pkg/cli/cmds.
"""

from __future__ import annotations

import re
import shlex
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gxbackup.adapters import process
from gxbackup.errors import SetupError

BRIEF_SECONDS = 120
# By its flag's name, without dashes: what a reset has its own of, or refuses; `url` is what the variable of --server
# is called.
_REPLACED = re.compile(r"s|server|url|cluster-(init|reset.*)|t|(agent-)?token.*|d|data-dir|etcd-s3.*|datastore-.*")
_SECRET = re.compile(r"vpn-auth|.*(token|secret|password|key).*")
# Of all those, what takes no value.
_SWITCHES = frozenset({
    "cluster-init", "cluster-reset", "etcd-s3", "etcd-s3-insecure", "etcd-s3-skip-ssl-verify", "secrets-encryption",
})  # fmt: skip
_QUOTED = r"""\"((?:\\.|[^"\\])*)\"|'((?:\\.|[^'\\])*)'"""
_WORD = re.compile(rf"(?:{_QUOTED}|\\.|[^\s\"'\\])+")
_ESCAPES = {"\\": "\\", '"': '"', "'": "'", "s": " ", "t": "\t", "n": "\n"}


@dataclass(frozen=True)
class Unit:
    """What the service is started with. May hold secrets: only what `for_reset` and `shown` return is for an argv."""

    words: tuple[str, ...]
    variables: Mapping[str, str]
    texts: Mapping[str, str]

    def option(self, name: str) -> str:
        """Return the value of a flag in either spelling, empty where it is not given."""
        for word, following in zip(self.words, (*self.words[1:], ""), strict=True):
            flag, given, value = word.partition("=")
            if word.startswith("-") and flag.lstrip("-") == name:
                return value if given else following
        return ""

    def for_reset(self) -> list[str]:
        """Return the words that a reset needs as the service does: no secret, nothing that the reset replaces."""
        kept = []
        words = iter(self.words)
        for word in words:
            name, given, _ = word.lstrip("-").partition("=")
            if not word.startswith("-") or not (_REPLACED.fullmatch(name) or _SECRET.fullmatch(name)):
                kept.append(word)
            elif not given and name not in _SWITCHES:
                next(words, None)
        return kept

    def environment(self) -> dict[str, str]:
        """Return the variables of K3s that a reset needs as the service does, by name; some may be secret."""
        ours = {name: value for name, value in self.variables.items() if name.startswith("K3S_")}
        return {name: value for name, value in ours.items() if not _REPLACED.fullmatch(_flag(name))}

    def shown(self) -> dict[str, str]:
        """Return those of `environment` that are no secret."""
        return {name: value for name, value in self.environment().items() if not _SECRET.fullmatch(_flag(name))}


def read(service: str) -> Unit:
    """Return what a service is started with; nothing where this host does not know it."""
    told = _systemctl("show", "--property=ExecStart,Environment,EnvironmentFiles", service)
    texts = {f"the unit {service}": told}
    variables = {}
    for line in re.findall(r"^Environment=(.*)", told, re.MULTILINE):
        variables.update(_assignments(_words(line)))
    for name in re.findall(r"^EnvironmentFiles=(\S+)", told, re.MULTILINE):
        if (file := Path(name)).is_file():
            texts[name] = file.read_text(encoding="utf-8", errors="replace")
            variables.update(_assignments(_file_lines(texts[name])))
    return Unit(server_words(_systemctl("cat", service), variables), variables, texts)


def server_words(unit: str, variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return the words behind `server` in a unit's text as systemd reads it: the last ExecStart counts."""
    words: list[str] = []
    for word in _words(_exec_start(unit)):
        plain = re.sub(r"%([%Hl])", lambda found: _specifier(found[1]), word)
        if whole := re.fullmatch(r"\$(\w+)", plain):
            words += _words(variables.get(whole[1], ""))
        else:
            words.append(re.sub(r"\$\$|\$\{(\w+)\}", lambda found: variables.get(found[1], "") if found[1] else "$",
                                plain))  # fmt: skip
    return tuple(words[words.index("server") + 1 :]) if "server" in words else ()


def _systemctl(*words: str) -> str:
    try:
        done = process.run(["systemctl", *words], timeout_seconds=BRIEF_SECONDS, check=False)
    except SetupError:  # a plan is also made where no service runs
        return ""
    return done.stdout.decode("utf-8", "replace")


def _exec_start(unit: str) -> str:
    found = line = ""
    for piece in [*unit.splitlines(), ""]:
        if piece.lstrip().startswith(("#", ";")):  # also between the lines of one command
            continue
        if piece.endswith("\\"):
            line += f"{piece[:-1]} "
            continue
        name, _, value = f"{line}{piece}".partition("=")
        found = value if name.strip() == "ExecStart" else found
        line = ""
    return found


def _words(line: str) -> list[str]:
    """Split a line as systemd does: quotes group, in the middle of a word too, and C's escapes count within them."""
    return [_unescaped(re.sub(rf"(\\.)|{_QUOTED}", _unquoted, word[0])) for word in _WORD.finditer(line)]


def _unquoted(piece: re.Match[str]) -> str:
    return piece[1] or piece[2] or piece[3] or ""


def _unescaped(word: str) -> str:
    def plain(found: re.Match[str]) -> str:
        code = found[1]
        return chr(int(code[1:], 16)) if len(code) > 1 else _ESCAPES.get(code, found[0])

    return re.sub(r"\\(x[0-9a-fA-F]{2}|.)", plain, word)


def _specifier(letter: str) -> str:
    host = socket.gethostname()
    return {"%": "%", "H": host, "l": host.partition(".")[0]}[letter]


def _file_lines(text: str) -> Iterable[str]:
    """Yield NAME=value of each line of an environment file, which a shell could read too."""
    for line in text.splitlines():
        name, _, value = line.strip().partition("=")
        try:
            yield f"{name}={' '.join(shlex.split(value))}"
        except ValueError:  # a quote that never ends
            yield f"{name}={value}"


def _assignments(pairs: Iterable[str]) -> dict[str, str]:
    split = (pair.partition("=") for pair in pairs)
    return {name: value for name, _, value in split if re.fullmatch(r"\w+", name)}


def _flag(variable: str) -> str:
    return variable.removeprefix("K3S_").lower().replace("_", "-")
