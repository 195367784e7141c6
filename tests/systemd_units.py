"""What the systemd units and the example files beside them set."""

from __future__ import annotations

from pathlib import Path

DEPLOYMENTS = Path(__file__).resolve().parent.parent / "deployments"


def unit(name: str) -> dict[str, list[str]]:
    """Return a unit's settings; one that is given more than once has more than one value."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOYMENTS / "systemd" / name).read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def unit_settings(name: str, example: str, home: Path) -> dict[str, str]:
    """Return what a unit and its example file set for Prefect, for a machine whose /var/lib is `home`."""
    lines = [*unit(name)["Environment"], *(DEPLOYMENTS / "systemd" / example).read_text().splitlines()]
    pairs = (line.split("=", 1) for line in lines if line.startswith("PREFECT_"))
    return {key: value.replace("/var/lib", str(home)) for key, value in pairs}
