"""The line that `make keys` prints goes over the host's own in the inventory, and no older key loses its trust."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from gxbackup import inventory, signing

PROJECT = Path(__file__).resolve().parent.parent.parent


def keys(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key_file: Path) -> str:
    """Do `make keys HOST=vps4` with a key file, and return the line for the inventory."""
    monkeypatch.setenv("GX_SIGNING_KEY_FILE", str(key_file))
    monkeypatch.setattr(sys, "argv", ["signing", "vps4"])
    assert signing.main() == 0
    return capsys.readouterr().out.splitlines()[-1]


def test_the_line_replaces_the_hosts_own_and_keeps_what_an_older_key_signed_trusted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    mine = tmp_path / "inventory.yaml"
    mine.write_text((PROJECT / "deployments" / "inventory.yaml").read_text(encoding="utf-8"))
    monkeypatch.setenv("GX_INVENTORY", str(mine))
    for number in (1, 1, 2):  # the second time the same key, then that of a machine that replaces it
        line = keys(monkeypatch, capsys, tmp_path / f"{number}.key")
        mine.write_text(re.sub(r"^  vps4: \{.*$", line, mine.read_text(), flags=re.MULTILINE))

    expected = tuple(signing.public_text(signing.load_key(tmp_path / f"{number}.key")) for number in (1, 2))
    assert inventory.load().hosts["vps4"] == inventory.HostSettings(pool="vps4", signers=expected)


@pytest.mark.parametrize(("words", "fault"), [([], "no host is named"), (["vps9"], "no host vps9 in ")])
def test_without_a_host_of_the_inventory_no_key_is_made(
    words: list[str], fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("GX_SIGNING_KEY_FILE", str(tmp_path / "signing.key"))
    monkeypatch.setenv("GX_INVENTORY", str(PROJECT / "deployments" / "inventory.yaml"))
    monkeypatch.setattr(sys, "argv", ["signing", *words])

    status = signing.main()

    told = capsys.readouterr()
    assert (status, told.out) == (1, "")
    message, hint = told.err.splitlines()
    assert message.startswith(f"make keys: {fault}")
    assert hint.startswith("HINT: make keys HOST=…, one of: vps1, vps2, vps3, vps4, vps5; ")
    assert not (tmp_path / "signing.key").exists()
