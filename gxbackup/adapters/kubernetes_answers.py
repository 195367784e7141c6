"""What a Kubernetes API server says when it says no."""

from __future__ import annotations

import json

from gxbackup.errors import CollectError


class ApiRefusalError(CollectError):
    """The API server answered, and its answer was no; `status` is the one of HTTP."""

    status: int = 0
    reason: str = ""


def is_of_revision(raw: bytes) -> bool:
    """Tell whether etcd does not have the revision asked for: asking again does not help."""
    return b"required revision" in raw


def says_later(raw: bytes) -> bool:
    """Tell whether it asks to be asked again, since what it needs is being made: the token of a new account."""
    return b'"reason":"ServerTimeout"' in raw


def refusal(what: str, status: int, raw: bytes, is_secret: bool) -> ApiRefusalError:
    """Spell an answer that is no; of one about a Secret only its fields: its words may repeat the secret."""
    try:
        told = json.loads(raw)
        assert isinstance(told, dict)
    except (ValueError, AssertionError):
        told = {"message": raw[:200].decode("utf-8", "replace")}
    causes = (told.get("details") or {}).get("causes") or ()
    said = ", ".join(str(cause.get("field")) for cause in causes) if is_secret else told.get("message")
    hints = ("docs/how-to/give-the-worker-access-to-kubernetes.md lists the rights it needs",)
    error = ApiRefusalError(
        f"{what}: seen {status} {told.get('reason') or ''}: {str(said or 'no reason given')[:500]}",
        *(hints if status in (401, 403) else ()),
        retryable=status == 429 or status >= 500,
    )
    error.status, error.reason = status, str(told.get("reason") or "")
    return error
