"""
What rclone says on stderr, as our errors: which kind, whether trying again helps, and no secret in it.

rclone's exit status alone does not tell a wrong password from a full disk (both are 1), so its text decides, and the
status only where the text is silent. Starts no program.

Source: `rclone help` 1.75.2, "Exit code"; each text below was provoked (tests/conformance/test_remotes.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gxbackup.errors import BackupError, IntegrityError, RemoteError, SetupError

USAGE, FOLDER_MISSING, FILE_MISSING, NOT_AGAIN, FATAL = 2, 3, 4, 6, 7
_TEXT_LIMIT = 700
_WORTH_READING = {"error", "critical", "emergency", "alert"}
_NOISE = re.compile(r"Attempt \d+/\d+ |Can't retry any of the errors|Cancelling sync due to|Fatal error received")
_DETAILS = re.compile(r"\s*More details:\s.*", re.DOTALL)
_QUERY = re.compile(r"(https?://[^\s\"?]+)\?[^\s\"]+")


class RemoteFileMissingError(RemoteError):
    """The remote answered, and does not hold this file."""

    retryable = False


@dataclass(frozen=True)
class LogLine:
    """One line of rclone's JSON log, or of plain text, as far as we read it."""

    level: str
    text: str
    about: str = ""
    stats: dict[str, Any] | None = None


def read_line(line: bytes) -> LogLine:
    """Read one line of stderr; plain text (usage errors, panics) counts as an error."""
    try:
        fields = json.loads(line)
        return LogLine(fields["level"], redacted(fields["msg"]), fields.get("object") or "", fields.get("stats"))
    except (ValueError, KeyError, TypeError):
        return LogLine("error", redacted(line.decode("utf-8", "replace").strip()))


def read_log(stderr: bytes) -> list[LogLine]:
    """Read all that rclone said."""
    return [read_line(line) for line in stderr.splitlines() if line.strip()]


def complaints(log: Sequence[LogLine]) -> list[LogLine]:
    """Return the lines that tell of an error, without statistics and without the word that it gives up."""
    return [line for line in log if line.level in _WORTH_READING and line.stats is None and not _NOISE.match(line.text)]


# After a colon and a blank stands prose (`couldn't fetch token: invalid_grant`), except in JSON and in HTTP headers.
_SECRET = re.compile(
    r"""(?ix)
      (?P<name> (?: \b | _ ) (?: token | password | passwd | pass | secret | signature | access_key_id
                | secret_access_key | api_?key | sas_url ) (?: \s* = \s* | : | " \s* : \s* )
              | authorization : \s* (?: bearer | basic )? \s* )
      (?P<value> "[^"]*" | \{[^}]*\} | [^\s,;&"'}]+ )
    """
)
_USER_IN_URL = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^/\s@]+@")
_GOOGLE_TOKEN = re.compile(r"\b(ya29\.|1//)[\w.-]+")


def redacted(text: str) -> str:
    """Return a text without what looks like a password, a key or a token, and without the queries of web addresses."""
    text = _QUERY.sub(r"\1?…", text)
    text = _SECRET.sub(lambda found: f"{found['name']}***", text)
    text = _USER_IN_URL.sub(lambda found: f"{found['scheme']}***@", text)
    return _GOOGLE_TOKEN.sub("***", text)


@dataclass(frozen=True)
class _Kind:
    pattern: re.Pattern[str]
    error: type[BackupError]
    retryable: bool
    hint: str


def _kind(pattern: str, error: type[BackupError], retryable: bool, hint: str) -> _Kind:
    return _Kind(re.compile(pattern, re.IGNORECASE), error, retryable, hint)


# The first that matches decides, so the narrower stand first.
_KINDS = (
    _kind(
        r"didn't find section in config file|didn't find backend called",
        SetupError,
        False,
        "`rclone listremotes` shows the names in rclone's config (RCLONE_CONFIG); the inventory has it in remote.path",
    ),
    _kind(
        r"decrypt configuration|failed to load config",
        SetupError,
        False,
        "rclone's config is encrypted or damaged: set RCLONE_CONFIG_PASS, or RCLONE_CONFIG to a file that can be read",
    ),
    _kind(
        r"opening service account credentials file|error processing credentials",
        SetupError,
        False,
        "service_account_file of this remote in rclone's config (RCLONE_CONFIG): put Google's key file there",
    ),
    _kind(
        r"failed to read private key file",
        SetupError,
        False,
        "key_file of this remote in rclone's config (RCLONE_CONFIG): put the private key there",
    ),
    _kind(
        r"storageQuotaExceeded|storage quota has been exceeded|FileLimitExceeded|received upload limit error"
        r"|downloadQuotaExceeded|no space left on device|disk quota exceeded|\b507\b|insufficient storage"
        r"|not enough space|remaining disk space",
        RemoteError,
        False,
        "the remote is full or its quota is used up: make room there (prune-snapshots), then start again",
    ),
    _kind(r"rate ?limit|too many requests|\b429\b|quotaExceeded", RemoteError, True, "the remote asks for patience"),
    _kind(
        r"(?:cannot|couldn't) fetch token: 5\d\d\b",
        RemoteError,
        True,
        "the login's own server is at fault for the moment",
    ),
    _kind(
        r"dailyLimitExceeded|cannotDownloadAbusiveFile",
        RemoteError,
        False,
        "Google's own limit or judgement: wait a day, or look at the file in the browser; the login is right",
    ),
    _kind(
        r"invalid_grant|invalid_client|unauthorized_client|oauth2:|token expired|\b401\b|authError|invalid credentials"
        r"|unable to authenticate|InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied|access denied"
        r"|SSH agent|insufficient\w*permissions|\b403\b|permission denied|login incorrect",
        RemoteError,
        False,
        "the login was refused: `rclone config reconnect` for Google Drive, else look at user, key and rights",
    ),
    _kind(r"knownhosts:|host key", RemoteError, False, "the server is not the one that known_hosts names"),
    _kind(
        r"x509:|certificate", RemoteError, False, "the server's certificate is not trusted; is the host's clock right?"
    ),
    _kind(r"immutable file modified", IntegrityError, False, "nothing on the remote was overwritten"),
    _kind(r"bad password", RemoteError, False, "the crypt remote's password is not the one it was written with"),
    _kind(
        r"connection refused|no such host|no route to host|network is unreachable|i/o timeout|deadline exceeded"
        r"|server misbehaving|connection reset|broken pipe|\bEOF\b|timed? ?out|couldn't connect",
        RemoteError,
        True,
        "the remote could not be reached: is the network up, and the address in rclone's config right?",
    ),
)


def failure(what: str, returncode: int, log: Sequence[LogLine]) -> BackupError:
    """
    Turn a failed rclone into the error to raise.

    `what` says what was being done, to which path. Negative statuses are signals. Retryable unless the text or the
    status (usage, not found, no retry, fatal) says that the same call would fail again.
    """
    spoken = [line.text for line in complaints(log)] or [line.text for line in log if line.stats is None][-1:]
    text = "; ".join(dict.fromkeys(_DETAILS.sub("", line).strip() for line in spoken))
    if len(text) > _TEXT_LIMIT:
        text = f"{text[: _TEXT_LIMIT // 2]} … {text[-_TEXT_LIMIT // 2 :]}"
    if returncode < 0:
        return RemoteError(f"{redacted(what)}: rclone: killed by signal {-returncode}")
    message = f"{redacted(what)}: rclone: exit status {returncode}{text and ': '}{text}"
    for kind in _KINDS:
        if kind.pattern.search(text):
            return kind.error(message, kind.hint, retryable=kind.retryable)
    if returncode in (FOLDER_MISSING, FILE_MISSING):
        return RemoteFileMissingError(message)
    return RemoteError(message, retryable=returncode not in (USAGE, NOT_AGAIN, FATAL))
