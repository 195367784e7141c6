"""`scripts/setup`: whatever is missing is one line that names it and how to get it, and an exit status of 1."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
# What the script itself stands on; everything else is put into PATH by a test, or is missing.
PLAIN = ("bash", "env", "dirname", "mkdir", "id", "sort", "grep", "tail", "cat", "sha256sum", "rm", "mktemp")
RUNTIME = ("age", "zstd", "tar", "setpriv", "flock")
# A host cannot be robbed of a directory of programs; in this copy the script looks into PATH alone.
OWN_PLACES = ("PATH=$PATH:/usr/sbin:/sbin\n", " /usr/bin/python3.11")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    copy = tmp_path / "project"
    (copy / "scripts").mkdir(parents=True)
    text = (PROJECT / "scripts" / "setup").read_text()
    for place in OWN_PLACES:
        assert place in text
        text = text.replace(place, "")
    (copy / "scripts" / "setup").write_text(text)
    (copy / "scripts" / "setup").chmod(0o755)
    for name in ("requirements.lock", "pyproject.toml"):
        shutil.copy(PROJECT / name, copy)
    (copy / "bin").mkdir()
    for program in PLAIN:
        (copy / "bin" / program).symlink_to(str(shutil.which(program)))
    return copy


def provide(project: Path, *programs: str, does: str = "exit 0") -> None:
    for program in programs:
        (project / "bin" / program).write_text(f"#!/bin/sh\n{does}\n")
        (project / "bin" / program).chmod(0o755)


def set_up(project: Path, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(project / "bin"), "HOME": str(project), **extra}
    return subprocess.run(
        [project / "scripts" / "setup", *words], env=environment, text=True, capture_output=True, check=False
    )


def complaint(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 1
    return done.stderr.splitlines()


def test_missing_programs_are_named_where_this_is_no_debian(project: Path) -> None:
    provide(project, "tar", "setpriv", "flock")

    said = complaint(set_up(project, "runtime"))

    assert said == [
        "setup: missing: age zstd",
        "HINT: this is no Debian: install them with this system's own packages, then run this again",
    ]


def test_somebody_who_is_not_root_is_told_what_root_should_type(project: Path) -> None:
    provide(project, "tar", "setpriv", "flock", "apt-get")
    (project / "bin" / "id").unlink()
    provide(project, "id", does="echo 1000")

    said = complaint(set_up(project, "runtime"))

    assert said == ["setup: missing: age zstd", "HINT: as root: apt-get install age zstd"]


@pytest.mark.parametrize(
    ("apt", "message"),
    [
        ("echo 'E: no mirror answers'; exit 100", "setup: missing: age; apt-get update failed: E: no mirror answers"),
        (
            "[ $1 = update ] || { echo 'E: Unable to locate package age'; exit 100; }",
            "setup: missing: age; apt-get install failed: E: Unable to locate package age",
        ),
    ],
)
def test_a_package_that_cannot_be_had_is_named_with_the_reason(project: Path, apt: str, message: str) -> None:
    provide(project, "zstd", "tar", "setpriv", "flock")
    provide(project, "apt-get", does=apt)

    said = complaint(set_up(project, "runtime"))

    assert said[0] == message
    assert said[1].endswith(f"the whole log: {project}/.cache/setup.log")


def test_a_python_that_is_only_a_shim_is_no_python(project: Path) -> None:
    provide(project, *RUNTIME)
    provide(project, "python3.11", does="echo python3.11: command not found >&2; exit 127")

    said = complaint(set_up(project, "runtime"))

    assert said[0] == "setup: missing: python3.11 python3.11-venv"


def test_packages_that_no_index_has_are_told_with_the_log(project: Path) -> None:
    provide(project, *RUNTIME)
    (project / "bin" / "python3.11").symlink_to(os.path.realpath(PROJECT / ".venv" / "bin" / "python"))
    (project / "requirements.lock").write_text(f"nowhere-to-be-had==1.0 --hash=sha256:{'0' * 64}\n")

    said = complaint(set_up(project, "runtime", PIP_NO_INDEX="1"))

    assert said[0].startswith("setup: Python packages are missing: ERROR: ")
    assert "nowhere-to-be-had" in said[0]
    assert "HINT: is there a network, or a package mirror" in said[1]
    assert not (project / ".venv" / ".installed").exists()


def test_an_unknown_set_is_told_with_those_that_there_are(project: Path) -> None:
    said = complaint(set_up(project, "everything"))

    assert said == ["setup: unknown set 'everything'", "HINT: one of: runtime, rehearsal, test, bench"]


def test_nothing_is_done_where_nothing_is_missing(project: Path) -> None:
    provide(project, *RUNTIME, "python3.11")
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / ".venv" / "bin" / "python").symlink_to(project / "bin" / "python3.11")

    first, second = set_up(project, "runtime"), set_up(project, "runtime")
    (project / "requirements.lock").write_text("")
    changed = set_up(project, "runtime")

    installing = "setup: installing the Python packages of requirements.lock into .venv\n"
    assert [done.returncode for done in (first, second, changed)] == [0, 0, 0]
    assert [done.stdout for done in (first, second, changed)] == [installing, "", installing]
