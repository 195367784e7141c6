"""
What the Docker Engine runs: containers, images, volumes and networks with full inspect, one JSON line each.

A reference that people read; environment secrets are in it, and therefore nowhere but in the sealed stream.
Source: strategy, VPS-1 script, "Docker state".
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import ClassVar, Literal

from gxbackup.adapters.containers import EngineObject
from gxbackup.adapters.host import Host
from gxbackup.errors import EmptyArtifactError
from gxbackup.lines import LineStream
from gxbackup.model import Capture, Evidence
from gxbackup.ports import PlainStream, StreamEnd
from gxbackup.sources.base import Source

OBJECT_BYTES = 64 * 1024
NAMES_KEPT = 20


class DockerState(Source):
    """The state of the host's Docker Engine."""

    default_folder: ClassVar[str] = "state"

    kind: Literal["docker_state"] = "docker_state"

    def collect(self, host: Host, data_type: str) -> list[Capture]:
        """
        Ask the Engine how much there is; one capture.

        Raises: SourceMissingError where no Engine answers; EmptyArtifactError where it has no container and no image.
        """
        counts = host.containers.count()
        if not counts["container"] and not counts["image"]:
            raise EmptyArtifactError(
                f"{data_type}: expected containers or images, seen an Engine without any",
                "is this the right Engine? DOCKER_HOST names its socket",
            )
        return [
            Capture(
                data_type=data_type,
                name=f"{data_type}.jsonl",
                evidence={"engine_version": host.containers.version()},
                expected_size_bytes=OBJECT_BYTES * sum(counts.values()),
            )
        ]

    @contextmanager
    def open(self, host: Host, capture: Capture) -> Iterator[PlainStream]:
        """Ask for one object after the other as it is read."""
        with closing(host.containers.inspect_all()) as objects:
            yield _LineStream(objects, capture)


class _LineStream(LineStream):
    """JSON lines, made as they are read."""

    def __init__(self, objects: Iterator[EngineObject], capture: Capture) -> None:
        super().__init__(self._each(objects))
        self._capture = capture
        self._counts: Counter[str] = Counter()
        self._removed: list[str] = []

    def finish(self) -> StreamEnd:
        counts = self._counts
        if not counts["container"] and not counts["image"]:
            raise EmptyArtifactError(f"{self._capture.data_type}: expected containers or images, seen none")
        evidence: Evidence = {f"{kind}s": counts[kind] for kind in ("container", "image", "volume", "network")}
        if counts["removed"]:
            evidence["removed_meanwhile"] = counts["removed"]
            evidence["removed_meanwhile_names"] = [*self._removed]
        return StreamEnd(evidence)

    def _each(self, objects: Iterator[EngineObject]) -> Iterator[bytes]:
        for found in objects:
            if found.inspect is None:
                self._counts["removed"] += 1
                if len(self._removed) < NAMES_KEPT:
                    self._removed.append(f"{found.type} {found.name}")
                continue
            self._counts[found.type] += 1
            yield (json.dumps(found._asdict(), sort_keys=True) + "\n").encode()
