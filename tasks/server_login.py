"""What to say where the Prefect server does not let us in. Imports no Prefect: each of its commands loads this."""

from __future__ import annotations

from gxbackup.errors import SetupError


def refused(url: str | None, *hints: str) -> SetupError:
    """Return the error for a server that refused the login, with what to set, and further hints."""
    return SetupError(
        f"PREFECT_API_URL={url}: the server refused the login",
        "set PREFECT_API_AUTH_STRING to what the server has in PREFECT_SERVER_API_AUTH_STRING",
        *hints,
    )
