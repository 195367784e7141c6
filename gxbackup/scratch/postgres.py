"""
A throwaway PostgreSQL: in a private folder, on a socket in it, on no port; gone with the block, however it is left.

It dies with the thread that started it; the folder of one that was killed is swept by the next.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gxbackup.adapters import process
from gxbackup.adapters.places import LocalPlace
from gxbackup.errors import RestoreError, SetupError
from gxbackup.postgres.server import Server

PROGRAMS = Path("/usr/lib/postgresql")
FOLDER = Path("/var/tmp")  # noqa: S108 - names in it are made by mkdtemp; /tmp may lie in memory
PREFIX = "gx-scratch-postgres-"
OWNER = "postgres"
START_TIMEOUT_SECONDS = 120
POLL_SECONDS = 0.05
SPARE_BYTES = 512 * 1024**2
# Indexes and free space: what a dump does not hold.
GROWTH = 2
_IN_USE = ".in-use"


def programs() -> Path:
    """Return the folder of the newest PostgreSQL server programs here; SetupError where there are none."""
    found = [folder / "bin" for folder in PROGRAMS.glob("*") if (folder / "bin" / "postgres").exists()]
    if not found:
        raise SetupError(
            "PostgreSQL server: expected its programs below /usr/lib/postgresql, seen none",
            "a rehearsal starts a throwaway server here: install the Debian package postgresql-15",
        )
    return max(found, key=lambda folder: [int(number) for number in re.findall(r"\d+", folder.parent.name)])


@contextmanager
def running_postgres(user: str, needed_bytes: int) -> Iterator[tuple[Server, Path]]:
    """
    Start an empty server with this superuser; give it, and the folder in which its tablespaces may lie.

    Raises: SetupError where its programs are missing; RestoreError where there is no room, or it does not start.
    """
    binaries = programs()
    free_bytes = shutil.disk_usage(FOLDER).free
    if free_bytes < needed_bytes * GROWTH + SPARE_BYTES:
        raise RestoreError(
            f"{FOLDER}: a scratch server needs {needed_bytes * GROWTH + SPARE_BYTES} bytes, seen {free_bytes} free"
        )
    _sweep()
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=FOLDER, ignore_cleanup_errors=True) as made:
        folder = Path(made)
        with (folder / f"{_IN_USE}.new").open("w") as mark:
            fcntl.flock(mark, fcntl.LOCK_EX)
            Path(mark.name).rename(folder / _IN_USE)  # never there without its lock: another run sweeps
            data, tablespaces = folder / "data", folder / "tablespaces"
            tablespaces.mkdir(mode=0o700)
            as_owner = _owner_words(folder, tablespaces)
            log = folder / "log"
            process.run(
                [*as_owner, binaries / "initdb", "--pgdata", data, "--username", user, "--auth=trust",
                 "--encoding=UTF8", "--locale=C", "--no-sync"],
                timeout_seconds=START_TIMEOUT_SECONDS, cwd=folder,
            )  # fmt: skip
            with (
                log.open("wb") as output,
                process.start(
                    [*as_owner, "--pdeathsig", "KILL", binaries / "postgres", "-D", data, *_settings(folder)],
                    stdout=output, stderr=subprocess.STDOUT, cwd=folder,
                ) as child,
            ):  # fmt: skip
                path = f"{binaries}:{os.environ.get('PATH', os.defpath)}"
                place = LocalPlace("scratch PostgreSQL", {"PGHOST": str(folder), "PGPORT": "5432", "PATH": path})
                server = Server(place, user, "GX_SCRATCH_PASSWORD", reads_our_files=True)
                try:
                    _await_ready(child, server, log)
                    _require_scratch(server, data)
                    yield server, tablespaces
                finally:
                    child.send_signal(signal.SIGQUIT)  # at once: nothing in it is worth a checkpoint
                    child.wait(START_TIMEOUT_SECONDS)


def _owner_words(*folders: Path) -> list[str | Path]:
    """Return the words that make root somebody else, who then owns the folders: PostgreSQL refuses to run as root."""
    setpriv = process.find_program("setpriv", "install the Debian package util-linux")
    if os.geteuid() != 0:
        return [setpriv]
    try:
        owner = pwd.getpwnam(OWNER)
    except KeyError:
        owner = pwd.getpwnam("nobody")
    for folder in folders:
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    return [setpriv, f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]


def _settings(folder: Path) -> list[str]:
    """Return a server's options: nobody else reaches it, and it need survive nothing."""
    options = {
        "listen_addresses": "", "unix_socket_directories": str(folder), "port": "5432", "fsync": "off",
        "full_page_writes": "off", "synchronous_commit": "off", "autovacuum": "off", "wal_level": "minimal",
        "max_wal_senders": "0", "max_wal_size": "4GB", "maintenance_work_mem": "256MB",
        "max_locks_per_transaction": "1024", "max_prepared_transactions": "0", "archive_mode": "off",
    }  # fmt: skip
    return [word for name, value in options.items() for word in ("-c", f"{name}={value}")]


def _await_ready(child: process.Child, server: Server, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while server.place.run(["pg_isready", "-q"], timeout_seconds=30, check=False).returncode != 0:
        if child.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(encoding="utf-8", errors="replace")[-2000:].strip()
            raise RestoreError(f"scratch PostgreSQL: expected it to start, seen: {said}")
        time.sleep(POLL_SECONDS)


def _require_scratch(server: Server, data: Path) -> None:
    """Prove, before the first byte, that the server is the one just made: its folder is ours and it holds nothing."""
    with server.session("postgres") as session:
        serves = session.value("SHOW data_directory;")
        names = {name for (name,) in session.ask("SELECT datname FROM pg_database;")}
    if Path(serves) != data or names != {"postgres", "template0", "template1"}:
        raise RestoreError(f"scratch PostgreSQL: expected an empty server on {data}, seen one on {serves} with {names}")


def _sweep() -> None:
    """Remove what killed rehearsals left: a folder of ours that no living process holds."""
    for folder in FOLDER.glob(f"{PREFIX}*"):
        mark = folder / _IN_USE
        if folder.is_symlink() or mark.is_symlink() or not mark.is_file() or mark.stat().st_uid != os.geteuid():
            continue
        with mark.open("r+") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            process.run(["rm", "-rf", "--", folder], timeout_seconds=600)
