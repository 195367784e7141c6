"""The Docker Engine, through its SDK. The only importer of `docker`."""

from __future__ import annotations


class Containers:
    """The Engine that DOCKER_HOST names (its default socket otherwise)."""
