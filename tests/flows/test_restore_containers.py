"""A website back in the container that serves it, and back without any of this project's programs."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from docker.models.containers import Container
from estate import BIN, await_condition, free_port
from site_tree import describe

from flows.backup_vps1 import backup_vps1
from flows.restore_website import restore_website
from gxbackup.errors import BackupError, RestoreRefusedError
from tests.conformance.conftest import obscured
from tests.flows.conftest import Place, beside, restore
from tests.integration.docker_engine import Engine, running_engine


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A real Docker Engine, and the one that this process asks."""
    with running_engine(tmp_path_factory.mktemp("d")) as started:
        monkeypatch.setenv("DOCKER_HOST", started.url)
        yield started


def served(container: Container, path: str) -> bytes:
    """Read a file where the container sees it; empty where it sees none."""
    status, content = container.exec_run(["cat", path], stderr=False)
    return bytes(content) if status == 0 else b""


def test_a_container_that_does_not_come_back_is_said_and_the_tree_stays(place: Place, engine: Engine) -> None:
    before = describe(place.site)
    backup_vps1()
    settings = place.root / "settings"
    settings.touch()
    engine.run("gxcoin-app-green", volumes=[f"{settings}:/settings"])
    settings.unlink()  # so that it does not start again
    shutil.rmtree(place.site)

    with pytest.raises(BackupError, match="restored and proven, but its container did not come back"):
        restore_website(mode="in-place", approve=True)

    assert describe(place.site) == before


@pytest.mark.parametrize("has_engine", [True, False])
def test_a_container_that_is_not_there_is_said_by_the_plan_and_before_anything_is_replaced(
    place: Place, has_engine: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    if has_engine:
        request.getfixturevalue("engine")
    else:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{place.root}/no-engine.sock")
    backup_vps1()
    (place.site / "index.html").write_text("hacked")
    harmed = describe(place.site)

    restore_website()
    assert "- in-place will be refused: container gxcoin-app-green: expected" in caplog.text
    assert "give `restart_container` empty where there is none" in caplog.text
    with pytest.raises(RestoreRefusedError, match=r"container gxcoin-app-green: expected.*; nothing was replaced"):
        restore_website(mode="in-place", approve=True)
    assert describe(place.site) == harmed
    assert beside(place) == []

    elsewhere = place.root / "elsewhere"
    restore_website(mode="in-place", approve=True, target=str(elsewhere))
    restore_website(mode="in-place", approve=True, restart_container="")
    assert describe(place.site) == describe(elsewhere) != harmed


def test_the_container_is_restarted_and_serves_the_restored_site(place: Place, engine: Engine) -> None:
    before, page = describe(place.site), (place.site / "index.html").read_bytes()
    backup_vps1()
    # The site itself: a container that is not restarted keeps the folder that it was started with.
    engine.run("gxcoin-app-green", volumes=[f"{place.site}:/site:ro"])
    with engine.container("gxcoin-app-green") as container:
        started = container.attrs["State"]["StartedAt"]
        assert served(container, "/site/index.html") == page
        shutil.rmtree(place.site)
        assert served(container, "/site/index.html") == b""

        restore(mode="in-place", approve=True)
        assert served(container, "/site/index.html") == b""
        shutil.rmtree(place.site)
        restore_website(mode="in-place", approve=True)

        container.reload()
        assert container.attrs["State"]["Running"]
        assert container.attrs["State"]["StartedAt"] > started
        assert served(container, "/site/index.html") == page
        assert served(container, "/site/private/.env") == (place.site / "private" / ".env").read_bytes()
    assert describe(place.site) == before


@pytest.fixture(params=["a folder", "a remote that rclone.conf names"])
def kept_at(request: pytest.FixtureRequest, place: Place, tmp_path: Path) -> dict[str, str]:
    """Keep snapshots elsewhere; give what a recovery there must know beside the page."""
    if request.param == "a folder":
        place.create(lambda document: document["remote"].update(part_size_bytes=1024**2))
        return {"REMOTE": str(place.remote), "RCLONE_CONFIG": str(tmp_path / "none")}
    port, login = free_port(), ("--user", "gx", "--pass", "letmein")
    words = ("serve", "webdav", str(place.remote), "--addr", f"127.0.0.1:{port}")
    server = place.start("webdav", str(BIN / "rclone"), *words, *login)
    await_condition("WebDAV", lambda: is_open(port), 60, died=lambda: server.poll() is not None)
    config = place.root / "rclone.conf"
    config.write_text(
        f"[backup]\ntype = webdav\nurl = http://127.0.0.1:{port}\nvendor = other\nuser = gx\n"
        f"pass = {obscured('letmein')}\n"
    )
    config.chmod(0o600)
    place.create(lambda document: document["remote"].update(part_size_bytes=1024**2, path="backup:gx-backups"))
    return {"RCLONE_CONFIG": str(config)}


def is_open(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def test_recover_page_is_followed_literally_with_nothing_of_ours(
    place: Place, kept_at: dict[str, str], tmp_path: Path
) -> None:
    backup_vps1()
    (page,) = place.remote.rglob("RECOVER.md")
    blocks = [block.split("\n", 1)[1] for block in page.read_text().split("```")[1::2]]

    environment = {
        "PATH": place.environment()["PATH"], "HOME": str(tmp_path), "IDENTITY": str(place.identity),
        "WORK": str(tmp_path / "work"), **kept_at,
    }  # fmt: skip

    subprocess.run(["bash", "-c", "\n".join(blocks)], check=True, stdout=subprocess.DEVNULL, env=environment)

    assert describe(tmp_path / "work" / "tree" / "website") == describe(place.site)
    assert describe(tmp_path / "work" / "tree" / "system-config") == describe(place.etc)
    # Pasted, it closes the shell that it was pasted into at the first fault: that is not the operator's own.
    assert "Start `bash` first, alone on its line" in page.read_text().partition("```")[0]
    pasted = "\n".join(["bash", *blocks[:2], "echo the own shell is open"])
    fault = environment | {"REMOTE": "nowhere:gone", "WORK": str(tmp_path / "other")}
    shell = subprocess.run(["bash"], input=pasted, env=fault, text=True, capture_output=True, check=False)
    assert shell.stdout.endswith("the own shell is open\n")
    assert "didn't find section" in shell.stderr
