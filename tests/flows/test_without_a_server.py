"""A flow from the shell where no Prefect server is: what is printed is what the operator needs, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from estate import PROJECT, Estate

from tests.flows.conftest import Place

DEAD = "http://127.0.0.1:9/api"
# What Prefect says of itself where its temporary server is not well, or wants to talk to others.
NOISE = ("Traceback", "telemetry", "database is locked", "EventsWorker", "Error emitting event")


def start(place: Estate, module: str, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run a flow as an operator does, with the settings of a fresh machine: none of those that tests set."""
    environment = {name: value for name, value in place.environment().items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(place.root / "prefect"), **extra}
    return subprocess.run(
        [sys.executable, "-m", f"flows.{module}", *words], cwd=PROJECT, env=environment, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
    )  # fmt: skip


def require_quiet(printed: str) -> None:
    assert [noise for noise in NOISE if noise in printed] == [], printed


def profile(home: Path) -> None:
    """Have a profile name the server that burned down, as `prefect config set` writes it."""
    home.mkdir()
    (home / "profiles.toml").write_text(f'active = "ephemeral"\n\n[profiles.ephemeral]\nPREFECT_API_URL = "{DEAD}"\n')


@pytest.mark.parametrize(
    ("settings", "has_profile"),
    [({}, False), ({"PREFECT_API_URL": ""}, True), ({"PREFECT_API_URL": DEAD, "PREFECT_PROFILE": "ephemeral"}, True)],
)
def test_a_run_without_a_server_prints_no_word_of_prefects_own_trouble(
    place: Place, settings: dict[str, str], has_profile: bool
) -> None:
    if has_profile:
        profile(place.root / "prefect")

    done = start(place, "list_snapshots", "--server", "vps1", **settings)

    assert done.returncode == 0, done.stdout
    assert "# Snapshots held" in done.stdout
    assert ("does not answer: running without one" in done.stdout) is bool(settings.get("PREFECT_API_URL"))
    require_quiet(done.stdout)


def test_a_backup_and_a_refused_restore_without_a_server_say_their_own_words_alone(place: Place) -> None:
    done = start(place, "backup_vps1")
    assert done.returncode == 0, done.stdout
    require_quiet(done.stdout)

    refused = start(place, "restore_website", "--snapshot", "20200101_000000")

    assert refused.returncode == 1
    said = "RestoreRefusedError: website 20200101_000000: refused: there is no such snapshot in vps1-website\nHINT: "
    assert f"\n{said}" in refused.stdout
    require_quiet(refused.stdout)
