"""One embedded Prefect server for all flow tests, and a small estate of its own for each test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from estate import Estate
from site_tree import make_website

from flows.restore_website import restore_website
from gxbackup.model import Manifest
from tasks import host
from tests import small_disks as disks
from tests.prefect_server import serving_flows


@pytest.fixture(scope="session", autouse=True)
def prefect_server() -> Iterator[None]:
    with serving_flows():
        yield


class Place(Estate):
    """An estate that this very process plays a host of."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(root)
        self.site = root / "www" / "gxcoin.money"
        self.etc = root / "etc"
        self._monkeypatch = monkeypatch

    def create(self, edit: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Two data types on vps1: a website and a small /etc; `edit` may change the inventory further."""

        def reduce(document: dict[str, Any]) -> None:
            website = document["servers"]["vps1"]["data_types"]["website"]
            website["source"]["root"] = str(self.site)
            config = {**website, "source": {"kind": "directory", "root": str(self.etc)}, "keep_days": 90}
            document["servers"]["vps1"]["data_types"] = {"website": website, "system-config": config}
            if edit is not None:
                edit(document)

        super().create(reduce)
        self.play("vps1")

    def play(self, name: str, **extra: str) -> None:
        """Be this host from now on."""
        for variable, value in {**self.environment(name), **extra}.items():
            if variable.startswith(("GX_", "RCLONE_")):
                self._monkeypatch.setenv(variable, value)
        for cached in (host.inventory, host.remote, host.host):
            cached.cache_clear()

    def snapshots(self) -> list[Path]:
        """Return the snapshot folders of vps1 on the remote, oldest first."""
        folder = self.remote / "vps1-website"
        return sorted(folder.iterdir()) if folder.exists() else []

    def files(self) -> dict[str, bytes]:
        """Return every file on the remote with its content."""
        return {
            str(file.relative_to(self.remote)): file.read_bytes() for file in self.remote.rglob("*") if file.is_file()
        }

    def staged(self) -> list[str]:
        """Return what lies in staging besides the memory of what was written last."""
        return [entry.name for entry in self.staging.iterdir() if entry.name != "last-written"]


def restore(**parameters: Any) -> None:
    restore_website(**{"restart_container": "", **parameters})


def behind_a_login(place: Place, edit: Callable[[dict[str, Any]], None]) -> Path:
    """Reach the remote by rclone's configuration alone, and return that file: moved away, the remote is cut off."""
    login = place.root / "rclone.conf"
    login.write_text(f"[drive]\ntype = alias\nremote = {place.remote.parent}\n")

    def with_login(document: dict[str, Any]) -> None:
        edit(document)
        document["remote"]["path"] = f"drive:{place.remote.name}"

    place.create(with_login)
    return login


def beside(place: Place) -> list[str]:
    """What lies beside the website's folder."""
    return sorted(entry.name for entry in place.site.parent.iterdir() if entry != place.site)


def manifest_of(folder: Path) -> Manifest:
    return Manifest.model_validate_json((folder / "manifest.json").read_bytes())


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The keys of all hosts and recipients, made once: what matters is that each place has its own copy."""
    made = Estate(tmp_path_factory.mktemp("keys"))
    made.create()
    return made.root / "keys"


@pytest.fixture
def place(keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    made = Place(tmp_path / "estate", monkeypatch)
    shutil.copytree(keys, made.root / "keys")
    made.site.mkdir(parents=True)
    make_website(made.site)
    made.etc.mkdir()
    (made.etc / "hostname").write_text("vps1\n")
    (made.etc / "passwd").write_text("root:x:0:0::/root:/bin/bash\n")
    made.create()
    yield made
    made.stop()
    for cached in (host.inventory, host.remote, host.host):
        cached.cache_clear()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real ext4 of 24 MiB."""
    with disks.small_disk(tmp_path / "disk", 24 * 1024**2) as disk:
        yield disk
