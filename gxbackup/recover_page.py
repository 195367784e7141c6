"""
`RECOVER.md`: how to get this snapshot back with rclone, age, zstd, tar and the database's own client. Pure text.

A test follows the page literally; every fenced block is one that runs.
"""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath

from gxbackup import layout, recover_steps
from gxbackup.model import Artifact, Manifest

_HEAD = """\
# Get back {server} {snapshot}

Everything here needs only rclone, age, zstd, GNU tar and coreutils; nothing of GX backup.
Captured by host {host}, {started} to {finished} UTC. {state}

Does the remote look empty? On Google Drive `scope = drive.file` shows only what the same OAuth client (or service
account) wrote: with another client id nothing is listed, though all is there. Take the old client id and secret; or a
new client with `scope = drive.readonly` and a new token; or download the folder in a browser, and give its path as
`REMOTE`.

Is the filled-in inventory of GX backup lost? A copy lies in each host's `system-config` (Sunday's snapshots), as
`etc/gx-backup/inventory.yaml`, where the host was set up as the project's documents say.

Start `bash` first, alone on its line: section 1 says `set -eu`, so it closes at the first fault, and your own shell
stays open behind it. After a fault start it again, and paste all blocks from the first on.

Set these three then: the folder that holds all servers' folders (any rclone remote), the age identity (a file of mode
0600 with the line `AGE-SECRET-KEY-1…`), an empty work folder.

```sh
REMOTE="${{REMOTE:-{remote}}}"
IDENTITY="${{IDENTITY:-/root/gx-recovery.txt}}"
WORK="${{WORK:-/root/gx-recovered}}"
```

## 1 Fetch and check

```sh
set -eu
umask 077
mkdir -p "$WORK"
cd "$WORK"
rclone copy "$REMOTE/{folder}" sealed
{fetch_others}cd sealed
sha256sum --check <<'SUMS'
{sums}
SUMS
```

Stop if a line does not say OK: that file is damaged; take an older snapshot for it.

## 2 Open and unpack
"""

_OPEN = """
### {data_type}: {path}

{about}

```sh
cd "$WORK"
mkdir -p plain/{folder}
cat {parts} | age --decrypt --identity "$IDENTITY" | zstd --decompress --quiet > {plain}
echo {plain_sum} | sha256sum --check
{apply}
```
"""


_PUT_BACK = """
## 3 Put back

Each on the server that it belongs to, with that server's own client; read what stands above about it first.
"""

_THERE = """
### {data_type}: {path}

```sh
cd "$WORK"
{commands}
```
"""


def recover_page(manifest: Manifest, remote: str, remote_dir: str) -> str:
    """
    Spell the exact commands for one snapshot, in order, with its file names and checksums.

    Source: design, "The promise" 3: recoverable with nothing of ours.
    """
    folder = layout.in_snapshot(remote_dir, manifest.snapshot)
    sums = "\n".join(
        f"{part.sha256}  {_stored(artifact, part.path)}" for artifact in manifest.artifacts for part in artifact.parts
    )
    elsewhere = sorted(
        {other for artifact in manifest.artifacts for other in (artifact.held_in, artifact.base) if other is not None}
    )
    others = "".join(
        f'rclone copy "$REMOTE/{layout.in_snapshot(remote_dir, other)}" {shlex.quote(f"sealed/.held/{other}")}\n'
        for other in elsewhere
    )
    missing = "\n".join(f"- **{gap.data_type}** is missing or not whole: {gap.reason}" for gap in manifest.missing)
    head = _HEAD.format(
        server=manifest.server,
        snapshot=manifest.snapshot,
        host=manifest.host,
        started=f"{manifest.started_at:%Y-%m-%d %H:%M:%S}",
        finished=f"{manifest.finished_at:%Y-%m-%d %H:%M:%S}",
        state="It is complete." if manifest.complete else f"It is NOT complete:\n\n{missing}",
        remote=remote,
        folder=folder,
        fetch_others=others,
        sums=sums,
    )
    return head + "".join(_opened(artifact) for artifact in manifest.artifacts) + _put_back(manifest)


def _stored(artifact: Artifact, path: str) -> str:
    return f".held/{artifact.held_in}/{path}" if artifact.held_in else path


def _opened(artifact: Artifact) -> str:
    plain = _plain(artifact)
    told = recover_steps.steps(artifact, plain)
    return _OPEN.format(
        data_type=artifact.data_type,
        path=artifact.path,
        about=told.about,
        folder=shlex.quote(str(PurePosixPath(plain).parent.relative_to("plain"))),
        parts=" ".join(shlex.quote(f"sealed/{_stored(artifact, part.path)}") for part in artifact.parts),
        plain=shlex.quote(plain),
        plain_sum=shlex.quote(f"{artifact.plain_sha256}  {plain}"),
        apply=told.here,
    )


def _put_back(manifest: Manifest) -> str:
    sections = [
        _THERE.format(data_type=artifact.data_type, path=artifact.path, commands=there)
        for artifact in manifest.artifacts
        if (there := recover_steps.steps(artifact, _plain(artifact)).there)
    ]
    return _PUT_BACK + "".join(sections) if sections else ""


def _plain(artifact: Artifact) -> str:
    return f"plain/{artifact.path.removesuffix(layout.SEALED_SUFFIX)}"
