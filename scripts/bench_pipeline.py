"""One measured piece of the bench, in a process of its own; prints one line of JSON."""

from __future__ import annotations

import json
import resource
import sys
import time

from gxbackup import checking, clock, layout, sealing
from gxbackup.staging import staging_area
from tasks import host


def pipeline(server: str, name: str) -> dict[str, float]:
    """Capture, seal, confirm, upload and verify one data type without Prefect: seconds, and memory over idle."""
    inventory, remote = host.inventory(), host.remote()
    promise = inventory.data_type(server, name)
    folder, snapshot = inventory.server(server).remote_dir, layout.snapshot_id(clock.now())
    idle_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    with staging_area("bench") as area:
        for capture in promise.source.collect(host.host(), name):
            path = layout.artifact_path(promise.folder_name(), name, capture.name)
            with promise.source.open(host.host(), capture) as stream:
                sealed = sealing.seal(
                    stream, capture, path, area, inventory.recipients.required(), inventory.zstd_level,
                    inventory.remote.part_size_bytes,
                )  # fmt: skip
            artifact = checking.confirm(sealed, area, promise, snapshot)
            names = [part.path for part in artifact.parts]
            remote.upload(area, names, layout.in_snapshot(folder, snapshot), may_move=True,
                          expected={part.path: (part.size_bytes, part.sha256) for part in artifact.parts})  # fmt: skip
            checking.verify_on_remote(remote, folder, snapshot, [artifact])
    seconds = time.perf_counter() - began
    memory_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle_kib) / 1024
    for name in names:  # a folder without a manifest would hold up the next run's id
        remote.delete_file(layout.in_snapshot(folder, snapshot, name))
    remote.remove_empty_folder(layout.in_snapshot(folder, snapshot))
    return {"seconds": seconds, "memory_mib": memory_mib}


def last_run_seconds(deployment: str) -> dict[str, float]:
    """Ask the Prefect server how long the newest run of a deployment took, from asked for to ended."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort

    ended = filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=[StateType.COMPLETED]))
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(
            flow_run_filter=filters.FlowRunFilter(state=ended),
            deployment_filter=filters.DeploymentFilter(name=filters.DeploymentFilterName(any_=[deployment])),
            sort=FlowRunSort.END_TIME_DESC,
            limit=1,
        )
    assert run.expected_start_time is not None
    assert run.end_time is not None
    return {"seconds": (run.end_time - run.expected_start_time).total_seconds()}


if __name__ == "__main__":
    measured = last_run_seconds(sys.argv[2]) if sys.argv[1] == "--last-run" else pipeline(sys.argv[1], sys.argv[2])
    print(json.dumps(measured))
