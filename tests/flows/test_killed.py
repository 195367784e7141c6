"""A backup that is killed (-9) within each of its tasks loses nothing that was held, and the next run is whole."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from estate import await_condition
from prefect.settings import get_current_settings

from flows.backup_vps1 import backup_vps1
from gxbackup import clock
from gxbackup.model import Manifest
from tests.flows.conftest import Place
from tests.integration.victims import Victim
from tests.small_disks import small_disk

# A backup that ends at a step of the operating system within one task: the n-th whose arguments look so, or, where
# rclone does the work, once half a file lies on the remote.
KILLED = """
import json, os, re, signal, sys, threading, time
from pathlib import Path
from flows import recipes
from flows.backup_vps1 import backup_vps1

task, event, pattern, number, variables = json.loads(sys.argv[1])
os.environ.update(variables)
within, seen = False, 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def look(name, arguments):
    global seen
    if within and name == event and re.search(pattern, "\\n".join(map(str, arguments)), re.MULTILINE):
        seen += 1
        if seen == number:
            die()

def wait_for_half_a_file():
    while not any(Path(pattern).rglob("*.partial")):
        time.sleep(0.01)
    die()

def watched(done):
    def run(*words, **named):
        global within
        within = True
        if event == "half a file":
            threading.Thread(target=wait_for_half_a_file, daemon=True).start()
        try:
            return done(*words, **named)
        finally:
            within = False
    return run

setattr(recipes, task, watched(getattr(recipes, task)))
sys.addaudithook(look)
backup_vps1()
"""


class Moment(NamedTuple):
    """A step within a task, and whether the snapshot is there by then."""

    task: str
    event: str
    pattern: str
    number: int
    is_there: bool = False


MOMENTS = (
    Moment("prune", "subprocess.Popen", "deletefile", 2, is_there=True),  # one file of what expired is gone
    Moment("collect", "os.scandir", "gxcoin.money", 3),
    Moment("compress", "open", r"\.age\.001$", 1),  # one part is sealed, tar and age are at work
    Moment("checksum", "open", r"\.age\.001$", 1),
    Moment("upload", "os.link", r"\.age\.001$", 1),  # one part is on the remote
    Moment("verify", "open", r"\.age\.001$", 1),
    Moment("commit", "os.link", r"manifest\.json$", 1),  # its signature is there
    Moment("commit", "open", r"vps1-website/.*manifest\.json$", 1, is_there=True),  # not yet read back
)


@pytest.fixture(scope="module")
def victim(prefect_server: None) -> Iterator[Victim]:
    url = get_current_settings().api.url
    assert url is not None
    with Victim(KILLED, imports=("flows.recipes", "flows.backup_vps1"), PREFECT_API_URL=url) as made:
        yield made


def in_parts(document: dict[str, Any]) -> None:
    """Let an artifact be several files, so that a task can end between two of them; and let two copies expire."""
    document["remote"]["part_size_bytes"] = 1024**2
    server = document["servers"]["vps1"]
    server["prune_limit"] = 1
    server["data_types"]["website"] |= {"keep_days": 30, "keep_at_least": 1}


def back_up(days_ago: float) -> str:
    then = clock.now() - timedelta(days=days_ago)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "now", lambda: then)
        patch.setattr("tasks.survey.prefect_server_time", lambda: then)
        return backup_vps1()


def kill(victim: Victim, place: Place, *moment: object, **variables: str) -> int:
    ours = {name: value for name, value in place.environment("vps1").items() if name.startswith(("GX_", "RCLONE_"))}
    return victim.run(json.dumps([*moment, {**ours, **variables}]))


def committed(place: Place) -> list[str]:
    return [folder.name for folder in place.snapshots() if (folder / "manifest.json").exists()]


def is_whole(folder: Path) -> bool:
    """Tell whether a snapshot is complete and holds every byte of what its manifest names."""
    manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
    parts = [part for artifact in manifest.artifacts for part in artifact.parts]
    return manifest.complete and all(
        hashlib.sha256((folder / part.path).read_bytes()).hexdigest() == part.sha256 for part in parts
    )


def left_running(place: Place) -> list[str]:
    """Return the command lines of programs that still work on this estate."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if str(place.root) in words:
                found.append(words)
    return found


def test_killed_within_any_task_nothing_is_lost_and_the_next_run_is_whole(place: Place, victim: Victim) -> None:
    place.create(in_parts)
    old = back_up(33)
    back_up(5)
    for moment in MOMENTS:
        held, before = place.files(), committed(place)

        assert kill(victim, place, *moment[:-1]) == -signal.SIGKILL, moment

        await_condition(f"all of {moment} to be gone", lambda: left_running(place) == [], 60)
        after = place.files()
        lost = [name for name in held if after.get(name) != held[name]]
        assert len(lost) == (1 if moment.task == "prune" else 0), moment
        assert [name for name in lost if f"/{old}/files/website/" not in name] == []
        came = committed(place)[len(before) :]
        assert [is_whole(place.remote / "vps1-website" / one) for one in came] == [True] * moment.is_there, moment
        assert committed(place)[: len(before)] == before, moment
        assert len(place.staged()) <= 1, moment
        newest = backup_vps1()
        assert is_whole(place.remote / "vps1-website" / newest), moment
        assert place.staged() == [], moment
        assert not (place.remote / "vps1-website" / old / "files" / "website").exists(), moment
        assert all(place.files()[name] == held[name] for name in held if f"/{old}/" not in name), moment


def test_killed_while_rclone_sends_half_a_file_nothing_is_lost_and_the_next_run_is_whole(
    place: Place, victim: Victim, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "far", 64 * 1024**2) as place.remote:
        place.create(in_parts)
        last = backup_vps1()
        held = place.files()

        killed = kill(victim, place, "upload", "half a file", str(place.remote), 0, RCLONE_BWLIMIT="128k")

        assert killed == -signal.SIGKILL
        await_condition("its programs to be gone", lambda: left_running(place) == [], 60)
        assert held.items() <= place.files().items()
        assert committed(place) == [last]
        newest = backup_vps1()
        assert place.staged() == []
        assert all(is_whole(place.remote / "vps1-website" / one) for one in (last, newest))
