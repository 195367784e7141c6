"""
The API server that KUBECONFIG names: a client of it, and what its errors mean to us.

Imports `kubernetes` only once a cluster is really asked: it costs a second.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gxbackup.errors import CollectError, SetupError, SourceMissingError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

CALL_TIMEOUT_SECONDS = 60
# The package itself is there at once: what is behind its names is loaded where they are first used.
_SLOW_PART = "kubernetes.client.api.core_v1_api"
_loading: list[threading.Thread] = []


def load_ahead() -> threading.Thread:
    """Begin to import the client beside what goes on, and return the thread that does; `connect` waits for it."""
    thread = threading.Thread(target=importlib.import_module, args=(_SLOW_PART,), name="import", daemon=True)
    thread.start()
    _loading.append(thread)
    return thread


@contextmanager
def connect(kubeconfig: str | None = None) -> Iterator[ApiClient]:
    """
    Give a client, closed with the block; `kubeconfig` names another file than KUBECONFIG does.

    Raises: SetupError where there is no usable kubeconfig.
    """
    # Its modules import each other in a circle: two threads that meet in it both fail.
    for thread in tuple(_loading):
        thread.join()
    from kubernetes.client import ApiClient, Configuration
    from kubernetes.config import ConfigException, load_config

    configuration = Configuration()
    try:
        # The client itself reads KUBECONFIG once, when it is imported.
        file = kubeconfig or os.environ.get("KUBECONFIG")
        named = {"config_file": file} if file else {}
        load_config(client_configuration=configuration, **named)  # type: ignore[no-untyped-call]
    except (ConfigException, OSError) as error:
        raise SetupError(
            f"kubeconfig{f' {kubeconfig}' if kubeconfig else ''}: cannot be used: {error}",
            "KUBECONFIG names it; on a K3s server it is /etc/rancher/k3s/k3s.yaml",
        ) from None
    client = ApiClient(configuration)
    try:
        yield client
    finally:
        client.close()  # type: ignore[no-untyped-call]
        client.rest_client.pool_manager.clear()


@contextmanager
def asking(what: str) -> Iterator[None]:
    """
    Translate what the client raises while it asks for something.

    Raises: SourceMissingError (404), CollectError that names what is forbidden or how the API failed.
    """
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        reason = f"{error.status} {error.reason}"
        if error.status == 404:
            raise SourceMissingError(f"{what}: expected, seen {reason}") from None
        if error.status in (401, 403):
            raise CollectError(
                f"{what}: expected to be allowed, seen {reason}",
                "docs/how-to/give-the-worker-access-to-kubernetes.md lists the rights it needs",
            ) from None
        raise CollectError(f"{what}: the API server answers {reason}", retryable=True) from None
    except (HTTPError, OSError) as error:
        raise CollectError(
            f"{what}: the API server cannot be reached: {error}",
            "does KUBECONFIG name the right one, and is it up? `kubectl get --raw /readyz`",
            retryable=True,
        ) from None


def core(api: ApiClient) -> Any:
    """Return the core API, unchecked: its objects' fields are all optional to a type checker."""
    from kubernetes.client import CoreV1Api

    return CoreV1Api(api)


def apps(api: ApiClient) -> Any:
    """Return the API of StatefulSets, unchecked likewise."""
    from kubernetes.client import AppsV1Api

    return AppsV1Api(api)
