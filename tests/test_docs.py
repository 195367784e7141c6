"""The documents are held like code: every command in them is one that runs, every link leads somewhere."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import reference
import yaml
from prefect import Flow
from pydantic import TypeAdapter

from flows import command_line
from gxbackup.adapters import process

PROJECT = Path(__file__).resolve().parent.parent
PAGES = sorted([PROJECT / "README.md", *(PROJECT / "docs").rglob("*.md")])
# Programs of others that the pages name, each with its words left to its own manual.
OTHERS = {"age-keygen", "apt-get", "cd", "export", "git", "set", "systemctl"}
# The shell that the pages mean: Debian itself has neither `python` nor `prefect`.
SHELL = """cd /opt/gx-backup
export PATH=/opt/gx-backup/.venv/bin:$PATH
set -a; . /etc/gx-backup/worker.env; set +a
"""


def blocks() -> list[tuple[str, str]]:
    """Return every line of every shell block as (page, command)."""
    found = []
    for page in PAGES:
        for body in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            found += [(str(page.relative_to(PROJECT)), line) for line in body.splitlines() if line.strip()]
    return found


def deployments() -> dict[str, Any]:
    document = yaml.safe_load((PROJECT / "prefect.yaml").read_text(encoding="utf-8"))
    return {deployment["name"]: deployment for deployment in document["deployments"]}


def flow_of(entrypoint: str) -> Flow[..., Any]:
    path, _, name = entrypoint.partition(":")
    flow = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
    assert isinstance(flow, Flow)
    return flow


def check_deployment_run(words: list[str]) -> None:
    name, *options = words
    assert name.partition("/")[0] in deployments(), f"no deployment {name}"
    flow = flow_of(deployments()[name.partition("/")[0]]["entrypoint"])
    given = dict(word.split("=", 1) for word in options if "=" in word)
    parameters = {key: TypeAdapter(Any).validate_python(yaml.safe_load(value)) for key, value in given.items()}
    flow.validate_parameters(parameters)
    assert {word for word in options if "=" not in word} <= {"-p", "--watch"}
    required = flow.parameters.required or []
    assert set(required) <= set(given), f"{name}: {required} must be given"


def check_python_module(words: list[str]) -> None:
    module, *options = words
    if module.startswith("flows."):
        flow = flow_of(f"flows/{module.partition('.')[2]}.py:{module.partition('.')[2]}")
        command_line._parser(flow).parse_args(options)
    else:
        assert importlib.util.find_spec(module) is not None


def check_make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert [word for word in words if "=" not in word and word not in targets] == []


@pytest.mark.parametrize(("page", "line"), blocks())
def test_every_command_in_the_documents_is_one_that_runs(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)

    match words:
        case ["prefect", "deployment", "run", *rest]:
            check_deployment_run(rest)
        case ["python", "-m", *rest]:
            check_python_module(rest)
        case ["make", *rest]:
            check_make(rest)
        case ["cp", source, _]:
            assert (PROJECT / source).exists()
        case [".venv/bin/rclone", "lsd", _]:
            assert (PROJECT / ".venv/bin/rclone").exists()
        case [program, *_]:
            assert program in OTHERS, f"{page}: {program}: held by no test"


@pytest.mark.parametrize(
    "page", ["README.md", "docs/how-to/set-up-a-host.md", "docs/runbooks/README.md", "docs/runbooks/restore-website.md"]
)
def test_who_starts_from_nothing_is_told_the_shell_before_the_first_command_that_needs_it(page: str) -> None:
    text = (PROJECT / page).read_text(encoding="utf-8")

    before, shell, _ = text.partition(SHELL)

    assert shell
    assert re.findall(r"^(?:python|prefect|make deploy)\b.*", before, re.MULTILINE) == []


def test_a_shell_can_read_the_workers_settings() -> None:
    example = PROJECT / "deployments" / "systemd" / "worker.env.example"

    told = process.run(["sh", "-euc", f"set -a; . {example}; set +a; env"], timeout_seconds=30, cwd=PROJECT)

    assert b"\nPREFECT_API_URL=http://127.0.0.1:4200/api\n" in told.stdout
    assert b"\nRCLONE_CONFIG=/etc/gx-backup/rclone.conf\n" in told.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)

    broken = [
        link
        for link in re.findall(r"\]\(([^)#]+)", text)
        if not link.startswith("http") and not (page.parent / link).exists()
    ]

    assert broken == []


@pytest.mark.parametrize("path", reference.pages(), ids=lambda path: path.name)
def test_generated_pages_are_what_the_code_says(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == reference.pages()[path], "run `make docs`"


@pytest.mark.parametrize("name", [name for name in deployments() if not name.startswith("backup-")])
def test_everything_that_a_person_starts_has_its_runbook(name: str) -> None:
    page = (PROJECT / "docs" / "runbooks" / f"{name}.md").read_text(encoding="utf-8")

    assert page.startswith(f"# {name}\n")
    assert f"prefect deployment run {name}" in page


@pytest.mark.parametrize("name", [name for name in deployments() if name.startswith(("restore-", "recover-"))])
def test_every_restore_has_a_page_with_meaning_impact_diagnosis_and_mitigation(name: str) -> None:
    page = (PROJECT / "docs" / "runbooks" / f"{name}.md").read_text(encoding="utf-8")

    headings = re.findall(r"^## .*$", page, re.MULTILINE)
    assert headings == ["## Meaning", "## Impact", "## Diagnosis", "## Mitigation"]


def test_every_runbook_is_found_from_the_first_page() -> None:
    index = (PROJECT / "docs" / "runbooks" / "README.md").read_text(encoding="utf-8")

    missing = [page.name for page in (PROJECT / "docs" / "runbooks").glob("*.md") if f"({page.name})" not in index]

    assert missing == ["README.md"]
