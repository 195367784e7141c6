"""The exchange of keys on a claim, cut between any two of its moves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from gxbackup.fabric import claim_restore
from tests.crypto_files import identity, make_msp, tree


@pytest.mark.parametrize("moves", range(1, 6))
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_before_or_after_any_move_it_is_whole_again(tmp_path: Path, when: str, moves: int) -> None:
    claim, programs = tmp_path / "claim", tmp_path / "bin"
    programs.mkdir()
    make_msp(claim / "msp", "old")
    (claim / "ledger").write_text("stays")
    before = tree(claim)
    make_msp(claim / ".gxbackup-new" / "msp", "new")
    identity(claim / ".gxbackup-new" / "tls" / "server.crt", claim / ".gxbackup-new" / "tls" / "server.key", "new")
    mover = programs / "mv"
    mover.write_text(
        f'#!/bin/sh\necho >>{tmp_path}/moved\n[ "$(wc -l <{tmp_path}/moved)" = {moves} ] && dies={when}\n'
        f'[ "$dies" != before ] || {{ kill -9 $PPID; exit; }}\n{shutil.which("mv")} "$@" || exit\n'
        f'[ "$dies" != after ] || kill -9 $PPID\n'
    )
    mover.chmod(0o755)
    (tmp_path / "moved").touch()

    def shell(script: str, path: str) -> int:
        argv = ["sh", "-c", script, "sh", str(claim), ".gxbackup-before-1"]
        ended = subprocess.run(argv, env={"PATH": path}, input=b"msp\ntls\n", check=False)  # no other variable is used
        return ended.returncode

    assert shell(claim_restore._EXCHANGE, f"{programs}:/usr/bin:/bin") == -9
    assert shell(claim_restore._RECOVER, "/usr/bin:/bin") == 0

    new = (when, moves) == ("after", 5)  # the last move ends the exchange
    assert (tree(claim) == before) is not new
    assert tree(claim)["ledger"] == b"stays"
