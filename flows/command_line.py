"""
Any flow from a shell, with no Prefect server at all: `python -m flows.restore_website --mode in-place --approve`.

The options are read from the flow's own signature, so that both ways in take the same parameters.
"""

from __future__ import annotations

import argparse
import inspect
import os
import signal
import sys
import types
import typing
from typing import Any, Literal, Union

import httpx
from prefect import Flow
from prefect.client.orchestration import get_client

from gxbackup.errors import BackupError
from tasks.policy import speak_plainly
from tasks.server_login import refused

_SERVERLESS = "GX_WITHOUT_SERVER"


def run(flow: Flow[..., Any]) -> None:
    """
    Run a flow with the words of the command line and exit: 0 done, 1 failed, 2 not understood.

    Where PREFECT_API_URL names a server that does not answer, or none, Prefect's embedded one serves this run alone:
    the Prefect host may be what burned down.
    """
    values = vars(_parser(flow).parse_args())
    # A dropped ssh connection ends a run as a stop does: tidied up.
    signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        _without_a_dead_server()
        speak_plainly()
        flow(**values)
    except BackupError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(1)
    sys.exit(0)


def _parser(flow: Flow[..., Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m flows.{flow.fn.__name__}",
        description=inspect.cleandoc(flow.fn.__doc__ or ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    hints = typing.get_type_hints(flow.fn)
    for name, parameter in inspect.signature(flow.fn).parameters.items():
        option = f"--{name.replace('_', '-')}"
        hint = hints[name]
        shown: dict[str, Any] = {"dest": name, "help": f"default: {parameter.default}"}
        if typing.get_origin(hint) in (Union, types.UnionType):
            hint = next(choice for choice in typing.get_args(hint) if choice is not type(None))
        if parameter.default is inspect.Parameter.empty:
            shown = {"dest": name, "required": True, "help": "required"}
        else:
            shown["default"] = parameter.default
        if hint is bool:
            parser.add_argument(option, action=argparse.BooleanOptionalAction, **shown)
        elif typing.get_origin(hint) is Literal:
            parser.add_argument(option, choices=typing.get_args(hint), **shown)
        elif typing.get_origin(hint) is list:
            parser.add_argument(option, nargs="+", **shown)
        else:
            parser.add_argument(option, type=hint, **shown)
    return parser


def _without_a_dead_server() -> None:
    """Start this command again without PREFECT_API_URL where nobody answers there; SetupError: a wrong login."""
    url = os.environ.get("PREFECT_API_URL")
    if os.environ.get(_SERVERLESS):
        return
    if url and _answers(url):
        _require_login(url)
        return
    if url:
        sys.stderr.write(f"Prefect server {url} does not answer: running without one\n")
    # Unset, for Prefect sends events to an empty address too. A profile is left out: it may name that server again.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PREFECT_API_URL", "PREFECT_PROFILE")
    }
    environment |= {
        _SERVERLESS: "1",
        "PREFECT_PROFILES_PATH": os.devnull,
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 - this very command


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url.rstrip('/')}/health", timeout=5).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _require_login(url: str) -> None:
    """Ask for anything, as the run would; whatever else is wrong with the server, the run itself tells."""
    try:
        with get_client(sync_client=True) as client:
            client.read_work_pools(limit=1)
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.UNAUTHORIZED:
            raise refused(url, "unset PREFECT_API_URL to run without a server") from None
    except httpx.HTTPError:
        return
