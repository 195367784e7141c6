"""
Lets an operator type `prefect deployment run restore-website`: here, flow and deployment have one name.

A Prefect plugin (entry point `prefect.plugins` in pyproject.toml), loaded where PREFECT_PLUGINS_ENABLED is true or a
command starts in the project's directory. Stock Prefect wants `restore-website/restore-website`, which always works.
It also spares them the traceback of a wrong login. Nothing else belongs here: every command of Prefect imports this.
"""

from __future__ import annotations

import sys
from http import HTTPStatus
from typing import TYPE_CHECKING

from prefect.plugins import register_hook

from tasks.server_login import refused

if TYPE_CHECKING:
    from prefect.client.schemas.responses import DeploymentResponse
    from prefect.plugins import HookContext


@register_hook
def setup_environment(*, ctx: HookContext) -> None:
    """Read a deployment's name without a slash as the name of its flow too."""
    # Prefect has no public hook for this. The import waits until Prefect itself can be imported.
    from prefect.client.orchestration._deployments.client import DeploymentAsyncClient
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import PREFECT_API_URL

    stock = DeploymentAsyncClient.read_deployment_by_name

    async def read_deployment_by_name(self: DeploymentAsyncClient, name: str) -> DeploymentResponse:
        try:
            return await stock(self, name if "/" in name else f"{name}/{name}")
        except PrefectHTTPStatusError as error:
            # A flow may ask too, and must not be ended by it.
            if error.response.status_code == HTTPStatus.UNAUTHORIZED and sys.argv[1:2] == ["deployment"]:
                raise SystemExit(f"SetupError: {refused(PREFECT_API_URL.value())}") from None
            raise

    DeploymentAsyncClient.read_deployment_by_name = read_deployment_by_name  # type: ignore[method-assign]
    ctx.logger_factory("prefect.plugins").debug("a deployment's name without a slash names its flow too")
