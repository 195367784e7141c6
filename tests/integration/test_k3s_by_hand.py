"""RECOVER.md puts K3s's datastore and token back, typed as it stands: on a new machine, and over a live database."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gxbackup import recover_steps
from gxbackup.sources.base import Work
from tests.integration.k3s_hosts import PASSWORD, K3sHost, play, work


def follow(given: Work, server: K3sHost, folder: Path) -> None:
    """Run the page's blocks in its own order: all that are for the work folder, then all that are for the server."""
    folder.mkdir()
    told = []
    for opened in given.opened:
        plain = f"plain/{opened.artifact.path.removesuffix('.zst.age')}"
        (folder / plain).parent.mkdir(parents=True, exist_ok=True)
        (folder / plain).write_bytes(opened.file.read_bytes())
        settings = {**opened.artifact.settings, "data_dir": str(server.data_dir)}
        told.append(recover_steps.steps(opened.artifact.model_copy(update={"settings": settings}), plain))
    # The page says: the flags of the unit belong behind the command of K3s too.
    told = [one._replace(there=f"{one.there} --node-ip 10.0.0.3" if "--cluster-reset" in one.there else one.there)
            for one in told]  # fmt: skip
    blocks = [f'cd "$WORK"\n{block}' for block in [*(one.here for one in told), *(one.there for one in told)] if block]
    subprocess.run(
        ["bash", "-c", "\n".join(["set -eu", "umask 077", *blocks])], check=True,
        env={**os.environ, "WORK": str(folder), "PATH": server.path},
    )  # fmt: skip


def seed_etcd(server: K3sHost) -> None:
    server.start()
    server.seed()


@pytest.mark.parametrize("seed", [seed_etcd, K3sHost.seed_sqlite])
def test_the_datastore_comes_back_on_a_machine_where_k3s_was_never_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: Callable[[K3sHost], None]
) -> None:
    old, new = K3sHost(tmp_path / "old" / "vps3", "vps3"), K3sHost(tmp_path / "new" / "vps3", "vps3")
    try:
        seed(old)
        play(old, tmp_path, monkeypatch)
        given = work(old.source(), tmp_path / "captured")
        old.stop()
        new.server.rename(tmp_path / "was never there")

        follow(given, new, tmp_path / "a work folder")
        new.start()

        assert "default   a " in new.run("k3s", "kubectl", "get", "secrets", "--all-namespaces", "--no-headers")
        assert PASSWORD in (new.server / "token").read_text()
    finally:
        old.stop()
        new.stop()


def test_what_was_live_is_kept_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = K3sHost(tmp_path / "vps3", "vps3")
    server.seed_sqlite()
    play(server, tmp_path, monkeypatch)
    given = work(server.source(), tmp_path / "captured")
    (server.db / "state.db").write_bytes(b"what was live")
    (server.db / "state.db-wal").write_bytes(b"and its log")
    server.write_token("a token of later")

    follow(given, server, tmp_path / "work")
    follow(given, server, tmp_path / "work again")

    first = server.beside("db")[0]
    assert (first / "state.db").read_bytes() == b"what was live"
    assert (first / "state.db-wal").read_bytes() == b"and its log"
    assert "a token of later" in server.beside("token")[0].read_text()
    assert re.fullmatch(r"db\.before-\d{8}T\d{6}\.\d+", first.name)
