"""
Lets an operator type `prefect deployment run restore-website`: here, flow and deployment have one name.

A Prefect plugin (entry point `prefect.plugins` in pyproject.toml), loaded where PREFECT_PLUGINS_ENABLED is true or a
command starts in the project's directory. Stock Prefect wants `restore-website/restore-website`, which always works.
Nothing but this spelling belongs here: the module is imported by every command of Prefect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect.plugins import register_hook

if TYPE_CHECKING:
    from prefect.client.schemas.responses import DeploymentResponse
    from prefect.plugins import HookContext


@register_hook
def setup_environment(*, ctx: HookContext) -> None:
    """Read a deployment's name without a slash as the name of its flow too."""
    # Prefect has no public hook for this. The import waits until Prefect itself can be imported.
    from prefect.client.orchestration._deployments.client import DeploymentAsyncClient

    stock = DeploymentAsyncClient.read_deployment_by_name

    async def read_deployment_by_name(self: DeploymentAsyncClient, name: str) -> DeploymentResponse:
        return await stock(self, name if "/" in name else f"{name}/{name}")

    DeploymentAsyncClient.read_deployment_by_name = read_deployment_by_name  # type: ignore[method-assign]
    ctx.logger_factory("prefect.plugins").debug("a deployment's name without a slash names its flow too")
