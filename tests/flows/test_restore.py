"""Restores as the operator starts them: all of it back, or everything as it was."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import Container
from estate import BIN, await_condition, free_port
from site_tree import describe

from flows.backup_vps1 import backup_vps1
from flows.backup_vps3 import backup_vps3
from flows.list_snapshots import list_snapshots
from flows.prune_snapshots import prune_snapshots
from flows.restore_compose_config import restore_compose_config
from flows.restore_host_config import restore_host_config
from flows.restore_website import restore_website
from gxbackup import locks
from gxbackup.errors import BackupError, IntegrityError, RestoreRefusedError, SealingError, SetupError
from gxbackup.locks import locked
from tasks import approval
from tests.conformance.conftest import obscured
from tests.flows.conftest import Place
from tests.integration.docker_engine import Engine, running_engine


def restore(**parameters: Any) -> None:
    restore_website(**{"restart_container": "", **parameters})


def beside(place: Place) -> list[str]:
    """What lies beside the website's folder."""
    return sorted(entry.name for entry in place.site.parent.iterdir() if entry != place.site)


def test_a_destroyed_website_comes_back_equal_in_every_byte_and_attribute(place: Place) -> None:
    before = describe(place.site)
    backup_vps1()
    shutil.rmtree(place.site)

    restore(mode="in-place", approve=True)

    assert describe(place.site) == before
    assert beside(place) == []
    assert place.staged() == []


def test_a_destroyed_compose_folder_comes_back_equal(place: Place) -> None:
    folder = place.root / "fabric"
    folder.mkdir()
    (folder / "docker-compose.yaml").write_text("services: {ca: {image: fabric-ca}}\n")
    (folder / ".env").write_text("CA_PASSWORD=x\n")
    (folder / ".env").chmod(0o600)

    def move(document: dict[str, Any]) -> None:
        compose = document["servers"]["vps3"]["data_types"]["compose-config"]
        compose["source"]["root"] = str(folder)
        document["servers"]["vps3"]["data_types"] = {"compose-config": compose}

    place.create(move)
    place.play("vps3")
    before = describe(folder)
    backup_vps3()
    shutil.rmtree(folder)

    restore_compose_config(mode="in-place", approve=True)

    assert describe(folder) == before


def test_what_was_there_stays_beside_the_restored_tree(place: Place) -> None:
    before = describe(place.site)
    backup_vps1()
    (place.site / "index.html").write_text("hacked")
    (place.site / "shell.php").write_text("<?php")
    harmed = describe(place.site)

    restore(mode="in-place", approve=True)

    assert describe(place.site) == before
    (kept,) = beside(place)
    assert kept.startswith(".gxcoin.money.before-")
    assert describe(place.site.parent / kept) == harmed


def test_safety_copies_are_told_until_a_person_removes_them(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    backup_vps1()
    restore(mode="in-place", approve=True)
    (kept,) = beside(place)
    elsewhere = place.root / "elsewhere ünïcödé"
    elsewhere.mkdir()
    restore(mode="in-place", target=str(elsewhere), approve=True)
    (kept_elsewhere,) = place.root.glob(f".{elsewhere.name}.before-*")
    overwritten = place.staging.parent / "safety" / "overlay-20261101T020000.000000Z"
    overwritten.mkdir()
    (overwritten / "before.tar").write_bytes(bytes(1024**2))

    prune_snapshots(server="vps1")

    assert f"- `{place.site.parent / kept}`: 0 days old, " in caplog.text
    assert f"- `{kept_elsewhere}`: 0 days old, " in caplog.text
    assert f"- `{overwritten}`: " in caplog.text
    assert "days old, 1.0 MiB" in caplog.text
    assert beside(place) == [kept]
    assert overwritten.exists()


def test_plan_is_the_default_and_touches_nothing(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    backup_vps1()
    (place.site / "private" / ".env").write_text("changed since")
    (place.site / "added-since.txt").write_text("new")
    before = describe(place.site)

    restore()

    assert describe(place.site) == before
    assert beside(place) == []
    assert "changed: private/.env" in caplog.text
    assert "removed: added-since.txt" in caplog.text


def test_an_unchanged_site_with_hard_links_shows_no_change_in_plan_and_in_place(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    backup_vps1()

    restore()
    restore(mode="in-place", approve=True)

    assert caplog.text.count("- 0 added\n- 0 changed\n- 0 removed") >= 2
    assert "changed: " not in caplog.text


def test_plan_refuses_what_in_place_would_refuse(place: Place, tmp_path: Path) -> None:
    backup_vps1()
    (place.site / "uploads").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place.site / "uploads"], check=True)
    try:
        for mode in ("plan", "in-place"):
            with pytest.raises(RestoreRefusedError, match="has mount points inside"):
                restore(mode=mode, approve=True)
    finally:
        subprocess.run(["umount", place.site / "uploads"], check=True)
    with pytest.raises(RestoreRefusedError, match="expected a folder to put it in"):
        restore(target=str(tmp_path / "no-such" / "site"))


def test_an_approved_restore_waits_for_the_end_of_a_running_backup(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup_vps1()
    (place.site / "index.html").write_text("hacked")
    backup = ExitStack()
    backup.enter_context(locked(str(place.remote), "vps1", "backup of vps1"))
    monkeypatch.setattr(locks, "SECONDS_BETWEEN_TRIES", 0.05)
    threading.Thread(target=lambda: (until(lambda: "waiting up to 30 min" in caplog.text), backup.close())).start()

    restore(mode="in-place", approve=True)

    assert "vps1: waiting up to 30 min for another run's end: backup of vps1" in caplog.text
    assert (place.site / "index.html").read_text() != "hacked"


def until(ready: Callable[[], bool]) -> None:
    await_condition("the restore to wait", ready, 120)


def test_a_restore_that_nobody_approves_in_time_says_so_and_touches_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup_vps1()
    (place.site / "index.html").write_text("hacked")
    monkeypatch.setattr(approval, "_WAIT_SECONDS", 1)
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "of-this-test")

    with pytest.raises(RestoreRefusedError, match="not approved: expected an answer within .* h, seen none"):
        restore(mode="in-place")

    assert (place.site / "index.html").read_text() == "hacked"
    assert beside(place) == []


def test_scratch_unpacks_into_a_new_folder_and_compares(place: Place, tmp_path: Path) -> None:
    backup_vps1()

    restore(mode="scratch", target=str(tmp_path / "look"))

    assert describe(tmp_path / "look") == describe(place.site)


def test_scratch_refuses_a_folder_with_something_in_it(place: Place, tmp_path: Path) -> None:
    backup_vps1()
    (tmp_path / "mine").write_text("mine")

    with pytest.raises(RestoreRefusedError, match="expected nothing or an empty folder"):
        restore(mode="scratch", target=str(tmp_path))

    assert (tmp_path / "mine").read_text() == "mine"


def test_in_place_without_approval_touches_nothing(place: Place) -> None:
    backup_vps1()
    before = describe(place.site)

    with pytest.raises(RestoreRefusedError, match="nobody approved"):
        restore(mode="in-place")

    assert describe(place.site) == before
    assert beside(place) == []


def test_a_wrong_identity_is_said_before_the_target_is_touched(place: Place) -> None:
    backup_vps1()
    stranger = place.root / "keys" / "stranger.txt"
    subprocess.run(["age-keygen", "-o", stranger], check=True, stderr=subprocess.DEVNULL)
    stranger.chmod(0o600)
    place.play("vps1", GX_IDENTITY_FILE=str(stranger))
    before = describe(place.site)

    with pytest.raises(SealingError, match="other recipients than this identity"):
        restore(mode="in-place", approve=True)

    assert describe(place.site) == before
    assert beside(place) == []


def test_the_rehearsal_identity_restores_too(place: Place, tmp_path: Path) -> None:
    backup_vps1()
    place.play("vps1", GX_IDENTITY_FILE=str(place.root / "keys" / "rehearsal.txt"))

    restore(mode="scratch", target=str(tmp_path / "look"))

    assert describe(tmp_path / "look") == describe(place.site)


def test_no_identity_is_said_clearly(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    backup_vps1()
    monkeypatch.delenv("GX_IDENTITY_FILE")

    with pytest.raises(SetupError, match="GX_IDENTITY_FILE is not set"):
        restore()


def sealed(folder: Path) -> Path:
    return folder / "files" / "website" / "website.tar.zst.age"


def cut(older: Path, newest: Path) -> None:
    os.truncate(sealed(newest), sealed(newest).stat().st_size - 1)


def turn_a_bit(older: Path, newest: Path) -> None:
    body = bytearray(sealed(newest).read_bytes())
    body[len(body) // 2] ^= 1
    sealed(newest).write_bytes(body)


def swap_days(older: Path, newest: Path) -> None:
    shutil.copy(sealed(older), sealed(newest))


def lose(older: Path, newest: Path) -> None:
    sealed(newest).unlink()


@pytest.mark.parametrize("harm", [cut, turn_a_bit, swap_days, lose])
def test_a_damaged_artifact_is_never_restored_and_the_older_one_is(place: Place, harm: Any, tmp_path: Path) -> None:
    older = backup_vps1()
    newest = backup_vps1()
    harm(*place.snapshots())
    before = describe(place.site)

    with pytest.raises((IntegrityError, RestoreRefusedError)):
        restore(mode="in-place", approve=True, snapshot=newest)

    assert describe(place.site) == before
    assert beside(place) == []
    restore(mode="scratch", snapshot=older, target=str(tmp_path / "look"))
    assert describe(tmp_path / "look") == before


def edit_manifest(folder: Path) -> None:
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"keep_days": 30', '"keep_days": 1'))


def sign_as_another_host(folder: Path) -> None:
    from gxbackup import signing

    place_root = folder.parent.parent.parent
    key = signing.load_key(place_root / "keys" / "vps3.key")
    (folder / "manifest.json.sig").write_bytes(signing.sign(key, (folder / "manifest.json").read_bytes()))


def lose_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (edit_manifest, "not signed by a trusted host"),
        (sign_as_another_host, "not signed by a trusted host"),
        (lose_manifest, "it has no manifest"),
    ],
)
def test_a_snapshot_that_is_not_to_be_trusted_is_refused_by_name_and_passed_over_by_latest(
    place: Place, harm: Any, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older = backup_vps1()
    newest = backup_vps1()
    harm(place.snapshots()[-1])

    with pytest.raises(RestoreRefusedError, match=why):
        restore(mode="scratch", snapshot=newest, target=str(tmp_path / "one"))

    restore(mode="scratch", target=str(tmp_path / "two"))
    assert f"vps1 {older}" in caplog.text
    assert describe(tmp_path / "two") == describe(place.site)


def test_an_incomplete_snapshot_is_refused_for_what_it_lacks_only(place: Place, tmp_path: Path) -> None:
    backup_vps1()
    shutil.move(place.site, tmp_path / "away")
    with pytest.raises(BackupError):
        backup_vps1()
    incomplete = place.snapshots()[-1].name

    with pytest.raises(RestoreRefusedError, match=r"website .*: refused: .*gxcoin\.money"):
        restore(mode="scratch", snapshot=incomplete, target=str(tmp_path / "one"))

    restore(mode="scratch", target=str(tmp_path / "two"))
    assert describe(tmp_path / "two") == describe(tmp_path / "away")


def test_an_unknown_snapshot_names_those_that_are_there(place: Place) -> None:
    snapshot = backup_vps1()

    with pytest.raises(RestoreRefusedError, match=r"20200101_000000: refused: there is no such snapshot") as failure:
        restore(snapshot="20200101_000000")

    assert f"good snapshots: {snapshot}" in str(failure.value)


def test_a_container_that_does_not_come_back_is_said_and_the_tree_stays(place: Place) -> None:
    before = describe(place.site)
    backup_vps1()
    shutil.rmtree(place.site)
    place.play("vps1")
    os.environ["DOCKER_HOST"] = f"unix://{place.root}/no-engine.sock"

    try:
        with pytest.raises(BackupError, match="restored and proven, but its container did not come back"):
            restore_website(mode="in-place", approve=True)
    finally:
        del os.environ["DOCKER_HOST"]

    assert describe(place.site) == before


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

    subprocess.run(
        ["bash", "-c", "\n".join(blocks)], check=True, stdout=subprocess.DEVNULL,
        env={
            "PATH": place.environment()["PATH"], "HOME": str(tmp_path), "IDENTITY": str(place.identity),
            "WORK": str(tmp_path / "work"), **kept_at,
        },
    )  # fmt: skip

    assert describe(tmp_path / "work" / "tree" / "website") == describe(place.site)
    assert describe(tmp_path / "work" / "tree" / "system-config") == describe(place.etc)


def as_overlay(place: Place, root: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        types = document["servers"]["vps1"]["data_types"]
        types["system-config"].update(
            source={"kind": "directory", "root": str(root), "paths": ["etc"], "restores": "overlay"},
            restore_flow="restore-host-config",
        )

    place.create(edit)


def test_host_config_comes_back_file_by_file_and_nothing_is_deleted(place: Place) -> None:
    as_overlay(place, place.root)
    (place.etc / "nginx").mkdir()
    (place.etc / "nginx" / "site.conf").write_text("good\n")
    backup_vps1()
    (place.etc / "nginx" / "site.conf").write_text("bad\n")
    (place.etc / "hostname").write_text("another\n")
    (place.etc / "added-since").write_text("new\n")

    restore_host_config(server="vps1", mode="in-place", approve=True)

    assert (place.etc / "nginx" / "site.conf").read_text() == "good\n"
    assert (place.etc / "hostname").read_text() == "another\n"
    assert (place.etc / "added-since").read_text() == "new\n"
    assert place.staged() == []


def test_host_config_plans_first_and_takes_only_what_is_named(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    as_overlay(place, place.root)
    for name in ("one", "two"):
        (place.etc / name).write_text("good\n")
    backup_vps1()
    for name in ("one", "two"):
        (place.etc / name).write_text("bad\n")

    restore_host_config(server="vps1", only=["etc/one"])
    assert (place.etc / "one").read_text() == "bad\n"
    assert "replace etc/one" in caplog.text

    restore_host_config(server="vps1", only=["etc/one"], mode="in-place", approve=True)
    assert (place.etc / "one").read_text() == "good\n"
    assert (place.etc / "two").read_text() == "bad\n"


def test_an_older_copy_of_etc_does_not_overwrite_a_newer_one_of_what_lies_below(place: Place) -> None:
    (place.etc / "rancher" / "k3s").mkdir(parents=True)
    (place.etc / "rancher" / "k3s" / "config.yaml").write_text("old\n")

    def edit(document: dict[str, Any]) -> None:
        types = document["servers"]["vps1"]["data_types"]
        for name, path in (("system-config", "etc"), ("k3s-config", "etc/rancher/k3s")):
            types[name] = {
                **types["system-config"],
                "source": {"kind": "directory", "root": str(place.root), "paths": [path], "restores": "overlay"},
                "restore_flow": "restore-host-config",
            }

    place.create(edit)
    backup_vps1(only=["system-config"])
    (place.etc / "rancher" / "k3s" / "config.yaml").write_text("newer\n")
    backup_vps1(only=["k3s-config"])
    (place.etc / "rancher" / "k3s" / "config.yaml").write_text("broken\n")
    (place.etc / "passwd").unlink()

    restore_host_config(server="vps1", mode="in-place", approve=True, with_identity=True)

    assert (place.etc / "rancher" / "k3s" / "config.yaml").read_text() == "newer\n"
    assert (place.etc / "passwd").exists()


def test_host_config_says_which_path_or_data_type_is_unknown(place: Place) -> None:
    as_overlay(place, place.root)
    backup_vps1()

    with pytest.raises(RestoreRefusedError, match="only etc/no-such"):
        restore_host_config(server="vps1", only=["etc/no-such"])
    with pytest.raises(RestoreRefusedError, match="data type 'website': not put back by this restore"):
        restore_host_config(server="vps1", data_types=["website"])


def test_listing_tells_what_is_held_and_what_is_not_trusted(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = backup_vps1(), backup_vps1()
    edit_manifest(place.snapshots()[-1])

    list_snapshots(server="vps1")

    assert f"| {good} | complete | website, system-config |" in caplog.text
    assert f"| {bad} | **not trusted**" in caplog.text


def test_pruning_by_hand_says_what_it_would_do_and_does_nothing_by_default(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    backup_vps1()
    before = place.files()

    prune_snapshots(server="vps1")

    assert place.files() == before
    assert "newest good copy" in caplog.text


def test_in_place_on_another_known_host_is_refused(place: Place) -> None:
    backup_vps1()
    place.play("vps3")
    before = describe(place.site)

    with pytest.raises(RestoreRefusedError, match="vps1 lives on vps1, and this host is vps3"):
        restore(mode="in-place", approve=True)

    assert describe(place.site) == before
