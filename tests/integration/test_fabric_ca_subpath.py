"""CAs whose home lies in a folder of a claim, or on none beside a claim of something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from gxbackup.adapters.cluster import Pod
from gxbackup.adapters.pod_mounts import PodMount
from gxbackup.errors import RestoreRefusedError
from gxbackup.fabric import ca_restore
from gxbackup.fabric.ca_home import CaHome, home_of
from tests.integration.test_fabric_crypto import SOURCE, make_ca
from tests.local_cluster import VOLUME, FolderPlace, LocalCluster
from tests.opened import read, work

CLAIM = "data-ca-root-0"


class Mounted(LocalCluster):
    """A CA's pod that sees `below` of its claim as its home, by what it mounts."""

    def __init__(self, volume: Path, below: str, *mounts: PodMount) -> None:
        super().__init__({"ca-root-0": volume})
        self._seen = volume / below
        self._mounts = mounts

    def pods(self, namespace: str, selector: str = "") -> tuple[Pod, ...]:
        found = super().pods(namespace, selector)
        return tuple(pod.model_copy(update={"mounts": self._mounts, "claims": {CLAIM: ""}}) for pod in found)

    def place(
        self, namespace: str, pod: str | None = None, selector: str | None = None, container: str | None = None
    ) -> FolderPlace:
        return FolderPlace(super().place(namespace, pod, selector, container).name, self._seen)


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ca_restore, "CLAIM_FOLDER", VOLUME)
    make_ca(tmp_path / "claim" / "ca1", "ca-root")
    return tmp_path / "claim"


def test_a_home_in_a_folder_of_its_claim_is_put_back_just_there(volume: Path, tmp_path: Path) -> None:
    cluster = Mounted(volume, "ca1", PodMount(folder=VOLUME, claim=CLAIM, sub_path="ca1"))
    plain = read(SOURCE, cluster.host(), SOURCE.collect(cluster.host(), "fabric-crypto")[0], tmp_path)
    kept = {path.name for path in (volume / "ca1").iterdir()}
    (volume / "ca1" / "written since").touch()

    SOURCE.apply(cluster.host(), work(tmp_path, plain))

    assert {path.name for path in (volume / "ca1").iterdir() if ".gxbackup-" not in path.name} == kept
    (before,) = (volume / "ca1").glob(".gxbackup-before-*")
    assert (before / "written since").exists()
    assert [path.name for path in volume.iterdir()] == ["ca1"]


def test_a_home_on_no_claim_beside_a_claim_of_something_else_is_not_stopped(volume: Path, tmp_path: Path) -> None:
    mounts = (PodMount(folder=VOLUME, claim=None, sub_path=""), PodMount(folder="/etc/x", claim=CLAIM, sub_path="x"))
    cluster = Mounted(volume, "ca1", *mounts)
    plain = read(SOURCE, cluster.host(), SOURCE.collect(cluster.host(), "fabric-crypto")[0], tmp_path)

    with pytest.raises(RestoreRefusedError, match="lies on no claim, and is gone with its pod"):
        SOURCE.apply(cluster.host(), work(tmp_path, plain))

    assert cluster.scaled == []


def test_a_copy_that_does_not_tell_where_on_its_claim_it_lay_is_not_put_anywhere(volume: Path, tmp_path: Path) -> None:
    cluster = Mounted(volume, "ca1", PodMount(folder=VOLUME, claim=CLAIM, sub_path="ca1"))
    plain = read(SOURCE, cluster.host(), SOURCE.collect(cluster.host(), "fabric-crypto")[0], tmp_path)
    older = {key: value for key, value in plain.capture.settings.items() if key != "sub_path"} | {"mount": ""}
    plain = plain._replace(capture=plain.capture.model_copy(update={"settings": older}))

    with pytest.raises(RestoreRefusedError, match=f"does not tell where on claim {CLAIM} it lies"):
        SOURCE.apply(cluster.host(), work(tmp_path, plain))

    assert cluster.scaled == []


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ([("/home", "c", "")], CaHome("/home/ca", "c", "/home", "")),
        ([("/home", "c", ""), ("/home/ca", "d", "ca1")], CaHome("/home/ca", "d", "/home/ca", "ca1")),
        ([("/home", "c", ""), ("/home/ca", None, "")], CaHome("/home/ca")),
        ([("/home/ca/msp", "c", "")], CaHome("/home/ca/msp", "c", "/home/ca/msp", "")),
        ([("/home/ca", "c", None)], CaHome("/home/ca")),
        ([("/home/c", "c", "")], CaHome("/home/ca")),
    ],
)
def test_what_is_mounted_further_in_hides_what_is_mounted_further_out(
    mounts: list[tuple[str, str | None, str | None]], expected: CaHome
) -> None:
    (pod,) = LocalCluster({"ca-root-0": Path("/")}).pods("fabric")
    told = tuple(PodMount(folder=folder, claim=claim, sub_path=below) for folder, claim, below in mounts)

    assert home_of(pod.model_copy(update={"mounts": told}), "/home/ca") == expected
