"""The Docker Engine, through its SDK. The only importer of `docker`, and only once an Engine is really asked."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gxbackup.adapters.container_place import ContainerPlace
from gxbackup.errors import CollectError, RestoreError, SetupError, SourceMissingError

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

CALL_TIMEOUT_SECONDS = 60
POLL_SECONDS = 0.2
# A process that cannot start usually ends within a moment: `running` counts once it has lasted so long.
SETTLED_SECONDS = 2.0
DEFAULT_SOCKET = "unix:///var/run/docker.sock"
PROGRAM = "dockerd"
DATA_ROOT = Path("/var/lib/docker")
# Says whose folder a throwaway container lives as long as.
THROWAWAY = "gx-backup.throwaway"
TYPES = ("container", "image", "volume", "network")


class EngineObject(NamedTuple):
    """One object of the Engine; `inspect` is None where it was removed before it could be asked. Holds secrets."""

    type: str
    id: str
    name: str
    inspect: dict[str, Any] | None


class Containers:
    """The Engine that DOCKER_HOST names (its default socket otherwise)."""

    def count(self) -> dict[str, int]:
        """
        Return how many objects of each type there are; stopped containers count, and images without a name too.

        Raises: SourceMissingError where no Engine answers.
        """
        with self._engine() as engine:
            return {kind: len(_listed(engine, kind)) for kind in TYPES}

    def version(self) -> str:
        """Return the Engine's version; SourceMissingError where no Engine answers."""
        with self._engine() as engine:
            return str(engine.version()["Version"])

    def inspect_all(self) -> Generator[EngineObject, None, None]:
        """
        Yield every container (also stopped), image, volume and network with all that the Engine knows of it.

        Raises: SourceMissingError where no Engine answers; CollectError where it stops answering half-way.
        """
        with self._engine() as engine:
            for kind in TYPES:
                for identity, name in _listed(engine, kind):
                    yield EngineObject(kind, identity, name, _inspected(engine, kind, identity))

    def place(self, name: str) -> ContainerPlace:
        """
        Return a running container as a place.

        Raises: SourceMissingError where there is none; a retryable one where it is there and does not run, or there is
        an Engine that does not answer: what it holds is then unknown, not absent.
        """
        with self._engine() as engine:
            from docker.errors import NotFound

            try:
                state = engine.api.inspect_container(name)["State"]
            except NotFound:
                raise SourceMissingError(
                    f"container {name}: expected, seen none of that name", "`docker ps --all` lists those there are"
                ) from None
        if not state["Running"] or state.get("Paused"):
            raise SourceMissingError(
                f"container {name}: expected running, seen {state['Status']}",
                f"docker logs --tail 50 {name}",
                "one that is no longer used: remove it, and source.docker_container from the inventory",
                retryable=True,
            )
        return ContainerPlace(self._engine, name)

    @contextmanager
    def throwaway(self, image: str, environment: dict[str, str], port: int, folder: Path) -> Iterator[int]:
        """
        Run an image that is there already, and give the port of loopback that leads to its own; removed with the block.

        It lives as long as `folder`: one whose folder is gone was left by a run that was killed, and is removed first.
        Raises: SetupError where the image is not there; RestoreError where it does not start.
        """
        with self._engine() as engine:
            from docker.errors import APIError, ImageNotFound

            for left in engine.api.containers(all=True, filters={"label": THROWAWAY}):
                if not Path(left["Labels"][THROWAWAY]).exists():
                    engine.api.remove_container(left["Id"], v=True, force=True)
            try:
                container = engine.containers.create(
                    image, environment=environment, labels={THROWAWAY: str(folder)},
                    ports={f"{port}/tcp": ("127.0.0.1", 0)},
                )  # fmt: skip
            except ImageNotFound:
                raise SetupError(f"image {image}: expected on this host, seen none", f"docker pull {image}") from None
            try:
                try:
                    container.start()
                    container.reload()
                except APIError as error:
                    raise RestoreError(f"image {image}: cannot be started: {error.explanation}") from None
                addresses = container.ports.get(f"{port}/tcp")
                if not addresses:
                    raise RestoreError(f"image {image}: expected to run and to serve port {port}, seen it ended")
                yield int(addresses[0]["HostPort"])
            finally:
                container.remove(v=True, force=True)

    def why_absent(self, name: str) -> str:
        """Say why a container is not there to be restarted: none of that name, or no Engine; empty where it is."""
        try:
            with self._engine() as engine:
                from docker.errors import NotFound

                try:
                    engine.api.inspect_container(name)
                except NotFound:
                    return f"container {name}: expected, seen none of that name"
        except CollectError as error:
            return f"container {name}: expected; {error.message}"
        return ""

    def restart(self, name: str, timeout_seconds: float) -> None:
        """
        Restart a container and wait until it runs again, and is healthy where it has a health check.

        Raises: RestoreError where there is no such container, or it is not well again in time.
        """
        with self._engine() as engine:
            from docker.errors import APIError, NotFound

            deadline = time.monotonic() + timeout_seconds
            try:
                container = engine.containers.get(name)
                before = container.attrs["State"]["StartedAt"]
                container.restart(timeout=max(1, int(min(10, timeout_seconds))))
            except NotFound:
                raise RestoreError(
                    f"container {name}: expected, seen none of that name",
                    "`docker ps --all` lists those there are",
                ) from None
            except APIError as error:
                raise RestoreError(f"container {name}: cannot be restarted: {error.explanation}") from None
            self._await(container, before, deadline, timeout_seconds)

    def _await(self, container: Container, before: str, deadline: float, timeout_seconds: float) -> None:
        """Return once the container was started after `before`, and has been well for a while since."""
        started, running_since = before, 0.0
        while True:
            container.reload()
            state = container.attrs["State"]
            if state["StartedAt"] != started or not state["Running"]:
                started, running_since = state["StartedAt"], time.monotonic()
            if started != before and _is_well(state, time.monotonic() - running_since):
                return
            if time.monotonic() > deadline:
                raise RestoreError(
                    f"container {container.name}: expected it running and healthy within {timeout_seconds:g} s, "
                    f"seen {_condition(state)}",
                    f"read why: docker logs --tail 50 {container.name}",
                )
            time.sleep(POLL_SECONDS)

    @contextmanager
    def _engine(self) -> Iterator[DockerClient]:
        import docker
        from docker.errors import APIError, DockerException
        from docker.utils import parse_host
        from requests.exceptions import RequestException

        hint = "is it running (`systemctl status docker`)? DOCKER_HOST names its socket"
        try:
            url = str(parse_host(os.environ.get("DOCKER_HOST") or DEFAULT_SOCKET))
            _knock(url)
            engine = docker.from_env(timeout=CALL_TIMEOUT_SECONDS, environment={"DOCKER_HOST": url, **os.environ})
        except FileNotFoundError as error:
            raise SourceMissingError(
                f"docker engine: cannot be reached: {error}", hint, retryable=_is_expected()
            ) from None
        except (DockerException, OSError) as error:
            raise SourceMissingError(f"docker engine: cannot be reached: {error}", hint, retryable=True) from None
        try:
            try:
                engine.ping()
            except (DockerException, RequestException) as error:
                raise SourceMissingError(
                    f"docker engine: cannot be reached at {url}: {error}", hint, retryable=True
                ) from None
            try:
                yield engine
            except APIError as error:
                raise CollectError(f"docker engine: {error.explanation or error}", retryable=True) from None
            except RequestException as error:
                raise CollectError(f"docker engine: stopped answering: {error}", hint, retryable=True) from None
        finally:
            engine.close()


def _is_expected() -> bool:
    """Tell whether this host should have an Engine: it is named, or there are its program or its data."""
    return bool(os.environ.get("DOCKER_HOST")) or shutil.which(PROGRAM) is not None or DATA_ROOT.exists()


def _knock(url: str) -> None:
    """Raise OSError where nobody listens on the Engine's Unix socket: the SDK says it less clearly, and leaks one."""
    scheme, _, path = url.partition("://")
    if scheme.endswith("unix"):
        with socket.socket(socket.AF_UNIX) as knocking:
            try:
                knocking.connect(path)
            except OSError as error:
                raise OSError(error.errno, error.strerror, path) from None


def _listed(engine: DockerClient, kind: str) -> list[tuple[str, str]]:
    """Return id and name of every object of a type, in a lasting order."""
    api = engine.api
    if kind == "container":
        found = [(each["Id"], (each.get("Names") or [""])[0].lstrip("/")) for each in api.containers(all=True)]
    elif kind == "image":
        found = [(each["Id"], (each.get("RepoTags") or ["<none>:<none>"])[0]) for each in api.images()]
    elif kind == "volume":
        found = [(each["Name"], each["Name"]) for each in api.volumes().get("Volumes") or []]
    else:
        found = [(each["Id"], each["Name"]) for each in api.networks()]
    return sorted(found, key=lambda each: (each[1], each[0]))


def _inspected(engine: DockerClient, kind: str, identity: str) -> dict[str, Any] | None:
    from docker.errors import NotFound

    try:
        return dict(getattr(engine.api, f"inspect_{kind}")(identity))
    except NotFound:
        return None


def _is_well(state: dict[str, Any], running_seconds: float) -> bool:
    if not state["Running"] or state.get("Restarting"):
        return False
    if "Health" in state:
        return bool(state["Health"]["Status"] == "healthy")
    return running_seconds >= SETTLED_SECONDS


def _condition(state: dict[str, Any]) -> str:
    health = f", {state['Health']['Status']}" if "Health" in state else ""
    ended = f" with exit status {state['ExitCode']}" if state["Status"] == "exited" else ""
    return f"{state['Status']}{ended}{health}"
